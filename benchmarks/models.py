"""How fast whole models train and decode, all systems in one run: ``python -m benchmarks.models [options]``.

Training: tokens per second of a step (forward, backward, clipping, AdamW; bf16 autocast on a GPU, fp32 on a CPU) and
the peak of memory. On a GPU the 1.3b preset at the shapes of arXiv 2605.22791, Fig. 2; on a CPU the tiny preset, short.
Activations are checkpointed where the plan's estimate does not fit, or where memory ran out without; the row says so.

Decoding: tokens per second after prompts of growing length, ``LanguageModel.prefill`` then ``step`` (on a GPU bf16
weights, steps replayed from a CUDA graph).

Rows are printed as measured, most important first; the table has each row's ratio to GDN-2 and KDA in this run and
what the paper published, for other hardware. Where memory does not suffice the row says it and the run goes on. Once
``--seconds`` are spent the rest is left out, and said. Exit code 1 if a row failed by anything but its memory, 2
without the GPU that was asked for.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.allocated import Allocated
from benchmarks.kernels.__main__ import in_a_line
from benchmarks.kernels.budget import Budget, OutOfTime
from benchmarks.kernels.clock import milliseconds
from benchmarks.memory import FAMILIES, choices, shape, spec_of
from benchmarks.model_rows import FIGURE, FOOTNOTE, Row, figures, markdown, table_of
from deltalab.errors import UsageError
from deltalab.model.generate import Steps
from deltalab.model.language_model import LanguageModel
from deltalab.model.memory import training_memory
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.track.provenance import provenance
from deltalab.train.distributed import pick_device
from deltalab.train.loop import build_model
from deltalab.train.loss import Scorer, choose_form
from deltalab.train.optim import make_optimizer

SYSTEMS = ("gated_delta_net_2", "kda", *(name for name in FIGURE if name not in ("gated_delta_net_2", "kda")))
"""The paper's, in the order they are measured."""
SECONDS = 570.0
STEPS = 3
"""Training steps that are timed at least."""
ROOM = 0.92
"""Share of a GPU's memory that an estimate may take."""
DECODED = 256
"""Tokens that a cache has room for after its prompt; fewer are timed."""
OUT_OF_MEMORY = "out of memory"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a kind of device measures unless told otherwise; shapes are sequences × tokens."""

    preset: str
    precision: str
    vocab: int
    shapes: tuple[tuple[int, int], ...]
    prompts: tuple[int, ...]


SETTINGS = {
    "cuda": Setting(
        preset="1.3b", precision="bf16", vocab=32_000,
        shapes=((4, 4096), (1, 16384), (8, 2048), (2, 8192)), prompts=(512, 2048, 8192, 32768),
    ),
    "cpu": Setting(preset="tiny", precision="fp32", vocab=256, shapes=((4, 256), (1, 1024)), prompts=(64, 512)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What is measured, and with what; ``left_out`` is filled with what the time did not suffice for."""

    options: argparse.Namespace
    device: torch.device
    budget: Budget
    left_out: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def rows(self) -> Iterator[Row]:
        """The rows as they are measured: of training shape by shape, then of decoding prompt by prompt."""
        shapes = {"train": self.options.shapes, "decode": [(self.options.sequences, n) for n in self.options.prompts]}
        for kind in self.options.kinds:
            for sequences, length in shapes[kind]:
                for variant, family in systems(self.options):
                    name = f"{sequences}x{length}"
                    row = Row(kind=kind, variant=variant, family=family, shape=name)
                    try:
                        yield self._measured(row, sequences, length)
                    except OutOfTime:
                        self.left_out.append(f"{kind} {variant} {family} {name}")

    def _measured(self, row: Row, sequences: int, length: int) -> Row:
        """The row with its figures, or with what went wrong in a line.

        Raises:
            OutOfTime: the budget is spent.
        """
        measure = self._train if row.kind == "train" else self._decode
        try:
            # Backward in this thread: the alarm that keeps the budget is heard in no other.
            with self.budget.limit("rows"), torch.autograd.set_multithreading_enabled(False):
                return measure(row, sequences, length)
        except torch.OutOfMemoryError:
            return replace(row, error=OUT_OF_MEMORY)
        except Exception as error:  # whatever a kernel or a compiler raises
            return replace(row, error=in_a_line(error))
        finally:
            self._clean()

    def _train(self, row: Row, sequences: int, length: int) -> Row:
        plain, saving = (self._spec(row, sequences, length, checkpointing) for checkpointing in (False, True))
        if not self.on_gpu or training_memory(plain, gpu=True).peak < ROOM * _capacity():
            with suppress(torch.OutOfMemoryError):
                return self._train_as(row, plain)
            self._clean()
        return self._train_as(replace(row, note="activation checkpointing"), saving)

    def _train_as(self, row: Row, spec: TrialSpec) -> Row:
        """The row of a trial: its speed, and its peak in a step with the optimiser's moments there."""
        if self.on_gpu:
            work = training_step(spec, self.device)
            taken = milliseconds(work, least=STEPS)
            peak = torch.cuda.max_memory_allocated()
        else:
            with Allocated() as memory:
                work = training_step(spec, self.device)
                for turn in range(2):
                    work(turn)
            taken, peak = milliseconds(work, least=STEPS, on_gpu=False), memory.peak
        tokens = spec.train.batch_size * spec.data.train_length
        return replace(row, speed=1e3 * tokens / taken, peak=peak)

    @torch.no_grad()
    def _decode(self, row: Row, sequences: int, length: int) -> Row:
        spec = self._spec(row, sequences, length, False)
        with nullcontext() if self.on_gpu else Allocated() as memory:
            model = build_model(spec, self.device).eval()
            if self.on_gpu:
                shorten(model)
            prompts = torch.randint(len(model.embedding), (sequences, length), device=self.device)
            logits, cache = model.prefill(prompts, length=length + DECODED)
            tokens, step = logits.argmax(-1), Steps(model, cache)
            step(tokens)
        read = milliseconds(lambda turn: model.prefill(prompts), least=1, on_gpu=self.on_gpu)
        taken = milliseconds(lambda turn: step(tokens), on_gpu=self.on_gpu)
        assert cache.tokens <= cache.length, "a cache that grows mid-way is no steady state"
        peak = memory.peak if memory else torch.cuda.max_memory_allocated()
        return replace(row, speed=1e3 * sequences / taken, prefill=1e3 * sequences * length / read, peak=peak)

    def _spec(self, row: Row, sequences: int, length: int, checkpointing: bool) -> TrialSpec:
        options = argparse.Namespace(**{**vars(self.options), "shape": (sequences, length)})
        family = "recurrent" if row.family == "transformer" else row.family
        return spec_of(self.options.preset, row.variant, family, checkpointing, options)

    def _clean(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def systems(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Variant and family; a Transformer has one, its own, with the hybrids, as in the figure."""
    for family in options.families:
        for variant in options.variants:
            if variant != "transformer":
                yield variant, family
            elif family == options.families[0]:
                yield variant, variant


def shorten(model: LanguageModel) -> None:
    """Weights in bf16, but those that only fp32 holds."""
    for name, parameter in model.named_parameters():
        if name not in model.fp32:
            parameter.data = parameter.data.bfloat16()


def training_step(spec: TrialSpec, device: torch.device) -> Callable[[int], object]:
    """A step of a trial on random tokens, with nothing that waits for the device."""
    model = build_model(spec, device)
    scorer, optimizer = Scorer(model, spec.train.compile), make_optimizer(model, spec.train)
    sequences, length = spec.train.batch_size, spec.data.train_length
    tokens = torch.randint(len(model.embedding), (sequences, length), device=device)
    bf16 = spec.train.precision.value == "bf16"

    def step(turn: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, _ = scorer(tokens, tokens.roll(-1, 1), False)
        (loss / tokens.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.train.clip)
        optimizer.step()

    return step


def _capacity() -> int:
    return torch.cuda.get_device_properties(0).total_memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Each row as it is measured, then the table; the exit code."""
    options = _options(arguments)
    try:
        device = pick_device(Device(options.device))
    except UsageError:
        print(f"models: --device {options.device}: no GPU is visible here; allowed is auto or cpu", file=sys.stderr)
        return 2
    for key, value in vars(SETTINGS[device.type]).items():
        if getattr(options, key, None) is None:
            setattr(options, key, value)
    benchmark, found = Benchmark(options=options, device=device, budget=Budget(options.seconds)), []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    compiled = ", compiled" if options.compile else ""
    title = f"{name}, torch {torch.__version__}, {options.preset}, {options.precision}{compiled}"
    try:
        for row in benchmark.rows():
            found.append(row)
            print(row.line(), flush=True)
            _save(options.json, found, benchmark, title)
    except KeyboardInterrupt:
        print("models: interrupted; what was measured:", file=sys.stderr)
    _save(options.json, found, benchmark, title)
    _show(found, _notes(benchmark), title, options.markdown)
    return int(any(row.error not in ("", OUT_OF_MEMORY) for row in found))


def _notes(benchmark: Benchmark) -> list[str]:
    """What the rows do not say."""
    left = ", ".join(benchmark.left_out)
    spent = f"left out, the {benchmark.budget.seconds:g} s were spent: {left}"
    return [FOOTNOTE, f"loss: {choose_form(benchmark.device)}", *([spent] if left else [])]


def _save(file: Path | None, rows: Sequence[Row], benchmark: Benchmark, title: str) -> None:
    """The figures so far."""
    if file is not None:
        found = {"title": title, "notes": _notes(benchmark), "rows": figures(rows), **provenance(ROOT)}
        file.write_text(json.dumps(found, indent=1))


def _show(rows: Sequence[Row], notes: Sequence[str], title: str, in_markdown: bool) -> None:
    if in_markdown:
        print(f"\n{title}\n\n{markdown(rows)}\n")
        print("\n".join(notes))
        return
    console = Console(width=max(150, Console().width))
    console.print(table_of(rows, title), highlight=False)
    for line in notes:
        console.print(line, markup=False, highlight=False)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=[device.value for device in Device], default="auto", help="auto: a GPU if there is one")
    add("--kinds", nargs="+", choices=("train", "decode"), default=["train", "decode"])
    add(
        "--variants", nargs="+", metavar="NAME", default=list(SYSTEMS), help="of conf/variant; the paper's unless given"
    )
    add("--families", nargs="+", choices=list(FAMILIES), default=["hybrid", "recurrent"])
    add("--preset", choices=choices("model"), help="1.3b on a GPU, tiny on a CPU")
    add("--shapes", nargs="+", type=shape, metavar="SEQUENCESxTOKENS", help="of training")
    add("--prompts", nargs="+", type=int, metavar="TOKENS", help="prompts' lengths of decoding")
    add("--sequences", type=int, default=1, help="decoded together (1)")
    add("--vocab", type=int, help="tokens of the vocabulary")
    add("--precision", choices=("bf16", "fp32"), help="of training: bf16 on a GPU, fp32 on a CPU")
    add("--compile", action="store_true", help="train the compiled model")
    add("--seconds", type=float, default=SECONDS, help=f"time budget ({SECONDS:g})")
    add("--json", type=Path, metavar="FILE", help="write the figures there too")
    add("--markdown", action="store_true", help="the table in Markdown")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.variants if name not in choices("variant")]:
        parser.error(f"--variants {unknown[0]}: allowed are {', '.join(choices('variant'))}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.parent}")
    if options.seconds <= 0:
        parser.error(f"--seconds {options.seconds:g}: must be above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
