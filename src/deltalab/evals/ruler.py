"""RULER's needles in a haystack (arXiv 2404.06654), generated offline for any tokenizer.

    A special magic number is hidden within the following text. Make sure to memorize it. …
    <hay> One of the special magic numbers for quiet-river is: 4810273. <hay>
    What is the special magic number for quiet-river mentioned in the provided text? The special magic number for
    quiet-river mentioned in the provided text is

Prompt, needle and haystacks are those of RULER's definition: noise is one line repeated; prose is the first words of a
text (the text over again where it ends), with needles between sentences at depths of 0, 3, 5, …, 100 percent; a
haystack of needles is lines with other keys and values. The prompt and ``ANSWER_TOKENS`` fill the nominal length: the
largest number of lines or words that fits is found per sample. Departures: sentences are split by punctuation, a key
is an adjective and a noun drawn apart, the keys of a sample's needles are distinct, and noise grows by sentences where
a line of it is more than ``COARSE`` of the length (a byte tokenizer at 2K).

A sample depends on the task, its number and the haystack alone, so lengths and models share needles.
"""

import functools
import math
import random
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files

from deltalab.errors import ConfigError, MissingExtra
from deltalab.evals.haystack import Haystack

VERSION = 1
"""Of the generator; part of every sample's seed."""
ANSWER_TOKENS = 128
"""Tokens that RULER leaves for the answer."""
ENOUGH = 0.995
"""Of the nominal length: filled up to here, no better fit is looked for."""
COARSE = 0.03
"""Of the nominal length: noise whose line is longer grows by sentences."""
DEPTHS = tuple(round(100 * i / 39) for i in range(40))
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

INTRODUCTION = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n"
)
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
QUESTION = "\nWhat is the special magic {kind} for {key} mentioned in the provided text?"
ANSWER = " The special magic {kind} for {key} mentioned in the provided text is"

Encode = Callable[[str], Sequence[int]]


class Hay(Enum):
    """What the needles lie in."""

    noise = "noise"
    prose = "prose"
    needles = "needles"


class Kind(Enum):
    """What keys and values are: 7 digits, an adjective and a noun, or a random UUID."""

    number = "number"
    word = "word"
    uuid = "uuid"


@dataclass(frozen=True, kw_only=True)
class NiahTask:
    """A task of RULER's.

    Attributes:
        hay: what the needles lie in.
        key: kind of the keys.
        value: kind of the values.
        keys: needles, of which one is asked for.
    """

    hay: Hay
    key: Kind = Kind.word
    value: Kind = Kind.number
    keys: int = 1


TASKS = {
    "niah_single_1": NiahTask(hay=Hay.noise),
    "niah_single_2": NiahTask(hay=Hay.prose),
    "niah_single_3": NiahTask(hay=Hay.prose, value=Kind.uuid),
    "niah_multikey_1": NiahTask(hay=Hay.prose, keys=4),
    "niah_multikey_2": NiahTask(hay=Hay.needles),
    "niah_multikey_3": NiahTask(hay=Hay.needles, key=Kind.uuid, value=Kind.uuid),
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt and what is to be found.

    Attributes:
        prompt: text.
        tokens: of the prompt.
        answer: the value that is asked for.
        depth: percent of the haystack before its needle.
    """

    prompt: str
    tokens: Sequence[int]
    answer: str
    depth: float


class Niah:
    """Samples of a task at a length.

    Args:
        name: a key of ``TASKS``.
        length: tokens of prompt and answer together.
        encode: text → tokens, those that precede every prompt (a beginning of text) included.
        haystack: of the tasks in prose.

    Raises:
        ConfigError: the length has no room for the task.
        MissingExtra: wonderwords, whose words are the keys, is not installed.
    """

    def __init__(self, name: str, length: int, encode: Encode, haystack: Haystack) -> None:
        self.name, self.length, self.task = name, length, TASKS[name]
        self._encode, self._words = encode, haystack.words
        hay = {Hay.noise: Haystack("noise", NOISE), Hay.prose: haystack, Hay.needles: Haystack("needles", NEEDLE)}
        self.label = hay[self.task.hay].label
        self._grain = 1  # sentences of noise that are added at a time
        few, many = (len(encode(self._build(0, units)[0])) for units in (4, 84))
        self._per_unit = (many - few) / 80
        if few + ANSWER_TOKENS > length:
            raise self._too_short(few)
        line = len(sentences(NOISE))
        if self.task.hay is Hay.noise and line * self._per_unit <= COARSE * length:
            self._grain, self._per_unit = line, line * self._per_unit

    def sample(self, number: int) -> Sample:
        """The sample of a number, as long as fits.

        Raises:
            ConfigError: the length has no room for it.
        """
        room = self.length - ANSWER_TOKENS

        def count(units: int) -> int:
            return len(self._encode(self._build(number, units)[0]))

        units = most_units(count, room, self._per_unit, slack=int((1 - ENOUGH) * self.length))
        if units < self.task.keys:
            raise self._too_short(count(self.task.keys))
        prompt, answer, depth = self._build(number, units)
        return Sample(prompt=prompt, tokens=self._encode(prompt), answer=answer, depth=depth)

    def _too_short(self, tokens: int) -> ConfigError:
        return ConfigError(
            "lengths", self.length, f"from {tokens + ANSWER_TOKENS}: what {self.name} needs with this tokenizer"
        )

    def _build(self, number: int, units: int) -> tuple[str, str, float]:
        """Prompt, answer and depth of a sample whose haystack has so many lines, sentences or words."""
        task, rng = self.task, random.Random(f"niah {VERSION} {self.name} {number}")
        keys: list[str] = []
        while len(keys) < task.keys:
            key = draw(task.key, rng)
            keys += [key] if key not in keys else []
        values = [draw(task.value, rng) for _ in keys]
        asked = rng.randrange(task.keys)
        needles = [
            NEEDLE.format(kind=task.value.value, key=key, value=value) for key, value in zip(keys, values, strict=True)
        ]
        hide = {Hay.noise: self._in_noise, Hay.prose: self._in_prose, Hay.needles: self._in_needles}[task.hay]
        context, depth = hide(needles, asked, units, rng)
        around = {"kind": task.value.value, "key": keys[asked]}
        prompt = INTRODUCTION.format(**around) + context + QUESTION.format(**around) + ANSWER.format(**around)
        return prompt, values[asked], depth

    def _in_noise(self, needles: list[str], asked: int, units: int, rng: random.Random) -> tuple[str, float]:
        """Needles as lines before lines of noise; the last line may be a part of one."""
        line = sentences(NOISE)
        count = units * self._grain
        lines = [NOISE] * (count // len(line)) + [" ".join(line[: count % len(line)])] * (count % len(line) > 0)
        return _before_lines(lines, needles, asked, rng)

    def _in_needles(self, needles: list[str], asked: int, units: int, rng: random.Random) -> tuple[str, float]:
        """Needles before lines that are needles, too."""
        task = self.task
        lines = [
            NEEDLE.format(kind=task.value.value, key=draw(task.key, rng), value=draw(task.value, rng))
            for _ in range(units)
        ]
        return _before_lines(lines, needles, asked, rng)

    def _in_prose(self, needles: list[str], asked: int, units: int, rng: random.Random) -> tuple[str, float]:
        """Needles between sentences of the text's first words."""
        text = (self._words * math.ceil(units / len(self._words)))[:units]
        parts = sentences(" ".join(text))
        count, depths = len(parts), rng.sample(DEPTHS, len(needles))
        for depth, needle in sorted(zip(depths, needles, strict=True), reverse=True):  # from the end: places hold
            parts.insert(int(count * depth / 100), needle)
        return " ".join(parts), depths[asked]


def most_units(count: Callable[[int], int], room: int, per_unit: float, slack: int) -> int:
    """The most units, or nearly, whose tokens fit.

    Args:
        count: units → tokens, growing.
        room: tokens there may be.
        per_unit: tokens of a unit, about.
        slack: tokens that may stay free where more would fit.

    Returns:
        0 where not even one fits.
    """
    fits, too_many = 0, math.inf
    units = max(1, int(room / per_unit))
    while too_many - fits > 1:
        spare = room - count(units)
        if spare >= 0:
            fits = units
            if spare <= slack:
                break
        else:
            too_many = units
        step = math.floor(spare / per_unit) or 1  # a negative share is rounded to -1
        units = int(min(max(units + step, fits + 1), too_many - 1))
    return fits


def draw(kind: Kind, rng: random.Random) -> str:
    """A key or a value."""
    if kind is Kind.number:
        return str(rng.randint(10**6, 10**7 - 1))
    if kind is Kind.uuid:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return "-".join(rng.choice(words) for words in _word_lists())


def found(answer: str, text: str) -> bool:
    """RULER's match: whether the answer is part of what was written, whatever the case."""
    return answer.lower() in text.lower()


def sentences(text: str) -> list[str]:
    """A text cut after full stops, question and exclamation marks that white space follows."""
    return re.split(r"(?<=[.!?])\s+", text)


def _before_lines(lines: list[str], needles: list[str], asked: int, rng: random.Random) -> tuple[str, float]:
    places = rng.sample(range(len(lines)), len(needles))
    depth = 100 * places[asked] / len(lines)
    for place, needle in sorted(zip(places, needles, strict=True), reverse=True):
        lines.insert(place, needle)
    return "\n".join(lines), depth


@functools.cache
def _word_lists() -> tuple[list[str], list[str]]:
    """Adjectives and nouns of wonderwords, as RULER takes them.

    Raises:
        MissingExtra: wonderwords is not installed.
    """
    try:
        assets = files("wonderwords") / "assets"
    except ModuleNotFoundError as error:
        raise MissingExtra("suite=table3: wonderwords is not installed; pip install 'deltalab[eval]'") from error
    adjectives, nouns = ((assets / f"{name}list.txt").read_text().split() for name in ("adjective", "noun"))
    return adjectives, nouns
