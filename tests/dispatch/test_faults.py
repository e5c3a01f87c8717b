"""A study whose workers and launchers are killed at random ends with the results of one that nobody disturbed."""

import os
import random
import signal
import subprocess
import time
from collections import Counter, deque
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from deltalab.dispatch import garbage
from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.claim import alive
from deltalab.track.journal import State
from deltalab.train.meters import MEASURED
from tests.dispatch.launching import (
    LOCAL,
    PATIENCE,
    QUIET,
    RATE,
    Desk,
    differing,
    executions,
    kill,
    results,
    states_told,
)

pytestmark = pytest.mark.faults

SEED = int(os.environ.get("FAULT_SEED", "20"))
"""Of the generator that draws the faults; another one makes another storm."""
VICTIMS = {"launcher": 6, "submitit.local._local": 4, "submitit.core._submit": 12}
"""How often the launcher, a worker's parent (submitit's, which waits for it) and a worker itself are killed."""
LEAST_KILLS, LEAST_RESUMED, LAUNCHES = 18, 3, 40
STALL = 60.0
"""Seconds that a fault waits for steps which do not come."""
TRIALS, STEPS, CHECKPOINT = 12, 120, 10
SPREAD = 0.75
"""Part of the study's steps by which the last fault is due; what is redone and logged meanwhile comes on top."""
STUDY = f"""
question: does it survive?
baseline: {{variant: gated_delta_net_2}}
factors: {{variant: [gated_delta_net_2, delta_net, kda, gated_delta_net]}}
seeds: [0, 1, 2]
overrides:
  {{train: smoke, train.steps: {STEPS}, train.batch_size: 8, train.log_every: 1, train.checkpoint_every: {CHECKPOINT},
   eval.every: 25, eval.sequences: 8, model.depth: 1, model.mlp_width: 16}}
metrics: {{eval/accuracy: max, eval/loss: min}}
"""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kill -9 to come.

    Attributes:
        victim: "launcher", or the module that a process of the pool runs.
        which: of several such processes, as a share of their number, from the oldest.
        steps: further steps in the whole study after which it is due,
        seconds: or seconds, whichever passes first: some faults are to hit what is just starting.
        pause: seconds from a launcher's death to the next launch.
    """

    victim: str
    which: float
    steps: int
    seconds: float
    pause: float


def draw(seed: int) -> list[Fault]:
    """The faults of a seed, spread over the study so that none outlasts it."""
    chance = random.Random(seed)
    victims = [victim for victim, times in VICTIMS.items() for _ in range(times)]
    chance.shuffle(victims)
    shares = [chance.random() for _ in victims]
    return [
        Fault(
            victim=victim,
            which=chance.random() ** 2,
            steps=int(SPREAD * TRIALS * STEPS * share / sum(shares)),
            seconds=chance.choice((chance.uniform(0, 3), STALL, STALL, STALL)),
            pause=chance.choice((0, 0, chance.random())),
        )
        for victim, share in zip(victims, shares, strict=True)
    ]


def test_a_study_killed_at_random_equals_one_that_nobody_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, stormy = Desk(tmp_path / "calm"), Desk(tmp_path / "stormy")
    for desk in (calm, stormy):
        desk.folder.mkdir()
    undisturbed = calm.start("-m", f"study={calm.study(STUDY)}", "hydra/launcher=inline", *LOCAL, QUIET)
    kills = storm(stormy, draw(SEED))
    print(f"seed {SEED}: killed {dict(kills)}, {kills.total()} in all")
    assert undisturbed.wait(PATIENCE) == 0
    assert kills.total() >= LEAST_KILLS
    assert kills["launcher"] >= VICTIMS["launcher"] - 2
    trials = stormy.trials()
    assert trials == calm.trials()
    assert len(trials) == TRIALS
    assert differing(results(stormy.runs, trials), results(calm.runs, trials)) == []
    for trial in trials:
        assert_one_at_a_time_and_little_redone(ledger.trial_dir(stormy.runs, trial))
        assert_logged_the_same(ledger.trial_dir(stormy.runs, trial), ledger.trial_dir(calm.runs, trial))
    worked = [sum(map(bool, executions(ledger.trial_dir(stormy.runs, trial)))) for trial in trials]
    assert sum(worked) - TRIALS >= LEAST_RESUMED, "the storm hit hardly any trial while it trained"
    assert_nothing_left(stormy, monkeypatch)


def storm(desk: Desk, faults: list[Fault]) -> Counter[str]:
    """Launch the study again and again, killing as the faults say, until a launch says that all is done.

    Returns:
        Kills by victim.
    """
    left, kills = deque(faults), Counter[str]()
    arguments = ("-m", f"study={desk.study(STUDY)}", "hydra/launcher=local", *LOCAL, QUIET)
    for _ in range(LAUNCHES):
        launcher = desk.start(*arguments)
        while left and strikes(desk, launcher, left[0]):
            fault = left.popleft()
            kills[fault.victim] += 1
            if fault.victim == "launcher":
                assert launcher.wait(PATIENCE) == -signal.SIGKILL
                time.sleep(fault.pause)
                break
        else:
            if launcher.wait(PATIENCE) == 0:
                return kills
            assert launcher.returncode == 1, (desk.folder / "said.txt").read_text()
    raise AssertionError(f"not done after {LAUNCHES} launches; seed {SEED}")


def strikes(desk: Desk, launcher: "subprocess.Popen[bytes]", fault: Fault) -> bool:
    """Wait for a fault's moment and kill; False when the launch ended first."""
    steps, end = logged(desk.runs) + fault.steps, time.monotonic() + fault.seconds
    while launcher.poll() is None:
        if logged(desk.runs) >= steps or time.monotonic() >= end:
            found = [launcher.pid] if fault.victim == "launcher" else sorted(desk.workers(fault.victim))
            if found:
                kill(found[int(fault.which * len(found))])
                return True
        time.sleep(0.02)
    return False


def logged(runs: Path) -> int:
    """Steps in all journals."""
    return sum(path.read_bytes().count(RATE.encode()) for path in runs.glob(f"trials/*/{journal.FILE}"))


def assert_one_at_a_time_and_little_redone(run_dir: Path) -> None:
    """Every execution logged its steps one by one, as two at a time would not have, and began from the newest
    checkpoint or, where that was still being written, from the one before; the last one completed."""
    told = states_told(run_dir)
    assert told[-1] == State.completed.value
    assert told.count(State.completed.value) == 1
    assert State.failed.value not in told
    assert journal.entries(run_dir)[0][-1]["event"] == "state"
    runs = [steps for steps in executions(run_dir) if steps]
    for steps in runs:
        assert steps == list(range(steps[0], steps[0] + len(steps)))
    assert runs[0][0] == 1
    assert runs[-1][-1] == STEPS
    for before, after in pairwise(runs):
        assert 0 <= before[-1] - after[0] + 1 <= 2 * CHECKPOINT


def assert_logged_the_same(stormy: Path, calm: Path) -> None:
    """Whatever was logged, redone steps too, has the undisturbed run's figures."""
    expected = {(line["step"], *line["values"]): line["values"] for line in metrics(calm)}
    for line in metrics(stormy):
        assert line["values"] == expected[(line["step"], *line["values"])]


def metrics(run_dir: Path) -> list[dict]:
    lines = [line for line in journal.entries(run_dir)[0] if line["event"] == "metrics"]
    return [{**line, "values": {k: v for k, v in line["values"].items() if k not in MEASURED}} for line in lines]


def assert_nothing_left(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process, no live claim; what the dead left behind is what ``deltalab gc`` takes, to the last."""
    assert desk.workers() == []
    assert not any(alive(folder) for part in ("trials", "submissions") for folder in (desk.runs / part).iterdir())
    monkeypatch.setattr(garbage, "SETTLED_SECONDS", -1.0)
    _, failed = garbage.remove(desk.runs, garbage.plan_garbage(desk.runs))
    assert failed == []
    for part in ("trials", "studies", "submissions"):
        assert [path for end in (".*", "claim.*") for path in (desk.runs / part).rglob(end)] == []
    assert list((desk.runs / "submissions").iterdir()) == []
    for folder in (desk.runs / "trials").iterdir():
        assert (folder / "model.safetensors").exists()
        assert not (folder / "checkpoints").exists()
