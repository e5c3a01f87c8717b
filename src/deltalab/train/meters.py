"""What a run measures beside the loss: where its time goes, tokens and FLOPs a second, memory, time to go.

Between two logged steps, n steps apart, t seconds pass, of them p in pauses (evaluations, samples, checkpoints):

    train/tokens_per_second   n B T / (t − p)               B sequences of T tokens a step
    train/mfu                 3 F · tokens per second / (P N); F forward FLOPs per token (model.accounting), 3 F with
                              the backward pass, P FLOP/s of a device (train.peaks), N processes; absent without P
    train/data_wait           share of t − p in which the step waited for its batch
    train/memory              most bytes so far: of tensors on a GPU, of the process on a CPU
    train/seconds_to_go       steps to go at the pace since the first logged step of this run, pauses included; no more
                              than what is left of train.max_hours

All five depend on the machine (``MEASURED``); nothing else that is logged does.
"""

import contextlib
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum

import torch

from deltalab.model.accounting import cost
from deltalab.spec.trial import TrialSpec
from deltalab.train.peaks import peak_tflops

MEASURED = tuple(f"train/{name}" for name in ("tokens_per_second", "mfu", "data_wait", "memory", "seconds_to_go"))
"""Metrics that are another every time."""


class Phase(Enum):
    """What a run spends time on beside its steps."""

    data = "data"
    log = "log"
    checkpoint = "checkpoint"
    evaluation = "evaluation"
    samples = "samples"


PAUSES = (Phase.checkpoint, Phase.evaluation, Phase.samples)


class Clock:
    """Where the time of a run goes, seconds; phases do not overlap."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._spent: dict[Phase, float] = defaultdict(float)

    @contextlib.contextmanager
    def spending(self, phase: Phase) -> Iterator[None]:
        """The block belongs to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[phase] += time.perf_counter() - start

    def spent(self, *phases: Phase) -> float:
        """Seconds spent on phases."""
        return sum(self._spent[phase] for phase in phases)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self.began

    @property
    def shares(self) -> dict[str, float]:
        """Seconds of the run in all, and of every phase."""
        return {"all": self.seconds, **{phase.value: self._spent[phase] for phase in Phase}}


class Meters:
    """The machine's figures of a run. Methods are called in the order of its steps.

    Args:
        spec: the trial.
        device: where it trains.
        processes: how many train it together.
        clock: of the run.
        step: finished steps at its begin.
    """

    def __init__(self, spec: TrialSpec, device: torch.device, processes: int, clock: Clock, step: int) -> None:
        self._spec, self._device, self._clock = spec, device, clock
        peak = spec.train.peak_tflops
        if peak is None and device.type == "cuda":
            peak = peak_tflops(torch.cuda.get_device_name(device), spec.train.precision)
        self._peak = None if peak is None else 1e12 * peak * processes
        self._flops = 3 * cost(spec.variant, spec.model, spec.data.train_length).flops
        self._first: tuple[int, float] | None = None
        self.start(step)

    def start(self, step: int) -> None:
        """The first interval begins here, after ``step`` steps."""
        self._last = self._now(step)

    def measure(self, step: int, left: float) -> dict[str, float]:
        """The figures at a logged step; the interval ends here and the next begins.

        Args:
            step: finished steps.
            left: seconds that the trial may still take.
        """
        last, self._last = self._last, self._now(step)
        taken, paused, waited = (max(0.0, new - old) for new, old in zip(self._last[1:], last[1:], strict=True))
        training = max(1e-9, taken - paused)
        rate = self._spec.train.batch_size * self._spec.data.train_length * (step - last[0]) / training
        values = {
            "train/tokens_per_second": rate,
            "train/data_wait": min(1.0, waited / training),
            "train/memory": float(peak_memory(self._device)),
        }
        if self._peak is not None:
            values["train/mfu"] = self._flops * rate / self._peak
        if self._first is None:
            self._first = self._last[:2]  # the first step also warms up and compiles
        else:
            pace = (self._last[1] - self._first[1]) / (step - self._first[0])
            values["train/seconds_to_go"] = min(pace * (self._spec.train.steps - step), left)
        return values

    def _now(self, step: int) -> tuple[int, float, float, float]:
        """Step, and seconds of the run, of its pauses, and of waiting for data."""
        clock = self._clock
        return step, clock.seconds, clock.spent(*PAUSES), clock.spent(Phase.data)


def forget_peak(device: torch.device) -> None:
    """``peak_memory`` counts from here, where it can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Most memory held so far in bytes: tensors of this trial on a GPU, all of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
