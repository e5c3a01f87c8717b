"""RULER's needles: the definition, the length that is filled, and what a sample depends on."""

import re
import sys
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltalab.data.tokens import BPEEncoder, ByteEncoder
from deltalab.errors import ConfigError, MissingExtra
from deltalab.evals import ruler
from deltalab.evals.haystack import Haystack, read_haystack
from deltalab.evals.retrieval import PAPER_TASKS
from deltalab.evals.ruler import ANSWER_TOKENS, NOISE, TASKS, Niah, most_units, sentences

NEEDLE = re.compile(r"One of the special magic (number|uuid)s for (\S+) is: (\S+)\.")
PROMPT = re.compile(
    r"A special magic (\w+) is hidden within the following text\. Make sure to memorize it\. "
    r"I will quiz you about the (\w+) afterwards\.\n(.*)\n"
    r"What is the special magic (\w+) for (\S+) mentioned in the provided text\? "
    r"The special magic (\w+) for (\S+) mentioned in the provided text is",
    re.DOTALL,
)
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
VALUES = {"number": r"[1-9]\d{6}", "uuid": UUID4}
KEYS = {"niah_multikey_3": UUID4}


@cache
def essay() -> Haystack:
    return read_haystack("help")


@cache
def encoders() -> dict[str, Callable[[str], Sequence[int]]]:
    """Three kinds of tokens; the last are words, of which there is no vocabulary."""
    bpe = BPEEncoder.learn(2000, [essay().text[:100_000], NOISE])
    return {"bpe": bpe.encode_text, "bytes": ByteEncoder(257).encode_text, "words": lambda text: range(text.count(" "))}


def samples(name: str, length: int, tokens: str = "bpe", count: int = 3) -> list[ruler.Sample]:
    niah = Niah(name, length, encoders()[tokens], essay())
    return [niah.sample(number) for number in range(count)]


@pytest.mark.parametrize("name", TASKS)
def test_the_prompt_is_rulers(name: str):
    task, kind = TASKS[name], TASKS[name].value.value
    for sample in samples(name, 2048, count=8):
        found = PROMPT.fullmatch(sample.prompt)
        assert found
        context, keys = found[3], {found[5], found[7]}
        assert {found[i] for i in (1, 2, 4, 6)} == {kind}
        bindings = [(key, value) for _, key, value in NEEDLE.findall(context)]
        assert [value for key, value in bindings if {key} == keys] == [sample.answer]
        assert re.fullmatch(VALUES[kind], sample.answer)
        assert all(re.fullmatch(KEYS.get(name, r"[a-zA-Z'.-]+-[a-zA-Z'.-]+"), key) for key, _ in bindings)
        rest = NEEDLE.sub("", context)
        if task.hay is ruler.Hay.noise:
            assert set(rest.split("\n")) == {NOISE, ""}
        elif task.hay is ruler.Hay.prose:
            assert len(bindings) == task.keys
            words = rest.split()
            assert words == essay().words[: len(words)]
        else:
            assert len(bindings) > 10
            assert not rest.strip()


@pytest.mark.parametrize("tokens", ["bpe", "bytes"])
@pytest.mark.parametrize("length", [1024, 2048, 4096, 8192])
def test_the_length_is_filled(length: int, tokens: str):
    for name in PAPER_TASKS:
        for sample in samples(name, length, tokens):
            assert sample.tokens == encoders()[tokens](sample.prompt)
            assert 0.97 <= (len(sample.tokens) + ANSWER_TOKENS) / length <= 1


def test_a_haystack_that_ends_begins_again():
    short = Haystack("short", "One two three. Four five.")
    (sample,) = [Niah("niah_single_2", 1024, encoders()["words"], short).sample(0)]
    words = NEEDLE.sub("", sample.prompt).split("\n")[1].split()
    assert words == (short.words * len(words))[: len(words)]
    assert len(sample.tokens) + ANSWER_TOKENS >= 0.97 * 1024


def test_a_sample_depends_on_task_and_number_alone():
    one, other = (samples("niah_multikey_1", length, tokens) for length, tokens in ((1024, "bpe"), (4096, "bytes")))
    assert [(s.answer, s.depth) for s in one] == [(s.answer, s.depth) for s in other]
    niah = Niah("niah_multikey_1", 1024, encoders()["bpe"], essay())
    assert [niah.sample(number) for number in (2, 0)] == [one[2], one[0]]
    assert len({s.answer for s in [*one, *samples("niah_single_2", 1024)]}) == 6


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_the_depth_is_where_the_needle_lies(name: str):
    depths = []
    for sample in samples(name, 2048, "words", 60):
        context = sample.prompt[sample.prompt.index("\n") : sample.prompt.rindex("\n")]
        needle = next(found for found in NEEDLE.finditer(context) if found[3] == sample.answer)
        before, whole = (len(sentences(NEEDLE.sub("", text).strip())) for text in (context[: needle.start()], context))
        assert abs(100 * before / whole - sample.depth) < 1
        depths.append(sample.depth)
    assert min(depths) < 15
    assert max(depths) > 85


def test_no_room():
    with pytest.raises(ConfigError, match=r"lengths=200: allowed is from \d+: what niah_single_2 needs"):
        Niah("niah_single_2", 200, encoders()["bytes"], essay())


def test_without_wonderwords(monkeypatch: pytest.MonkeyPatch):
    ruler._word_lists.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(MissingExtra, match=r"pip install 'deltalab\[eval\]'"):
        samples("niah_single_1", 1024)


@given(
    room=st.integers(1, 5000), unit=st.integers(1, 70), fixed=st.integers(0, 200), guess=st.floats(0.3, 90),
    slack=st.integers(0, 9),
)  # fmt: skip
def test_the_most_units_that_fit(room: int, unit: int, fixed: int, guess: float, slack: int):
    most = max(0, (room - fixed) // unit)
    found = most_units(lambda units: fixed + unit * units, room, guess, slack)
    assert found <= most
    assert found == most or room - (fixed + unit * found) <= slack
