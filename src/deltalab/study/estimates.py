"""What a trial will take, from earlier trials of the same shape: time and memory.

RUNS/timings/<key>.json holds the newest measurement; the key is a hash of what decides speed (variant, model, data,
batch, precision, evaluation) and of nothing else, so that seeds, learning rates and longer training share it.
Time is modelled as start + steps · step + evaluations · evaluation + measurings · suites.
"""

import hashlib
import json
import math
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from deltalab.spec.trial import TrialSpec
from deltalab.study.equivalence import plainest
from deltalab.track import journal
from deltalab.track.files import write_atomic
from deltalab.track.journal import State

FOLDER = "timings"
PLACED = ("strategy", "shard_size", "micro_batch_size")
"""What changes no number, and so no identity, but the time."""
SPEED = {
    "variant": ("rank", "decay", "erase", "write", "tie", "narrowing", "erase_range", "pattern"),
    "train": ("batch_size", "accumulation", "precision", "activation_checkpointing", "compile", *PLACED),
    "eval": ("sequences", "batch_size", "suites", "suite_every"),
}
"""Of these parts of a spec only these fields decide speed; of model and data all."""
CALIBRATION_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A measurement.

    Attributes:
        trial: the trial measured.
        device: where it ran, e.g. ``cpu`` or ``cuda``.
        start: seconds from the run's begin to its first step's end.
        step: seconds a step takes.
        evaluation: seconds an evaluation takes.
        suites: seconds that all suites of ``eval.suites`` take once.
        memory: peak bytes, or 0 when it was not measured.
        processes: processes the trial ran as.
    """

    trial: str
    device: str
    start: float
    step: float
    evaluation: float
    suites: float = 0.0
    memory: int = 0
    processes: int = 1

    def seconds(self, spec: TrialSpec, done: int = 0) -> float:
        """Time a trial takes from a finished step on."""
        last = spec.train.steps - 1

        def times(every: int) -> int:
            return last // every - min(done, last) // every if every else 0

        steps = self.step * max(0, spec.train.steps - done)
        between = self.evaluation * times(spec.eval.every) + self.suites * times(spec.eval.suite_every)
        limit = math.inf if spec.train.max_hours is None else 3600 * spec.train.max_hours
        return min(self.start + steps + between, limit) + self.evaluation + self.suites


def key(spec: TrialSpec) -> str:
    """Equal for trials that take the same time a step."""
    plain = plainest(spec).to_dict()
    plain["train"] = spec.to_dict()["train"]
    kept = {
        part: {name: plain[part][name] for name in SPEED.get(part, plain[part])}
        for part in ("variant", "model", "data", "train", "eval")
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def find(runs: Path, spec: TrialSpec) -> Timing | None:
    """The newest measurement for a trial's shape, or None."""
    try:
        return Timing(**json.loads(_path(runs, spec).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def learn(runs: Path, spec: TrialSpec, run_dir: Path) -> None:
    """Keep what a completed trial's last execution measured."""
    if (timing := measured(spec, run_dir)) is not None:
        write_atomic(_path(runs, spec), json.dumps(asdict(timing), indent=1))


def _path(runs: Path, spec: TrialSpec) -> Path:
    return runs / FOLDER / f"{key(spec)}.json"


def measured(spec: TrialSpec, run_dir: Path) -> Timing | None:
    """What a completed trial's last execution measured, None where it measured no step or is not complete.

    From the journal's times: what ends in a training line are steps, the rest of what ends in another evaluation.
    """
    lines, _ = journal.entries(run_dir)
    begins = [place for place, line in enumerate(lines) if line.get("state") == State.running.value]
    last = lines[begins[-1] :] if begins else []
    if not last or last[-1].get("state") != State.completed.value:
        return None
    steps, evaluations = [], []
    suites: dict[int, float] = defaultdict(float)
    for one, two in pairwise(line for line in last if line["event"] in journal.MEASURED):
        took, gained = two["t"] - one["t"], two["step"] - one["step"]
        if two["event"] == "evaluation":
            suites[two["step"]] += took
        elif "train/loss" not in two["values"]:
            evaluations.append((took, gained))
        elif gained > 0:
            steps.append(took / gained)
    if not steps:
        return None
    step = statistics.median(steps)
    return Timing(
        trial=spec.trial_id,
        device=str(last[0].get("device", "")).split(":")[0],
        start=max(0.0, last[1]["t"] - last[0]["t"]),
        step=step,
        evaluation=max(0.0, statistics.median(t - n * step for t, n in evaluations)) if evaluations else 0.0,
        suites=statistics.median(suites.values()) if suites else 0.0,
        memory=int(last[-1].get("memory", 0)),
        processes=int(last[0].get("world", 1)),
    )
