"""Where studies and trials live on disk, and what is known of them.

RUNS/trials/<trial id>/          a run directory (see track.journal)
RUNS/submissions/<token>/        what a launch handed to workers (see study.submissions)
RUNS/studies/<study>/study.json  which cells and trials a study asks for
RUNS/studies/<study>/report/     what analysis.compare wrote
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deltalab.errors import NotFoundError
from deltalab.spec.evaluation import Work, measured_study, read_work
from deltalab.spec.launcher import Kind, LauncherSpec
from deltalab.spec.study import StudySpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.spec.trial import TrialSpec, to_plain
from deltalab.study import submissions
from deltalab.track import journal
from deltalab.track.claim import alive
from deltalab.track.files import write_atomic
from deltalab.track.journal import Record, State

HERE = (Kind.local.value, Kind.inline.value)
"""Launches whose trials wait for the launching process and for nothing else."""
CALIBRATION = "-calibration"
"""End of the name of a study that a calibration runs."""


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """A cell as it was planned.

    Attributes:
        name: ``variant=kda pattern=hybrid``, in the order of the study's factors.
        levels: factor → level.
        overrides: dotted key → value that makes the cell (study overrides, levels, solved widths).
        excluded: why the cell is not run, or None.
        layers: layer of the pattern → how many of the blocks have it.
        mlp_width: hidden width of the SwiGLU, 0 without.
        budget: parameters that the configuration asks for, or None where it gives the widths.
        budget_vocab: tokens of the vocabulary that the budget is counted with, or None for the model's own.
        parameters: trainable parameters.
        state_size: recurrent state, floats per sequence over all layers.
        layer_state: recurrent state of one layer that has any.
        state_mismatch: relative difference of that from the gated delta rule's in a model of this shape.
        cache_size: floats per sequence that attention layers keep.
        flops_per_token: forward floating-point operations per token at the training length.
        mismatch: relative difference in parameters from the budget, or from the baseline where there is none.
        trials: seed → trial id (empty when excluded, or when ``tune`` has not chosen yet).
        equivalent: name of the first cell that computes the same, or None. Under ``equivalence: share`` its trials
            are this cell's trials.
        tuning: ``train.lr=1e-3`` → seed → trial id, for each value tried of the key that is tuned.
        tuned: the value chosen, or None.
    """

    name: str
    levels: dict[str, str]
    overrides: dict[str, Any]
    excluded: str | None = None
    layers: dict[str, int] = field(default_factory=dict)
    mlp_width: int = 0
    budget: int | None = None
    budget_vocab: int | None = None
    parameters: int = 0
    state_size: int = 0
    layer_state: int = 0
    state_mismatch: float = 0.0
    cache_size: int = 0
    flops_per_token: int = 0
    mismatch: float = 0.0
    trials: dict[int, str] = field(default_factory=dict)
    equivalent: str | None = None
    tuning: dict[str, dict[int, str]] = field(default_factory=dict)
    tuned: str | None = None

    @property
    def waits(self) -> bool:
        """Whether its trials are not known before the tuning trials have ended."""
        return bool(self.tuning) and self.tuned is None

    @property
    def tuning_trials(self) -> list[str]:
        """The trials that tune, value by value."""
        return [trial for seeds in self.tuning.values() for trial in seeds.values()]

    def named_trials(self) -> Iterator[tuple[str, str]]:
        """(name, trial id) of every trial, those that tune first: ``variant=kda seed=1``."""
        for value, trials in self.tuning.items():
            yield from ((f"{self.name} {value} seed={seed}", trial) for seed, trial in trials.items())
        yield from ((f"{self.name} seed={seed}", trial) for seed, trial in self.trials.items())


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study as it was last launched.

    Attributes:
        study: the StudySpec as plain JSON values (``name``, ``question``, ``baseline``, ``factors``, ``metrics`` …).
        cells: every cell, excluded ones too, baseline first.
        created: seconds since the epoch of the last launch.
        command: the command line that launched it.
        provenance: commit, dirty, versions, hardware (track.provenance).
        launcher: the launcher's options as plain JSON values.
        tracking: the tracking's, likewise.
    """

    study: dict[str, Any]
    cells: list[CellRecord]
    created: float
    command: str
    provenance: dict[str, Any]
    launcher: dict[str, Any]
    tracking: dict[str, Any]

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
    runs: Path,
    study: StudySpec,
    cells: list[CellRecord],
    command: str,
    provenance: dict[str, Any],
    launcher: LauncherSpec | None = None,
    tracking: TrackingSpec | None = None,
) -> StudyRecord:
    """Record a study; trials it no longer names keep their run directories."""
    record = StudyRecord(
        study=to_plain(study),
        cells=cells,
        created=time.time(),
        command=command,
        provenance=provenance,
        launcher=to_plain(launcher or LauncherSpec()),
        tracking=to_plain(tracking or TrackingSpec()),
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
    cells = [_cell(cell) for cell in plain.pop("cells")]
    return StudyRecord(**{"launcher": {}, "tracking": {}, **plain, "cells": cells})


def _cell(plain: dict[str, Any]) -> CellRecord:
    """JSON keeps seeds as text."""
    trials = {int(seed): trial for seed, trial in plain.pop("trials").items()}
    tuning = {
        value: {int(seed): trial for seed, trial in tried.items()} for value, tried in plain.pop("tuning", {}).items()
    }
    return CellRecord(**plain, trials=trials, tuning=tuning)


def list_studies(runs: Path) -> list[str]:
    """Names of launched studies, newest first."""
    found = sorted((runs / "studies").glob("*/study.json"), key=lambda p: -p.stat().st_mtime)
    return [path.parent.name for path in found]


def newest_study(runs: Path) -> str | None:
    """The study launched last, None before there is one; a calibration is none unless it is alone, nor are
    evaluations of a study's trials."""
    launched = list_studies(runs)
    asked = (name for name in launched if not name.endswith(CALIBRATION) and measured_study(name) == name)
    return next(asked, launched[0] if launched else None)


def freeze(runs: Path, spec: Work) -> Path:
    """Write the config.json of a trial, or of an evaluation, and return its run directory.

    Where it is there already only what is no part of the id can differ (where a text lies, how a resumed trial is
    divided among processes): the newest launch's holds.
    """
    folder = trial_dir(runs, spec.trial_id)
    path, frozen = folder / "config.json", json.dumps(spec.to_dict(), indent=1)
    if not path.exists() or path.read_text() != frozen:
        write_atomic(path, frozen)
    return folder


def load_spec(run_dir: Path) -> TrialSpec:
    """The frozen spec of a trial's run directory."""
    return TrialSpec.from_dict(_config(run_dir))


def load_work(run_dir: Path) -> Work:
    """The frozen spec of a run directory, a trial's or an evaluation's."""
    return read_work(_config(run_dir))


def _config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "config.json"
    if not path.exists():
        raise NotFoundError(f"{run_dir}: no config.json, so this is no run directory")
    return json.loads(path.read_text())


def record_of(runs: Path, trial_id: str) -> Record:
    """What the trial's journal says, held against its claim.

    ``running`` is turned to ``lost`` when the heartbeat stopped, and ``queued`` to ``planned`` when the local launch
    that queued it is gone. Of trials in Slurm's queue the scheduler knows more (dispatch.states).
    """
    return weighed(runs, trial_id, journal.read(trial_dir(runs, trial_id)))


def glances(runs: Path, trials: Iterable[str]) -> dict[str, Record]:
    """``record_of`` for many trials, of whose metrics only the newest points are read."""
    lives: dict[str, bool] = {}
    return {trial: weighed(runs, trial, journal.glance(trial_dir(runs, trial)), lives) for trial in trials}


def weighed(runs: Path, trial_id: str, record: Record, lives: dict[str, bool] | None = None) -> Record:
    """The record with its state held against claims; ``lives`` remembers which launches live."""
    lives = {} if lives is None else lives
    if record.state is State.running and not alive(trial_dir(runs, trial_id)):
        record.state = State.lost
    elif record.state is State.queued and record.details.get("kind") in HERE:
        token = record.submission or ""
        if token not in lives:
            lives[token] = alive(submissions.folder_of(runs, token))
        if not lives[token]:
            record.state = State.planned
    return record


def state_of(runs: Path, trial_id: str) -> State:
    """The state alone."""
    return next(iter(glances(runs, [trial_id]).values())).state
