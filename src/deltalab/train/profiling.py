"""``train.profile``: a trace of a few steps after the first ones, and a table of what took the time.

profile/steps-7-9.trace.json.gz     to open at ui.perfetto.dev or in chrome://tracing
profile/steps-7-9.txt               the operations that took most
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

FOLDER = "profile"
SKIPPED, WARMING, RECORDED = 4, 2, 3
"""Steps of a run that pass unseen (compilation, allocation), that warm the profiler up, and that are recorded."""
ROWS = 25
"""Of the table."""


class Profile:
    """Records steps inside the ``with`` block; of a run with fewer than are wanted, the last ones.

    Args:
        wanted: whether to record at all.
        run_dir: where to write.
        device: where the trial trains.
        steps: the steps of the run.
        report: told the last recorded step, what was recorded, and in which files (relative to the run directory).
    """

    def __init__(
        self,
        wanted: bool,
        run_dir: Path,
        device: torch.device,
        steps: range,
        report: Callable[[int, str, list[str]], None],
    ) -> None:
        self._folder, self._on_gpu, self._report = run_dir / FOLDER, device.type == "cuda", report
        recorded = min(RECORDED, len(steps))
        warming = min(WARMING, len(steps) - recorded)
        skipped = min(SKIPPED, len(steps) - recorded - warming)
        first = steps.start + skipped + warming + 1
        self._steps = range(first, first + recorded)
        if not wanted or not recorded or self._folder.exists():
            self._profile: profile | contextlib.nullcontext[None] = contextlib.nullcontext()
            return
        plan = schedule(wait=skipped, warmup=warming, active=recorded, repeat=1)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profile = profile(
            activities=activities, schedule=plan, record_shapes=True, acc_events=True, on_trace_ready=self._write
        )

    def __enter__(self) -> Self:
        self._profile.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._profile.__exit__(kind, error, at)

    def step(self) -> None:
        """A step is done."""
        if isinstance(self._profile, profile):
            self._profile.step()

    def _write(self, found: profile) -> None:
        self._folder.mkdir(exist_ok=True)
        name = f"steps-{self._steps[0]}-{self._steps[-1]}"
        trace, table = self._folder / f"{name}.trace.json.gz", self._folder / f"{name}.txt"
        found.export_chrome_trace(str(trace))
        order = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        table.write_text(found.key_averages().table(sort_by=order, row_limit=ROWS))
        said = f"profile of steps {self._steps[0]} to {self._steps[-1]}: {trace} (open it at ui.perfetto.dev)"
        print(said, flush=True)
        self._report(self._steps[-1], said, [f"{FOLDER}/{path.name}" for path in (trace, table)])
