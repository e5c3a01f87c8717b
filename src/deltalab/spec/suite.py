"""What a finished trial is measured on: a suite of tasks, and how much of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from deltalab.errors import ConfigError, UsageError

DRAWN = 500
"""Sequences or prompts of a task at a length that are drawn unless others are asked for."""


class Suite(Enum):
    """The paper's tables (table2: language and commonsense; table3: needles in a haystack; table4: real retrieval), and
    small: the drawn tasks, longer and fuller than trained."""

    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    small = "small"


@dataclass(frozen=True, kw_only=True)
class SuiteSpec:
    """A suite and how it is run.

    Attributes:
        suite: which.
        task: of its tasks these; empty takes those of the suite that the trial can express.
        lengths: in tokens; empty takes the suite's own (``small``, ``table3``).
        samples: sequences or prompts of a task at a length; None takes ``DRAWN`` of what is drawn, and all rows of
            ``table2`` and ``table4``, of which others are the first.
        batch_size: of them at a time; of ``table2`` and ``table4`` so many of ``max_length`` tokens, or more that are
            shorter. Changes no result.
        add_bos: whether a prompt begins a document (the tables).
        haystack: ``help`` or a file, of the tasks in prose (``table3``).
        max_length: tokens read at a time (``table2``), of a prompt with its answer (``table4``).
        data_dir: what ``deltalab prepare-eval`` made; None downloads what is missing (``table2``, ``table4``).
    """

    suite: Suite
    task: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    samples: int | None = None
    batch_size: int = 8
    add_bos: bool = True
    haystack: str = "help"
    max_length: int = 2048
    data_dir: str | None = None

    def __post_init__(self) -> None:
        for key, numbers in (
            ("lengths", self.lengths),
            ("samples", () if self.samples is None else (self.samples,)),
            ("batch_size", (self.batch_size,)),
            ("max_length", (self.max_length,)),
        ):
            if any(number < 1 for number in numbers):
                shown = ",".join(map(str, numbers))
                raise ConfigError(key, shown, "whole numbers from 1" if key == "lengths" else "a whole number from 1")

    @property
    def drawn(self) -> int:
        """``samples`` of what is drawn."""
        return DRAWN if self.samples is None else self.samples

    def tasks(self, known: Collection[str], default: Sequence[str] | None = None) -> tuple[str, ...]:
        """``task``; where that is empty ``default``, or all that are known.

        Raises:
            ConfigError: a task that is none.
        """
        for name in self.task:
            if name not in known:
                raise ConfigError("task", name, known)
        return self.task or tuple(known if default is None else default)


EXECUTION = ("batch_size", "data_dir")
"""Of a suite, what changes no result: data sets are known by their checksums."""


def suite_identity(suite: SuiteSpec) -> dict[str, Any]:
    """What decides a suite's results, as JSON values."""
    plain = {f.name: getattr(suite, f.name) for f in fields(suite) if f.name not in EXECUTION}
    return {**plain, "suite": suite.suite.value, "task": list(suite.task), "lengths": list(suite.lengths)}


def read_suite(text: str) -> SuiteSpec:
    """A suite in one line, its name first: ``small``, ``small task=mqar samples=200``. Errors as ``read_settings``."""
    name, *settings = text.split() or [""]
    return read_settings([f"suite={name}", *settings])


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is measured, at least the first word, and the settings, which begin with the first key of a suite."""
    keys = tuple(f"{field.name}=" for field in fields(SuiteSpec))
    first = next((place for place, word in enumerate(words) if place and word.startswith(keys)), len(words))
    return list(words[:first]), list(words[first:])


def read_settings(settings: Sequence[str]) -> SuiteSpec:
    """The suite of settings as they are typed: ``suite=small task=mqar,parity lengths=64,128 samples=200``.

    Raises:
        UsageError: no setting, a key that is none, a key given twice, no suite.
        ConfigError: a value that is not allowed.
    """
    given = read_pairs(settings, [field.name for field in fields(SuiteSpec)])
    if "suite" not in given:
        raise UsageError(f"suite: none given; allowed is suite= one of {', '.join(suite.value for suite in Suite)}")
    return SuiteSpec(**{key: _READ[key](key, value) for key, value in given.items()})


def read_pairs(settings: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Settings as they are typed, by key.

    Raises:
        UsageError: a key that is none, or is given twice.
    """
    given: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in keys or key in given:
            raise UsageError(f"{setting}: allowed is KEY=VALUE, each once, with one of {', '.join(keys)}")
        given[key] = value
    return given


def _suite(key: str, value: str) -> Suite:
    try:
        return Suite(value)
    except ValueError:
        raise ConfigError(key, value, [suite.value for suite in Suite]) from None


def _whole(key: str, value: str) -> int:
    if not value.isdecimal():
        raise ConfigError(key, value, "whole numbers from 1")
    return int(value)


def _flag(key: str, value: str) -> bool:
    if value not in ("true", "false"):
        raise ConfigError(key, value, ["true", "false"])
    return value == "true"


def _list(value: str) -> list[str]:
    return value.removeprefix("[").removesuffix("]").split(",")


_READ: dict[str, Any] = {
    "suite": _suite,
    "task": lambda key, value: tuple(_list(value)),
    "lengths": lambda key, value: tuple(_whole(key, part) for part in _list(value)),
    "samples": _whole,
    "batch_size": _whole,
    "add_bos": _flag,
    "haystack": lambda key, value: value,
    "max_length": _whole,
    "data_dir": lambda key, value: str(Path(value).absolute()),  # workers may run elsewhere
}
