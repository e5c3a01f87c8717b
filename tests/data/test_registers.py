"""Registers: a plain interpreter of the statements gives the same answers."""

import numpy as np
import pytest

from deltalab.data.batch import IGNORE, make_task
from deltalab.spec.data import RegistersSpec
from tests.data.drawn import held_out

SPEC = RegistersSpec(registers=3, values=5, resets=0.3, train_length=24, test_length=41)


def interpreted(tokens: list[int], spec: RegistersSpec) -> tuple[list[int], list[int]]:
    """Targets, and at each the changes since the register was set, by running the statements one after another."""
    differences = [d for d in range(1 - spec.values, spec.values) if d]
    held: dict[int, int] = {}
    seen: dict[int, int] = {}
    targets, ages = [], []
    for at, token in enumerate(tokens):
        target, age, name = IGNORE, 0, tokens[at - 1]
        if at % 2 == 0:
            assert token < spec.registers
        elif token < spec.registers + spec.values:
            assert token >= spec.registers
            held[name], seen[name] = token - spec.registers, 0
        else:
            held[name] += differences[token - spec.registers - spec.values]
            seen[name] += 1
            target, age = spec.registers + held[name], seen[name]
            assert 0 <= held[name] < spec.values
        targets.append(target)
        ages.append(age)
    return targets, ages


def test_the_targets_are_what_the_registers_hold_after_each_change():
    for batch in (held_out(SPEC, 80), make_task(SPEC, 3).train_batch(2, 80)):
        for row, (tokens, targets) in enumerate(zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)):
            expected, ages = interpreted(tokens, SPEC)
            assert targets == expected
            for name, mask in batch.slices.items():
                first, last = map(int, name.removeprefix("changes/").split("-"))
                assert mask[row].tolist() == [first <= age <= last for age in ages]


def test_every_register_is_set_once_before_anything_changes():
    tokens = held_out(SPEC, 50).tokens
    np.testing.assert_array_equal(np.sort(tokens[:, 0:6:2], axis=1), [[0, 1, 2]] * 50)
    assert ((tokens[:, 1:6:2] >= 3) & (tokens[:, 1:6:2] < 8)).all()


def test_slices_part_what_is_scored():
    batch = held_out(SPEC, 60)
    assert SPEC.slices == tuple(batch.slices) == ("changes/1-4", "changes/5-8", "changes/9-16", "changes/17-17")
    np.testing.assert_array_equal(np.sum(list(batch.slices.values()), axis=0), batch.scored)


def test_numbers_and_names_are_drawn_alike_and_resets_as_often_as_asked():
    spec = RegistersSpec(registers=4, values=6, resets=0.25, train_length=64, test_length=64)
    batch = held_out(spec, 2000)
    later = batch.tokens[:, 8:]
    assert (later[:, 1::2] < 10).mean() == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(np.bincount(later[:, ::2].ravel()) / later[:, ::2].size, 1 / 4, atol=0.01)
    answers = batch.targets[batch.scored] - 4
    np.testing.assert_allclose(np.bincount(answers, minlength=6) / answers.size, 1 / 6, atol=0.01)


def test_without_resets_every_later_statement_is_scored():
    batch = held_out(RegistersSpec(resets=0.0, train_length=20, test_length=20), 30)
    assert (batch.scored.sum(axis=1) == 10 - 4).all()
