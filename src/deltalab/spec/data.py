"""The tasks a trial can train on. Each batch is a pure function of (seed, step)."""

from dataclasses import dataclass
from enum import Enum

from deltalab.errors import ConfigError


class Group(Enum):
    """Finite groups whose word problem can be asked: cyclic, symmetric and alternating."""

    Z2 = "Z2"
    Z3 = "Z3"
    Z5 = "Z5"
    Z60 = "Z60"
    S3 = "S3"
    S4 = "S4"
    S5 = "S5"
    A5 = "A5"


class Tokenizer(Enum):
    """bytes: one token per UTF-8 byte; bpe: byte-level BPE trained on the corpus."""

    bytes = "bytes"
    bpe = "bpe"


class Corpus(Enum):
    """Corpora that are on every machine."""

    stdlib = "stdlib"
    docstrings = "docstrings"


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What every task shares.

    Attributes:
        train_length: tokens of a training sequence.
        test_length: tokens of an evaluation sequence (longer than training asks for extrapolation).
    """

    train_length: int = 64
    test_length: int = 64

    def __post_init__(self) -> None:
        for key in ("train_length", "test_length"):
            if getattr(self, key) < 1:
                raise ConfigError(f"data.{key}", getattr(self, key), "a whole number from 1")


@dataclass(frozen=True, kw_only=True)
class StateTrackingSpec(DataSpec):
    """Word problem of a finite group: the label at t is the product of the first t elements.

    ``Z2`` is parity. Accuracy is reported by position slice: within the training length and beyond it.
    """

    group: Group = Group.Z2


@dataclass(frozen=True, kw_only=True)
class RecallSpec(DataSpec):
    """Multi-query associative recall (MQAR, arXiv 2312.04927), optionally with overwritten keys.

    Attributes:
        pairs: distinct keys bound per sequence.
        overwrites: how many of them are bound again to another value (the newest counts).
        vocab: tokens; keys come from the lower half, values from the upper half.
        gap_power: exponent a of the query gaps, p(gap) ∝ a·gap^(a−1); small means early queries.
    """

    pairs: int = 8
    overwrites: int = 0
    vocab: int = 64
    gap_power: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        need = 4 * self.pairs + 2 * self.overwrites
        for key in ("train_length", "test_length"):
            if need > getattr(self, key):
                raise ConfigError(f"data.{key}", getattr(self, key), f"at least 4·pairs + 2·overwrites = {need}")
        if self.pairs < 1:
            raise ConfigError("data.pairs", self.pairs, "a whole number from 1")
        if not 0 <= self.overwrites <= self.pairs:
            raise ConfigError("data.overwrites", self.overwrites, f"0 to data.pairs = {self.pairs}")
        if self.vocab % 2 or self.vocab < 2 * self.pairs + 2:
            raise ConfigError("data.vocab", self.vocab, f"an even number from 2·pairs + 2 = {2 * self.pairs + 2}")
        if self.gap_power <= 0:
            raise ConfigError("data.gap_power", self.gap_power, "a number above 0")


@dataclass(frozen=True, kw_only=True)
class TextSpec(DataSpec):
    """Next-token prediction on a corpus that is on every machine, loaded through ``datasets``.

    Attributes:
        corpus: ``stdlib`` is the source of Python's standard library, ``docstrings`` its documentation strings.
        tokenizer: bytes or a byte-level BPE trained on the corpus.
        bpe_vocab: tokens of the BPE.
        corpus_sha256: hash of the corpus text; null is filled in when the trial is resolved, so trials on different
            Pythons never share an id.
    """

    corpus: Corpus = Corpus.stdlib
    tokenizer: Tokenizer = Tokenizer.bytes
    bpe_vocab: int = 4096
    corpus_sha256: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokenizer is Tokenizer.bpe and not 260 <= self.bpe_vocab <= 65536:
            raise ConfigError("data.bpe_vocab", self.bpe_vocab, "260 to 65536")
