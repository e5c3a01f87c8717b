"""MQAR: labels by replaying the bindings, the gaps' distribution, overwrites and slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltalab.data.batch import IGNORE, make_task
from deltalab.data.recall import draw_distinct, draw_gaps
from deltalab.spec.data import RecallSpec
from tests.data.drawn import held_out


@st.composite
def specs(draw: st.DrawFn) -> RecallSpec:
    """Any spec that is allowed, of up to 7 pairs."""
    pairs = draw(st.integers(1, 7))
    overwrites, distractors = draw(st.integers(0, pairs)), draw(st.integers(0, 5))
    need = 4 * pairs + 2 * overwrites + 2 * distractors
    return RecallSpec(
        pairs=pairs,
        overwrites=overwrites,
        distractors=distractors,
        vocab=2 * draw(st.integers(pairs + distractors + 1, pairs + distractors + 20)),
        train_length=need + draw(st.integers(0, 30)),
        test_length=need + draw(st.integers(0, 60)),
        gap_power=draw(st.floats(0.01, 3.0)),
    )


def replay(spec: RecallSpec, tokens: list[int]) -> list[int]:
    """Targets of a sequence, token by token with a dictionary."""
    newest: dict[int, int] = {}
    targets = [IGNORE] * len(tokens)
    for position in range(0, spec.context_length, 2):
        key, value = tokens[position : position + 2]
        assert 1 <= key < spec.vocab // 2 <= value < spec.vocab
        assert newest.get(key) != value, "bound again to the same value"
        assert (key in newest) == (position >= 2 * (spec.pairs + spec.distractors))
        newest[key] = value
    for position in range(spec.context_length, len(tokens)):
        if tokens[position]:
            targets[position] = newest.pop(tokens[position])  # a second query of a key would fail
    assert len(newest) == spec.distractors, "a key that was not to be a distractor was never asked for"
    return targets


def test_distractors_lie_anywhere_among_the_first_bindings():
    spec = RecallSpec(pairs=4, distractors=4, train_length=64, test_length=64)
    batch = held_out(spec, 400)
    asked = [set(row[scored].tolist()) for row, scored in zip(batch.tokens, batch.scored, strict=True)]
    bound = batch.tokens[:, 0:16:2]
    share = np.mean([[key in keys for key in row] for row, keys in zip(bound.tolist(), asked, strict=True)], axis=0)
    np.testing.assert_allclose(share, 0.5, atol=0.1)  # 4 standard errors


@given(spec=specs(), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_targets_are_the_newest_values(spec: RecallSpec, seed: int):
    for batch in (make_task(spec, seed).train_batch(0, 3), held_out(spec, 3)):
        for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            assert targets == replay(spec, tokens)


@given(spec=specs())
@settings(max_examples=60, deadline=None)
def test_slices_partition_the_queries(spec: RecallSpec):
    batch = held_out(spec, 4)
    gaps = [mask for name, mask in batch.slices.items() if name.startswith("gap/")]
    np.testing.assert_array_equal(np.sum(gaps, axis=0), batch.scored)
    if spec.overwrites:
        overwritten, kept = batch.slices["overwritten"], batch.slices["kept"]
        np.testing.assert_array_equal(overwritten + kept, batch.scored)
        assert (overwritten.sum(axis=1) == spec.overwrites).all()


def test_overwritten_are_the_queries_whose_key_was_bound_again():
    spec = RecallSpec(overwrites=4)
    batch = held_out(spec, 50)
    for row, tokens in enumerate(batch.tokens):
        rebound = set(tokens[2 * spec.pairs : spec.context_length : 2].tolist())
        assert len(rebound) == 4
        assert set(tokens[batch.slices["overwritten"][row]].tolist()) == rebound


def test_keys_and_values_of_a_sequence_are_distinct():
    batch = held_out(RecallSpec(pairs=15, vocab=32, test_length=64), 100)
    assert all(len(set(row)) == 15 for row in batch.tokens[:, 0:30:2].tolist())
    assert all(len(set(row)) == 15 for row in batch.tokens[:, 1:30:2].tolist())


def test_a_new_value_is_any_other_value():
    spec = RecallSpec(pairs=2, overwrites=2, vocab=8)
    tokens = held_out(spec, 4000).tokens
    old = {int(k): int(v) for k, v in zip(tokens[0, 0:4:2], tokens[0, 1:4:2], strict=True)}
    assert all(old[int(k)] != int(v) for k, v in zip(tokens[0, 4:8:2], tokens[0, 5:8:2], strict=True))
    rebound_first = tokens[:, [4]] == tokens[:, [0, 2]]
    steps = (tokens[:, 5] - np.where(rebound_first[:, 0], tokens[:, 1], tokens[:, 3])) % 4
    counts = np.bincount(steps, minlength=4)
    assert counts[0] == 0
    assert abs(counts[1:] * 3 / 4000 - 1).max() < 0.1


def test_slice_ranges_reach_twice_as_far_each_time():
    assert RecallSpec(overwrites=4, train_length=64, test_length=128).slices == (
        "gap/1-4", "gap/5-8", "gap/9-16", "gap/17-32", "gap/33-52", "overwritten", "kept",
    )  # fmt: skip


def test_gap_slices_are_places_after_the_context():
    spec = RecallSpec(overwrites=4)
    batch = held_out(spec, 200)
    positions = np.flatnonzero(batch.slices["gap/5-8"].any(axis=0)) - spec.context_length
    assert positions.tolist() == [8, 10, 12, 14]


def test_gaps_follow_the_power_law():
    rng, power, places = np.random.default_rng(0), 0.3, 12
    law = np.arange(1, places + 1) ** (power - 1.0)
    law /= law.sum()
    first = draw_gaps(rng, 40_000, places, 1, power)[:, 0]
    np.testing.assert_allclose(np.bincount(first, minlength=places + 1)[1:] / 40_000, law, atol=0.01)
    pairs = np.sort(draw_gaps(rng, 40_000, places, 2, power), axis=1)
    one_two = law[0] * law[1] / (1 - law[0]) + law[1] * law[0] / (1 - law[1])
    assert (pairs == [1, 2]).all(axis=1).mean() == pytest.approx(one_two, abs=0.01)


def test_a_small_power_asks_early_and_power_one_anywhere():
    early = draw_gaps(np.random.default_rng(0), 2000, 100, 8, 0.01)
    anywhere = draw_gaps(np.random.default_rng(0), 2000, 100, 8, 1.0)
    assert early.mean() < 30
    assert anywhere.mean() == pytest.approx(50.5, abs=1)


def test_the_order_of_the_queries_says_nothing_about_the_order_of_the_pairs():
    gaps = draw_gaps(np.random.default_rng(0), 20_000, 20, 4, 0.01)
    np.testing.assert_allclose(gaps.mean(axis=0), gaps.mean(), rtol=0.03)


@given(population=st.integers(0, 30), data=st.data())
def test_draws_are_distinct(population: int, data: st.DataObject):
    count = data.draw(st.integers(0, population))
    rows = draw_distinct(np.random.default_rng(0), 5, population, count)
    assert rows.shape == (5, count)
    assert all(len(set(row)) == count and set(row) <= set(range(population)) for row in rows.tolist())


def test_every_ordered_draw_is_equally_likely():
    rows = draw_distinct(np.random.default_rng(0), 24_000, 4, 2)
    counts = np.bincount(rows[:, 0] * 4 + rows[:, 1], minlength=16).reshape(4, 4)
    assert (np.diag(counts) == 0).all()
    assert abs(counts[~np.eye(4, dtype=bool)] / 2000 - 1).max() < 0.1
