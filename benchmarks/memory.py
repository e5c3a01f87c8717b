"""How near the plan's memory is to what training takes on this GPU: ``python -m benchmarks.memory [options]``.

For each preset, variant and family two steps of the trainer run, bf16, with and without activation checkpointing; the
peak of torch's allocator stands beside ``model.memory``'s estimate. Options:

    --presets 60m 1.3b      of conf/model; all but tiny unless given
    --variants kda mamba2   of conf/variant; all unless given
    --families hybrid       recurrent and hybrid unless given
    --shape 4x4096          sequences × tokens
    --vocab 32000           tokens of the vocabulary
    --compile               compile the model, too
    --json FILE             the rows for programs

Exit code 1 if an estimate is more than 15 % off, 2 without a GPU. What does not fit is said and counts for nothing.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from deltalab.model.memory import training_memory
from deltalab.spec import load
from deltalab.spec.trial import TrialSpec
from deltalab.study.resolve import resolve
from deltalab.track.journal import Journal
from deltalab.train.loop import Trainer

FAMILIES = {"recurrent": "[mixer]", "hybrid": "[mixer,swa]"}
TOLERANCE = 0.15
STEPS = 2
"""The second step has the optimiser's moments from its beginning."""
LR = 2e-7
"""The paper's in the first step of its warm-up: on random tokens a large one soon leaves decays that no model has."""


class Enough(Exception):
    """Ends a run from within, before anything is evaluated or written."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A trial's peak in bytes; ``measured`` is None where it did not fit."""

    preset: str
    variant: str
    family: str
    checkpointing: bool
    estimate: int
    measured: int | None

    @property
    def off(self) -> float | None:
        """Relative error of the estimate."""
        return None if self.measured is None else self.estimate / self.measured - 1


def choices(group: str) -> list[str]:
    """Files of conf/GROUP."""
    return sorted(path.stem for path in (load.CONF / group).glob("*.yaml"))


def spec_of(preset: str, variant: str, family: str, checkpointing: bool, options: argparse.Namespace) -> TrialSpec:
    """The trial of a row; of the options shape, vocab, precision and compile count."""
    sequences, length = options.shape
    overrides = [
        f"model={preset}", f"variant={variant}", f"variant.pattern={FAMILIES[family]}", "data=recall",
        "data.pairs=1", "data.overwrites=0", f"data.train_length={length}", f"data.test_length={length}",
        f"model.vocab_size={options.vocab}", f"train.batch_size={sequences}", f"train.precision={options.precision}",
        f"train.compile={options.compile}", f"train.activation_checkpointing={checkpointing}", "eval.sequences=1",
        "eval.batch_size=1", f"train.lr={LR}",
    ]  # fmt: skip
    return resolve(load.trial_spec(load.compose(overrides)))


def measured(spec: TrialSpec, device: torch.device) -> int | None:
    """Peak bytes of torch's allocator over two steps, or None where they do not fit."""
    left = [STEPS]

    def stop() -> bool:
        if not left[0]:
            raise Enough
        left[0] -= 1
        return False

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            Trainer(spec, Path(folder), device, Journal(Path(folder))).run(stop)
        except Enough:
            return torch.cuda.max_memory_allocated(device)
        except torch.cuda.OutOfMemoryError:
            return None
    raise AssertionError("a run ends after its steps")


def rows(options: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Every row, as it is measured."""
    for preset in options.presets:
        for variant in options.variants:
            for family in options.families:
                for checkpointing in (False, True):
                    spec = spec_of(preset, variant, family, checkpointing, options)
                    yield Row(
                        preset=preset,
                        variant=variant,
                        family=family,
                        checkpointing=checkpointing,
                        estimate=training_memory(spec, gpu=True).peak,
                        measured=measured(spec, device),
                    )


def table_of(found: Sequence[Row], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("preset", "variant", "family", "checkpointing", "measured, GiB", "estimate, GiB", "off"):
        table.add_column(column, justify="left" if column in ("preset", "variant", "family") else "right")
    for row in found:
        peak = "does not fit" if row.measured is None else f"{row.measured / 2**30:.2f}"
        off = "" if row.off is None else f"{row.off:+.1%}"
        name = "yes" if row.checkpointing else "no"
        table.add_row(row.preset, row.variant, row.family, name, peak, f"{row.estimate / 2**30:.2f}", off)
    return table


def shape(text: str) -> tuple[int, int]:
    """``4x4096`` as sequences and tokens."""
    sequences, _, length = text.partition("x")
    return int(sequences), int(length)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").partition("\n")[0])
    presets = [name for name in choices("model") if name != "tiny"]
    parser.add_argument("--presets", nargs="+", choices=choices("model"), default=presets)
    parser.add_argument("--variants", nargs="+", choices=choices("variant"), default=choices("variant"))
    parser.add_argument("--families", nargs="+", choices=[*FAMILIES], default=[*FAMILIES])
    parser.add_argument("--shape", type=shape, default=(4, 4096), metavar="SEQUENCESxTOKENS")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.set_defaults(precision="bf16")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.memory: no GPU is visible here; allowed is a machine with one", file=sys.stderr)
        return 2
    device, console = torch.device("cuda"), Console(width=120)
    found: list[Row] = []
    for row in rows(options, device):
        found.append(row)
        off = "does not fit" if row.off is None else f"{row.off:+.1%}"
        console.print(
            f"{row.preset} {row.variant} {row.family} checkpointing={row.checkpointing}: {off}", highlight=False
        )
    sequences, length = options.shape
    compiled = ", compiled" if options.compile else ""
    title = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, bf16, {sequences} × {length}{compiled}"
    console.print(table_of(found, title), highlight=False)
    if options.json:
        plain: list[dict[str, Any]] = [{**asdict(row), "off": row.off} for row in found]
        options.json.write_text(json.dumps({"title": title, "rows": plain}, indent=1))
    return int(any(row.off is not None and abs(row.off) > TOLERANCE for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
