"""Where studies and trials live on disk, and what is known of them.

RUNS/trials/<trial id>/          a run directory (see track.journal)
RUNS/studies/<study>/study.json  which cells and trials a study asks for
RUNS/studies/<study>/report/     what analysis.compare wrote
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deltalab.errors import NotFoundError
from deltalab.spec.study import StudySpec
from deltalab.spec.trial import TrialSpec, to_plain
from deltalab.track import journal
from deltalab.track.claim import alive
from deltalab.track.files import write_atomic
from deltalab.track.journal import Record, State


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """A cell as it was planned.

    Attributes:
        name: ``variant=kda pattern=hybrid``, in the order of the study's factors.
        levels: factor → level.
        overrides: dotted key → value that makes the cell (study overrides, levels, solved widths).
        excluded: why the cell is not run, or None.
        parameters: trainable parameters.
        state_size: recurrent state, floats per sequence over all layers.
        cache_size: floats per sequence that attention layers keep.
        flops_per_token: forward floating-point operations per token at the training length.
        mismatch: relative difference in parameters from the baseline.
        trials: seed → trial id (empty when excluded).
    """

    name: str
    levels: dict[str, str]
    overrides: dict[str, Any]
    excluded: str | None = None
    parameters: int = 0
    state_size: int = 0
    cache_size: int = 0
    flops_per_token: int = 0
    mismatch: float = 0.0
    trials: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as it was last launched.

    Attributes:
        study: the StudySpec as plain JSON values (``name``, ``question``, ``baseline``, ``factors``, ``metrics`` …).
        cells: every cell, excluded ones too, baseline first.
        created: seconds since the epoch of the last launch.
        command: the command line that launched it.
        provenance: commit, dirty, versions, hardware (track.provenance).
    """

    study: dict[str, Any]
    cells: list[CellRecord]
    created: float
    command: str
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        return self.study["name"]


def trial_dir(runs: Path, trial_id: str) -> Path:
    """Run directory of a trial."""
    return runs / "trials" / trial_id


def study_dir(runs: Path, name: str) -> Path:
    """Folder of a study's record and report."""
    return runs / "studies" / name


def write_study(
    runs: Path, study: StudySpec, cells: list[CellRecord], command: str, provenance: dict[str, Any]
) -> StudyRecord:
    """Record a study; trials it no longer names keep their run directories."""
    record = StudyRecord(
        study=to_plain(study), cells=cells, created=time.time(), command=command, provenance=provenance
    )
    write_atomic(study_dir(runs, study.name) / "study.json", json.dumps(asdict(record), indent=1))
    return record


def read_study(runs: Path, name: str) -> StudyRecord:
    """The last record of a study.

    Raises:
        NotFoundError: no study of this name was launched from this runs folder.
    """
    path = study_dir(runs, name) / "study.json"
    if not path.exists():
        known = ", ".join(list_studies(runs)) or "none"
        raise NotFoundError(f"study={name}: not launched yet in {runs}; launched: {known}")
    plain = json.loads(path.read_text())
    cells = [
        CellRecord(**{**cell, "trials": {int(s): t for s, t in cell["trials"].items()}}) for cell in plain.pop("cells")
    ]
    return StudyRecord(cells=cells, **plain)


def list_studies(runs: Path) -> list[str]:
    """Names of launched studies, newest first."""
    found = sorted((runs / "studies").glob("*/study.json"), key=lambda p: -p.stat().st_mtime)
    return [path.parent.name for path in found]


def freeze(runs: Path, spec: TrialSpec) -> Path:
    """Write a trial's config.json once and return its run directory."""
    folder = trial_dir(runs, spec.trial_id)
    path = folder / "config.json"
    if not path.exists():
        write_atomic(path, json.dumps(spec.to_dict(), indent=1))
    return folder


def load_spec(run_dir: Path) -> TrialSpec:
    """The frozen spec of a run directory."""
    path = run_dir / "config.json"
    if not path.exists():
        raise NotFoundError(f"{run_dir}: no config.json, so this is no run directory")
    return TrialSpec.from_dict(json.loads(path.read_text()))


def record_of(runs: Path, trial_id: str) -> Record:
    """What the trial's journal says, with ``running`` turned to ``lost`` when its heartbeat stopped."""
    folder = trial_dir(runs, trial_id)
    record = journal.read(folder)
    if record.state is State.running and not alive(folder):
        record.state = State.lost
    return record


def state_of(runs: Path, trial_id: str) -> State:
    """The state alone."""
    return record_of(runs, trial_id).state
