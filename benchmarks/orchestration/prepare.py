"""What is needed before something is measured, in a process of its own so that the measuring one stays small.

``python -m benchmarks.orchestration.prepare complete|run RUNS STUDY`` writes the run directories of a study's trials,
as if they had been trained, or trains them one after another and prints how many seconds that took.
"""

import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from deltalab.dispatch import snapshot
from deltalab.dispatch.launch import plan_named
from deltalab.spec import load
from deltalab.spec.trial import TrialSpec
from deltalab.study import estimates, ledger
from deltalab.track.journal import Journal, State
from deltalab.track.provenance import provenance

LINES, EVALUATIONS = 57, 3
"""Lines of training figures in a journal, and of evaluations."""


def complete(runs: Path, trials: Iterable[TrialSpec]) -> None:
    """Write run directories of completed trials."""
    origin = provenance(load.ROOT) | {"snapshot": snapshot.take(load.ROOT, runs)}
    for spec in trials:
        folder = ledger.freeze(runs, spec)
        (folder / "provenance.json").write_text(json.dumps(origin, indent=1))
        _write_journal(folder, spec)
        estimates.learn(runs, spec, folder)


def _write_journal(folder: Path, spec: TrialSpec) -> None:
    journal, steps = Journal(folder), spec.train.steps
    journal.state(State.queued, submission="bench-00000000", kind="local")
    journal.state(State.running, device="cpu", threads=1, steps=steps)
    for line in range(1, LINES + 1):
        step, loss = line * steps // LINES, 0.7 * math.exp(-line / 30) + 0.001 * spec.seed
        figures = {"loss": loss, "accuracy": 1 - loss / 2, "grad_norm": 0.3 + loss / 7, "lr": spec.train.lr}
        journal.metrics(step, {f"train/{name}": value for name, value in figures.items()} | _speed(line))
        if line % (LINES // EVALUATIONS) == 0:
            journal.metrics(step, _evaluation(spec, loss))
    journal.state(State.completed, step=steps, memory=450_000_000)


def _speed(line: int) -> dict[str, float]:
    return {"train/tokens_per_second": 41234.56789 + line}


def _evaluation(spec: TrialSpec, loss: float) -> dict[str, float]:
    slices = {f"eval/accuracy/{name}": 1 - loss / 3 for name in spec.data.slices}
    return {"eval/loss": loss, "eval/accuracy": 1 - loss / 2, **slices}


def run(runs: Path, trials: list[TrialSpec]) -> float:
    """Train trials one after another in this process; returns seconds, those of imports left out."""
    import torch

    from deltalab.spec.launcher import Device
    from deltalab.train.trial import run_trial

    torch.set_num_threads(1)
    folders = [ledger.freeze(runs, spec) for spec in trials]
    start = time.perf_counter()
    for spec, folder in zip(trials, folders, strict=True):
        run_trial(spec, folder, Device.cpu)
    return time.perf_counter() - start


def main(what: str, runs: str, study: str) -> None:
    """Plan the study and prepare its trials."""
    folder = Path(runs)
    trials = list(plan_named(study, [], folder).trials.values())
    if what == "complete":
        complete(folder, trials)
    else:
        print(run(folder, trials))


if __name__ == "__main__":
    main(*sys.argv[1:])
