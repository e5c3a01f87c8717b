"""``pool``: what the local pool adds to each of many short trials, two workers.

The trials' own running time is measured with all of them one after another in one process, its start and imports left
out; two workers could be through in half of that, and what a launch takes beyond it is overhead, shared out among the
trials. The peer starts every trial at once and has no workers; its trials are the same, run by the same function.
"""

from collections.abc import Callable
from pathlib import Path

from benchmarks.orchestration.desk import Cost, Desk, Failed, learning_rates
from benchmarks.orchestration.rows import Row
from deltalab.track import journal
from deltalab.track.journal import State

WORKERS = 2
LEAST = {
    "train.steps": 1,
    "train.batch_size": 1,
    "train.warmup_steps": 0,
    "eval.sequences": 1,
    "model.mlp_width": 16,
}
"""As near to no trial at all as a trial can be."""


def measure(folder: Path, trials: int, rounds: int, peer: bool) -> list[Row]:
    """Run that many trials, ours and the peer's in turn; the least of each over the rounds."""
    own, ours, theirs = [], [], []
    for turn in range(rounds):
        own.append(_alone(_desk(folder / f"alone-{turn}"), trials))
        ours.append(_ours(_desk(folder / f"ours-{turn}"), trials))
        if peer:
            theirs.append(_peers(_desk(folder / f"peer-{turn}"), trials))

    what, share = f"local pool, {trials:,} trials of a step, each", min(own) / WORKERS

    def row(figure: str, of: Callable[[Cost], float]) -> Row:
        each, theirs_each = (1e3 * min(map(of, costs), default=0.0) / trials for costs in (ours, theirs))
        return Row(what=what, figure=figure, ours=each, peer=theirs_each if theirs else None, unit="ms", beats=True)

    return [
        row("wall time", lambda cost: cost.wall),
        Row(what=what, figure=f"of it its own, over {WORKERS} workers", ours=1e3 * share / trials, unit="ms"),
        row("the rest: overhead", lambda cost: cost.wall - share),
        row("CPU time", lambda cost: cost.cpu),
    ]


def _desk(folder: Path) -> Desk:
    return Desk(folder, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})


def _study(desk: Desk, trials: int) -> str:
    return desk.study("pool", rates=trials // 2, seeds=2, overrides=LEAST)


def _alone(desk: Desk, trials: int) -> float:
    """Seconds of the trials themselves."""
    desk.python("-m", "benchmarks.orchestration.prepare", "run", str(desk.runs), _study(desk, trials))
    _check(desk, trials)
    return float(desk.said().splitlines()[-1])


def _ours(desk: Desk, trials: int) -> Cost:
    options = ("hydra/launcher=local", f"hydra.launcher.workers={WORKERS}", "hydra.launcher.threads=1")
    cost = desk.launch(f"study={_study(desk, trials)}", *options, "hydra.launcher.device=cpu")
    _check(desk, trials)
    return cost


def _peers(desk: Desk, trials: int) -> Cost:
    rates = ",".join(map(str, learning_rates(trials // 2)))
    values = (*(f"{key}={value}" for key, value in LEAST.items()), f"train.lr={rates}", "seed=0,1", "tracking=none")
    cost = desk.python("-m", "benchmarks.orchestration.peer_pool", "-m", "hydra/launcher=submitit_local", *values)
    _check(desk, trials)
    return cost


def _check(desk: Desk, trials: int) -> None:
    done = sum(journal.glance(folder).state is State.completed for folder in (desk.runs / "trials").iterdir())
    if done != trials:
        raise Failed(f"{desk.folder}: {done} of {trials} trials completed\n{desk.said()}")
