"""Needles in noise: what a reader of the bytes would answer, and at which depth it lay."""

import re

import numpy as np
import pytest

from deltalab.data.batch import IGNORE, make_task
from deltalab.spec.data import NeedleSpec
from tests.data.drawn import held_out


@pytest.mark.parametrize(("needles", "digits"), [(1, 4), (3, 2), (26, 1)])
def test_the_answer_is_the_number_of_the_letter_that_is_asked_for(needles: int, digits: int):
    spec = NeedleSpec(needles=needles, digits=digits, train_length=140, test_length=200)
    for batch in (held_out(spec, 40), make_task(spec, 1).train_batch(0, 40)):
        for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            text = bytes(tokens).decode()
            haystack, question = text[: -spec.question_length], text[-spec.question_length :]
            numbers = dict(re.findall(r"([A-Z])=(\d+);", haystack))
            assert len(numbers) == needles
            assert set(re.sub(r"[A-Z]=\d+;", "", haystack)) <= set("abcdefghijklmnopqrstuvwxyz ")
            answer = numbers[question[0]]
            assert question == f"{question[0]}={answer[:-1]}"
            assert targets == [IGNORE] * (len(text) - digits) + [ord(digit) for digit in answer]


def test_slices_are_depths():
    spec = NeedleSpec(train_length=100, test_length=100, needles=2)
    batch = held_out(spec, 500)
    assert spec.slices == tuple(batch.slices)
    np.testing.assert_array_equal(np.sum(list(batch.slices.values()), axis=0), batch.scored)
    for name, mask in batch.slices.items():
        first, last = map(int, name.removeprefix("depth/").split("-"))
        rows = np.flatnonzero(mask.any(axis=1))
        assert len(rows) > 50  # of about 100
        for row in rows:
            text = bytes(batch.tokens[row].tolist()).decode()
            depth = 100 * text.index(text[95] + "=") / (100 - 5 - 7)
            assert first <= depth <= last
