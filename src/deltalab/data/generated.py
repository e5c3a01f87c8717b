"""Tasks whose sequences are drawn, not read: random streams and the part such tasks share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from deltalab.data.batch import Batch
from deltalab.spec.data import DataSpec

S = TypeVar("S", bound=DataSpec)


class Stream(IntEnum):
    """Independent streams of random numbers; the values are part of what a seed means."""

    train = 0
    evaluation = 1
    windows = 2
    shards = 3
    shard_windows = 4


def generator(stream: Stream, seed: int, step: int) -> np.random.Generator:
    """A counter-based generator that depends on its three arguments alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream, step))))


class GeneratedTask(ABC, Generic[S]):
    """A task that draws its sequences; what remains to say is how to draw them.

    Args:
        spec: what is drawn, and the lengths.
        seed: decides the training sequences only.
    """

    token_bytes = None

    def __init__(self, spec: S, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        self.vocab_size = spec.vocab_size

    @abstractmethod
    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """``rows`` independent sequences of ``length`` tokens."""

    def train_batch(self, step: int, rows: int) -> Batch:
        """See ``Task.train_batch``."""
        return self.draw(generator(Stream.train, self.seed, step), rows, self.spec.train_length)

    def eval_batches(self, sequences: int, batch_size: int) -> Iterator[Batch]:
        """See ``Task.eval_batches``: one draw without the seed, so that batch size changes nothing either."""
        held_out = self.draw(generator(Stream.evaluation, 0, 0), sequences, self.spec.test_length)
        for start in range(0, sequences, batch_size):
            yield held_out.rows(start, start + batch_size)

    def save_tokenizer(self, folder: Path) -> None:
        """Nothing: tokens are no text."""
