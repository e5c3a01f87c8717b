"""What the training loop costs beside its steps: ``python -m benchmarks.trainer``.

The same trial is run in turns with everything on (batches made ahead, logging, checkpoints) and with nothing (each
batch made when its step wants it, no log but those of the first and last step, no checkpoint), and timed between these
two. What logging and checkpoints take is measured where they are done: a difference of step times smaller than their
scatter says nothing. Text, byte by byte, from the source of Python's standard library.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console

from benchmarks.memory import choices
from benchmarks.tables import markdown_table, terminal_table
from deltalab.spec import load
from deltalab.spec.launcher import Device
from deltalab.spec.train import TrainSpec
from deltalab.spec.trial import TrialSpec
from deltalab.study.resolve import resolve
from deltalab.track import journal
from deltalab.train import loop
from deltalab.train.distributed import pick_device
from deltalab.train.feed import Feed
from deltalab.train.trial import run_trial

WANTED = 0.01
"""Share of step time that logging and checkpoints together are to stay below."""
CHECKPOINTS = 2
"""Of a measured run."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's seconds: of a step, of a logged one's logging, of a checkpoint; and the share of waiting for data."""

    step: float
    log: float
    checkpoint: float
    waited: float


def measured(spec: TrialSpec, folder: Path, device: Device, within: AbstractContextManager[object]) -> Run:
    """Train a trial."""
    with within:
        run_trial(spec, folder, device)
    lines = [line for line in journal.entries(folder)[0] if "train/loss" in line.get("values", {})]
    spent = journal.read(folder).details["seconds"]
    steps = lines[-1]["step"] - lines[0]["step"]
    taken = lines[-1]["t"] - lines[0]["t"]
    checkpoints = (spec.train.steps - 1) // spec.train.checkpoint_every if spec.train.checkpoint_every else 0
    return Run(
        step=taken / steps,
        log=spent["log"] / len(lines),
        checkpoint=spent["checkpoint"] / max(1, checkpoints),
        waited=spent["data"] / taken,
    )


def trial_of(options: argparse.Namespace) -> TrialSpec:
    """The trial that is timed, with everything on."""
    return resolve(
        load.trial_spec(
            load.compose(
                [
                    f"model={options.preset}",
                    "model.budget_vocab=257",
                    "data=text",
                    f"data.train_length={options.length}",
                    f"data.test_length={options.length}",
                    f"train.batch_size={options.sequences}",
                    f"train.precision={options.precision}",
                    f"train.steps={options.steps}",
                    f"train.log_every={options.log_every}",
                    f"train.checkpoint_every={max(1, (options.steps - 1) // CHECKPOINTS)}",
                    "eval.sequences=1",
                ]
            )
        )
    )


def rows_of(on: Sequence[Run], off: Sequence[Run], options: argparse.Namespace) -> tuple[list[list[str]], float]:
    """The table, and the share of logging and checkpoints."""
    step = statistics.median(run.step for run in on)
    log = statistics.median(run.log for run in on) / options.log_every / step
    checkpoint = statistics.median(run.checkpoint for run in on) / options.checkpoint_every / step

    def row(what: str, runs: Sequence[Run], value: Callable[[Run], float], share: str) -> list[str]:
        values = sorted(map(value, runs))
        figures = [_milliseconds(figure) for figure in (statistics.median(values), values[0], values[-1])]
        return [what, f"{figures[0]} ms", f"{figures[1]} to {figures[2]} ms", share]

    waits = [f"{100 * statistics.median(run.waited for run in runs):.2f} %" for runs in (on, off)]
    return [
        row("a step, everything on", on, lambda run: run.step, ""),
        row("a step, everything off", off, lambda run: run.step, ""),
        row("logging a step", on, lambda run: run.log, f"{100 * log:.3f} % at every {options.log_every} steps"),
        row(
            "a checkpoint",
            on,
            lambda run: run.checkpoint,
            f"{100 * checkpoint:.2f} % at every {options.checkpoint_every:,} steps",
        ),
        row("waiting for a batch made ahead", on, lambda run: run.waited * run.step, waits[0]),
        row("waiting for a batch made then", off, lambda run: run.waited * run.step, waits[1]),
    ], log + checkpoint


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when logging and checkpoints take more than they should."""
    options = _options(arguments)
    device, threads = Device(options.device), torch.get_num_threads()
    where = pick_device(device)
    spec = trial_of(options)
    bare = replace(spec, train=replace(spec.train, log_every=spec.train.steps, checkpoint_every=0))
    on, off = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            on.append(measured(spec, Path(folder) / f"on-{turn}", device, nullcontext()))
            made_then = patch.object(loop, "Feed", partial(Feed, ahead=0))
            off.append(measured(bare, Path(folder) / f"off-{turn}", device, made_then))
    rows, share = rows_of(on, off, options)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {threads} thread(s)"
    title = (
        f"{name}, torch {torch.__version__}, {options.preset}, {options.precision}, {options.sequences} sequences of "
        f"{options.length}, {options.repeats} runs of {options.steps} steps each way"
    )
    headings = ("what", "median", "lowest to highest", "of step time")
    if options.markdown:
        print(f"{title}\n\n{markdown_table(headings, rows)}\n")
    else:
        table = terminal_table(title, headings, ("what",), [(row, False) for row in rows])
        Console(width=max(120, Console().width)).print(table, highlight=False)
    print(f"logging and checkpoints: {100 * share:.2f} % of step time, wanted below {100 * WANTED:g} %")
    return int(share >= WANTED)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trainer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=choices("model"), default="20m")
    add("--sequences", type=int, default=4, help="of a batch (4)")
    add("--length", type=int, default=512, help="tokens of a sequence (512)")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--device", choices=[device.value for device in Device], default="auto", help="auto: a GPU if there is one")
    add("--steps", type=int, default=9, help="of a run (9)")
    add("--repeats", type=int, default=2, help="runs each way (2)")
    add("--log-every", type=int, default=TrainSpec.log_every, help=f"({TrainSpec.log_every})")
    every = TrainSpec.checkpoint_every
    add("--checkpoint-every", type=int, default=every, help=f"steps that a checkpoint's time is a share of ({every})")
    add("--markdown", action="store_true", help="the table in Markdown")
    options = parser.parse_args(arguments)
    for key in ("steps", "sequences", "length", "repeats", "log_every", "checkpoint_every"):
        least = 2 * CHECKPOINTS if key == "steps" else 1
        if getattr(options, key) < least:
            parser.error(f"--{key.replace('_', '-')} {getattr(options, key)}: allowed is a whole number from {least}")
    return options


if __name__ == "__main__":
    sys.exit(main())
