"""Where trials are read from: their journals, which hold everything, or MLflow, which mirrors them."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from deltalab.study import ledger
from deltalab.track.points import History, history


class Source(Enum):
    """Who tells of a study's trials."""

    journals = "journals"
    mlflow = "mlflow"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a source tells of a trial.

    Attributes:
        history: its record and points.
        tokens_per_step: tokens of a training batch; 0 where nothing has run.
        provenance: commit, dirty, hardware, as far as they are known.
    """

    history: History
    tokens_per_step: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)


def from_journals(runs: Path, trials: Sequence[str]) -> Iterator[Told]:
    """The trials as their run directories say, in order; Arrow's reader lets threads work side by side."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield from pool.map(lambda trial: _from_journal(runs, trial), trials)


def _from_journal(runs: Path, trial: str) -> Told:
    run_dir = ledger.trial_dir(runs, trial)
    found = history(run_dir)
    ledger.weighed(runs, trial, found.record)
    config = _read(run_dir / "config.json")
    per_step = config["train"]["batch_size"] * config["data"]["train_length"] if config else 0
    return Told(history=found, tokens_per_step=per_step, provenance=_read(run_dir / "provenance.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def from_mlflow(runs: Path, study: str, trials: Sequence[str]) -> dict[str, Told]:
    """The trials as the study's MLflow experiment says; of those it lacks nothing is known.

    Raises:
        MirrorFailed: the server could not be reached, or it holds no mirror of the study.
    """
    from deltalab.track.mirrored import mirrored

    there = mirrored(runs, study)
    found = {}
    for trial in trials:
        if trial not in there:
            found[trial] = Told(history=History())
            continue
        run = there[trial]
        found[trial] = Told(
            history=run.history,
            tokens_per_step=int(run.params["train.batch_size"]) * int(run.params["data.train_length"]),
            provenance={"commit": run.tags.get("deltalab.commit")},
        )
    return found
