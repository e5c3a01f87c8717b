"""What a task hands out (``Batch``), what a task is (``Task``), and the task of a spec (``make_task``)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deltalab.spec.data import (
    DataSpec,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
)

IGNORE = -100
"""Target of a position that is not scored."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences and what is to be predicted at each of their positions.

    Attributes:
        tokens: int64 [B, T].
        targets: int64 [B, T], ``IGNORE`` where nothing is scored.
        slices: name → bool [B, T]: sets of scored positions with an accuracy of their own.
        starts: bool [B, T]: where a document begins that is to know nothing of the one before; None where whole
            sequences belong together.
    """

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    starts: NDArray[np.bool_] | None = None

    @property
    def scored(self) -> NDArray[np.bool_]:
        """bool [B, T]: where a target is to be predicted."""
        return self.targets != IGNORE

    def rows(self, start: int, stop: int) -> "Batch":
        """Sequences ``start`` to ``stop`` (exclusive), as views."""
        part = slice(start, stop)
        slices = {name: mask[part] for name, mask in self.slices.items()}
        starts = None if self.starts is None else self.starts[part]
        return Batch(tokens=self.tokens[part], targets=self.targets[part], slices=slices, starts=starts)


class Task(Protocol):
    """A source of training batches and of a held-out set."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    @property
    def token_bytes(self) -> NDArray[np.int64] | None:
        """UTF-8 bytes each token stands for, [vocab_size]; None where tokens are not text."""
        ...

    def train_batch(self, step: int, rows: int) -> Batch:
        """``rows`` sequences of ``train_length`` tokens: a pure function of the task's spec and seed, step and rows."""
        ...

    def eval_batches(self, sequences: int, batch_size: int) -> Iterator[Batch]:
        """Held-out sequences of ``test_length`` tokens, ``batch_size`` at a time; the last batch may be smaller.

        They depend on the spec and on ``sequences`` alone: every seed and every cell is measured on the same ones.
        """
        ...

    def save_tokenizer(self, folder: Path) -> None:
        """Keep what turns text into tokens beside the weights that were trained on them, where something was learnt."""
        ...


def make_task(spec: DataSpec, seed: int) -> Task:
    """The task that a spec describes.

    Args:
        spec: one of the data specs.
        seed: decides the training sequences; the held-out ones are the same for every seed.

    Raises:
        ConfigError: the corpus of a text task is not on this machine, or is another one than the spec says.
        NotFoundError: its text has to be prepared and was not.
    """
    if isinstance(spec, StateTrackingSpec):
        from deltalab.data.state_tracking import StateTracking

        return StateTracking(spec, seed)
    if isinstance(spec, RecallSpec):
        from deltalab.data.recall import Recall

        return Recall(spec, seed)
    if isinstance(spec, SelectiveCopySpec):
        from deltalab.data.selective_copy import SelectiveCopy

        return SelectiveCopy(spec, seed)
    if isinstance(spec, RegistersSpec):
        from deltalab.data.registers import Registers

        return Registers(spec, seed)
    if isinstance(spec, NeedleSpec):
        from deltalab.data.needle import Needle

        return Needle(spec, seed)
    if isinstance(spec, TextSpec):
        from deltalab.data.streaming import StreamedText
        from deltalab.data.text import Text

        return StreamedText(spec, seed) if spec.streaming else Text(spec, seed)
    raise AssertionError(f"no task for {type(spec).__name__}")
