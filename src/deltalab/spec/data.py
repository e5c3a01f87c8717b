"""The tasks a trial can train on. Each batch is a pure function of (seed, step)."""

import math
import re
from dataclasses import dataclass
from enum import Enum

from deltalab.errors import ConfigError
from deltalab.spec.groups import MAX_ORDER, Group, generated_group

Ranges = list[tuple[int, int]]
"""Inclusive ranges counted from 1; a range is named ``first-last`` where it becomes a slice of a metric."""

DEPTHS: Ranges = [(0, 20), (20, 40), (40, 60), (60, 80), (80, 100)]
"""Percent of a haystack, the upper bound outside but for 100: the slices of a needle's depth."""

BYTE_VOCAB = 257
"""Tokens of the byte tokenizer: 256 bytes and the end of a document."""


class Tokenizer(Enum):
    """bytes: one token per UTF-8 byte; bpe: byte-level BPE trained on the text; given: the one of
    ``data.tokenizer_name``."""

    bytes = "bytes"
    bpe = "bpe"
    given = "given"


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

    @property
    def vocab_size(self) -> int:
        """Number of token ids; tokens and targets share them."""
        raise NotImplementedError

    @property
    def slices(self) -> tuple[str, ...]:
        """Names ``s`` of the position sets for which an evaluation reports ``eval/accuracy/s``."""
        return ()


@dataclass(frozen=True, kw_only=True)
class StateTrackingSpec(DataSpec):
    """Word problem of a finite group: the label at t is the product of the first t elements.

    ``Z2`` is parity. Accuracy is reported by position slice: within the training length and beyond it.

    Attributes:
        group: a group with a name.
        generators: instead, permutations that generate the group, each as the images of the points 0 to n − 1; any
            finite group is one of permutations. ``[[1,2,3,0],[3,2,1,0]]`` is the symmetry of a square.
    """

    group: Group = Group.Z2
    generators: list[list[int]] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.generators is None:
            return
        points = list(range(len(self.generators[0]))) if self.generators else []
        if not points or any(sorted(generator) != points for generator in self.generators):
            raise ConfigError("data.generators", self.generators, "null or permutations of 0 to n - 1, all of one n")
        if self.vocab_size > MAX_ORDER:
            raise ConfigError("data.generators", self.generators, f"a group of at most {MAX_ORDER} elements")

    @property
    def vocab_size(self) -> int:
        """Order of the group: a token is an element."""
        return self.group.order if self.generators is None else len(generated_group(self.generators))

    @property
    def slices(self) -> tuple[str, ...]:
        """Positions in steps of ``train_length``, e.g. ``1-32`` (trained) and ``33-64`` (beyond)."""
        return tuple(range_name(*r) for r in self.position_ranges(self.test_length))

    def position_ranges(self, length: int) -> Ranges:
        """Positions 1 to ``length`` in steps of ``train_length``; the last step may be shorter."""
        step = self.train_length
        return [(first, min(first + step - 1, length)) for first in range(1, length + 1, step)]


@dataclass(frozen=True, kw_only=True)
class RecallSpec(DataSpec):
    """Multi-query associative recall (MQAR, arXiv 2312.04927), optionally with overwritten keys and distractors.

    Attributes:
        pairs: distinct keys bound per sequence and asked for.
        overwrites: how many of them are bound again to another value (the newest counts).
        distractors: further keys bound among them that are never asked for.
        vocab: tokens; keys come from the lower half, values from the upper half, 0 is filler.
        gap_power: exponent a of the query gaps, p(gap) ∝ a·gap^(a−1); small means early queries.
    """

    pairs: int = 8
    overwrites: int = 0
    distractors: int = 0
    vocab: int = 64
    gap_power: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs < 1:
            raise ConfigError("data.pairs", self.pairs, "a whole number from 1")
        if not 0 <= self.overwrites <= self.pairs:
            raise ConfigError("data.overwrites", self.overwrites, f"0 to data.pairs = {self.pairs}")
        if self.distractors < 0:
            raise ConfigError("data.distractors", self.distractors, "a whole number from 0")
        need = self.context_length + 2 * self.pairs
        _check_lengths(self, need, "4·pairs + 2·overwrites + 2·distractors")
        smallest = 2 * (self.pairs + self.distractors) + 2
        if self.vocab % 2 or self.vocab < smallest:
            allowed = f"an even number from 2·(pairs + distractors) + 2 = {smallest}"
            raise ConfigError("data.vocab", self.vocab, allowed)
        if not 0 < self.gap_power < math.inf:
            raise ConfigError("data.gap_power", self.gap_power, "a finite number above 0")

    @property
    def vocab_size(self) -> int:
        """``vocab``."""
        return self.vocab

    @property
    def slices(self) -> tuple[str, ...]:
        """Queries by gap, e.g. ``gap/1-4``, and by whether their key was bound again."""
        names = [f"gap/{range_name(*r)}" for r in self.gap_ranges(self.test_length)]
        kinds = {"overwritten": self.overwrites, "kept": self.pairs - self.overwrites} if self.overwrites else {}
        return (*names, *(name for name, keys in kinds.items() if keys))

    @property
    def context_length(self) -> int:
        """Tokens before the first place a query can take: the pairs, the distractors and the overwrites."""
        return 2 * (self.pairs + self.distractors + self.overwrites)

    def query_places(self, length: int) -> int:
        """Places a query can take in a sequence of ``length`` tokens: every second one after the context."""
        return (length - self.context_length) // 2

    def gap_ranges(self, length: int) -> Ranges:
        """Gaps 1 to ``query_places(length)``, each range reaching twice as far: 1-4, 5-8, 9-16, 17-32, …"""
        return doubling_ranges(self.query_places(length))


@dataclass(frozen=True, kw_only=True)
class SelectiveCopySpec(DataSpec):
    """Selective copying: symbols strewn among blanks, to be repeated in order at the end.

    Attributes:
        copies: symbols per sequence.
        vocab: tokens; 0 is the blank, 1 asks for the next symbol, the others are symbols.
    """

    copies: int = 8
    vocab: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 1:
            raise ConfigError("data.copies", self.copies, "a whole number from 1")
        _check_lengths(self, 2 * self.copies, "2·copies")
        if self.vocab < 4:
            raise ConfigError("data.vocab", self.vocab, "a whole number from 4")

    @property
    def vocab_size(self) -> int:
        """``vocab``."""
        return self.vocab

    @property
    def slices(self) -> tuple[str, ...]:
        """Symbols by their place in the order, e.g. ``order/1-4``."""
        return tuple(f"order/{range_name(*r)}" for r in doubling_ranges(self.copies))


@dataclass(frozen=True, kw_only=True)
class RegistersSpec(DataSpec):
    """Numbers under names: statements set a register or change it by a difference; changes are scored.

    Attributes:
        registers: names, each set once before anything changes.
        values: numbers a register can hold, 0 to ``values`` - 1.
        resets: share of the later statements that set a register instead of changing it.
    """

    registers: int = 4
    values: int = 8
    resets: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.registers < 1:
            raise ConfigError("data.registers", self.registers, "a whole number from 1")
        _check_lengths(self, 2 * self.registers + 2, "2·registers + 2")
        if self.values < 2:
            raise ConfigError("data.values", self.values, "a whole number from 2")
        if not 0 <= self.resets < 1:
            raise ConfigError("data.resets", self.resets, "a number from 0 and below 1")

    @property
    def vocab_size(self) -> int:
        """A token for each register, each number and each difference between two numbers."""
        return self.registers + self.values + 2 * (self.values - 1)

    @property
    def slices(self) -> tuple[str, ...]:
        """Changes by how many their register has seen since it was set, e.g. ``changes/1-4``."""
        return tuple(f"changes/{range_name(*r)}" for r in self.change_ranges(self.test_length))

    def change_ranges(self, length: int) -> Ranges:
        """Changes 1 to as many as ``length`` tokens have room for, each range reaching twice as far: 1-4, 5-8, …"""
        return doubling_ranges(length // 2 - self.registers)


@dataclass(frozen=True, kw_only=True)
class NeedleSpec(DataSpec):
    """A needle in noise, byte by byte: a number that a letter was given somewhere among random bytes.

    Attributes:
        needles: letters that are given a number; one of them is asked for.
        digits: of a number.
    """

    needles: int = 1
    digits: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.needles <= 26:
            raise ConfigError("data.needles", self.needles, "1 to 26, the letters there are")
        if self.digits < 1:
            raise ConfigError("data.digits", self.digits, "a whole number from 1")
        need = self.needles * self.needle_length + self.question_length
        _check_lengths(self, need, "needles·(digits + 3) + digits + 1")

    @property
    def vocab_size(self) -> int:
        """That of the byte tokenizer."""
        return BYTE_VOCAB

    @property
    def slices(self) -> tuple[str, ...]:
        """Percent of the way to the question at which the needle lies, e.g. ``depth/0-20``."""
        return tuple(f"depth/{range_name(*r)}" for r in DEPTHS)

    @property
    def needle_length(self) -> int:
        """Bytes of ``K=1234;``."""
        return self.digits + 3

    @property
    def question_length(self) -> int:
        """Bytes of ``K=123``: the last digit is only predicted."""
        return self.digits + 1


LOCATING = ("hub", "hub_config", "hub_revision", "hub_split", "files", "column", "tokenizer_name")
"""Keys of a text that say where it and its tokenizer are found; two hashes say what was found."""


@dataclass(frozen=True, kw_only=True)
class TextSpec(DataSpec):
    """Next-token prediction on text: a corpus that is on every machine, a data set of the hub, or files.

    Exactly one of ``corpus``, ``hub`` and ``files`` says where the text is. A corpus is tokenised when it is first
    used; the others by ``deltalab prepare`` before, or while a trial trains (``streaming``).

    Attributes:
        corpus: ``stdlib`` is the source of Python's standard library, ``docstrings`` the documentation strings in it,
            in NumPy and in PyTorch.
        hub: a data set of the hub (``HuggingFaceFW/fineweb-edu``), or a folder in the hub's form.
        hub_config: its configuration (``sample-10BT``); null takes the default one.
        hub_revision: its revision; null takes the newest, which is written down.
        hub_split: its split; validation and test documents are taken out of it.
        files: a glob of parquet, jsonl, arrow (rows with a column of text) or text files (a document each).
        column: where the rows of ``hub`` or ``files`` have their text.
        tokenizer: bytes, a byte-level BPE trained on the text, or a given one.
        bpe_vocab: tokens of the BPE, the end of a document included.
        tokenizer_name: the given tokenizer: a ``tokenizer.json``, a folder with one, or a name on the hub.
        bos: its token before each document, as it is written (``<s>``); null puts none.
        eos: its token after each document; null puts none.
        held_out: percent of the documents that are validation, and as many test; a document's hash decides.
        streaming: tokens are made while trials train, a shard before it is read, instead of all of them before.
        reset: sequences are packed either way; true begins every document with an empty state, a new attention and a
            new convolution, false lets them run on from the one before.
        corpus_sha256: hash of the text, or, streaming, of its files' names and sizes; null is filled in when the trial
            is resolved, so trials on different texts never share an id.
        tokenizer_sha256: hash of the given tokenizer, filled in likewise.
        tokenizer_vocab: its number of tokens, filled in likewise.
    """

    corpus: Corpus | None = Corpus.stdlib
    hub: str | None = None
    hub_config: str | None = None
    hub_revision: str | None = None
    hub_split: str = "train"
    files: str | None = None
    column: str = "text"
    tokenizer: Tokenizer = Tokenizer.bytes
    bpe_vocab: int = 4096
    tokenizer_name: str | None = None
    bos: str | None = None
    eos: str | None = None
    held_out: float = 5.0
    streaming: bool = False
    reset: bool = False
    corpus_sha256: str | None = None
    tokenizer_sha256: str | None = None
    tokenizer_vocab: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = {key: getattr(self, key) for key in ("corpus", "hub", "files")}
        named = [key for key, value in sources.items() if value is not None]
        if len(named) != 1:
            last = named[-1] if named else "corpus"
            value = getattr(self, last)
            said = value.value if isinstance(value, Enum) else value
            others = " and ".join(f"data.{key}=null" for key in named[:-1])
            allowed = f"null, or {others} with it" if named else "a text (data.corpus, data.hub or data.files)"
            raise ConfigError(f"data.{last}", "null" if said is None else said, allowed)
        self._check_tokenizer()
        if self.streaming and self.corpus is not None:
            allowed = f"false with data.corpus={self.corpus.value}, whose tokens are made at its first use anyway"
            raise ConfigError("data.streaming", "true", allowed)
        if not 0 < self.held_out < 50:
            raise ConfigError("data.held_out", self.held_out, "a percentage above 0 and below 50")
        for key in ("corpus_sha256", "tokenizer_sha256"):
            value = getattr(self, key)
            if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
                raise ConfigError(f"data.{key}", value, "null or 64 hexadecimal digits")

    def _check_tokenizer(self) -> None:
        if self.tokenizer is Tokenizer.bpe and not 260 <= self.bpe_vocab <= 65536:
            raise ConfigError("data.bpe_vocab", self.bpe_vocab, "260 to 65536")
        if self.tokenizer is Tokenizer.given:
            if self.tokenizer_name is None:
                allowed = "a tokenizer.json or a name on the hub, with data.tokenizer=given"
                raise ConfigError("data.tokenizer_name", "null", allowed)
            if self.bos is None and self.eos is None:
                raise ConfigError("data.bos", "null", "a token of the tokenizer such as <s>, here or as data.eos")
            return
        for key in ("tokenizer_name", "bos", "eos"):
            if getattr(self, key) is not None:
                allowed = f"null with data.tokenizer={self.tokenizer.value}, or data.tokenizer=given"
                raise ConfigError(f"data.{key}", getattr(self, key), allowed)

    @property
    def vocab_size(self) -> int:
        """257 for bytes, ``bpe_vocab`` for BPE, whose last ids end a document; ``tokenizer_vocab`` for a given one."""
        if self.tokenizer is Tokenizer.given:
            assert self.tokenizer_vocab is not None, "a resolved TextSpec knows its tokenizer"
            return self.tokenizer_vocab
        return BYTE_VOCAB if self.tokenizer is Tokenizer.bytes else self.bpe_vocab

    @property
    def embedded(self) -> bool:
        """Whether everything needed is on every machine, so that nothing has to be prepared."""
        return self.corpus is not None and self.tokenizer is not Tokenizer.given


def _check_lengths(spec: DataSpec, need: int, why: str) -> None:
    for key in ("train_length", "test_length"):
        if need > getattr(spec, key):
            raise ConfigError(f"data.{key}", getattr(spec, key), f"at least {why} = {need}")


def doubling_ranges(last: int) -> Ranges:
    """1 to ``last``, each range reaching twice as far: 1-4, 5-8, 9-16, 17-32, …"""
    ranges, first, end = [], 1, 4
    while first <= last:
        ranges.append((first, min(end, last)))
        first, end = end + 1, 2 * end
    return ranges


def range_name(first: int, last: int) -> str:
    """``first-last``: how a range is called in a metric's name."""
    return f"{first}-{last}"
