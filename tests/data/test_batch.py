"""Every task: shapes, vocabulary, purity in (seed, step), and one held-out set for all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltalab.data.batch import IGNORE, Batch, Task, make_task
from deltalab.data.generated import Stream, generator
from deltalab.spec.data import (
    DataSpec,
    Group,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
    Tokenizer,
)
from tests.data.tiny import use_tiny_corpus

SPECS = {
    "parity": StateTrackingSpec(train_length=12, test_length=30),
    "A5": StateTrackingSpec(group=Group.A5, train_length=9, test_length=9),
    "recall": RecallSpec(train_length=46, test_length=50, overwrites=3, distractors=2),
    "selective_copy": SelectiveCopySpec(train_length=20, test_length=40),
    "registers": RegistersSpec(train_length=24, test_length=31),
    "needle": NeedleSpec(train_length=40, test_length=60, needles=3),
    "bytes": TextSpec(train_length=16, test_length=24),
    "bpe": TextSpec(train_length=16, test_length=24, tokenizer=Tokenizer.bpe, bpe_vocab=300),
}

Make = Callable[[int], Task]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    """One tiny corpus, and one cache, for all tests of this file."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield use_tiny_corpus(monkeypatch, Path(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest, tiny: Path) -> DataSpec:
    """A spec of each task."""
    return SPECS[request.param]


@pytest.fixture
def make(spec: DataSpec) -> Make:
    """Seed → the spec's task."""
    return lambda seed: make_task(spec, seed)


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal in every part."""
    assert one.slices.keys() == other.slices.keys()
    pairs = [(one.tokens, other.tokens), (one.targets, other.targets)]
    pairs += [(one.slices[name], other.slices[name]) for name in one.slices]
    return all(a.shape == b.shape and np.array_equal(a, b) for a, b in pairs)


def test_a_batch_has_the_shape_that_was_asked_for(spec: DataSpec, make: Make):
    batch = make(0).train_batch(3, 5)
    assert batch.tokens.shape == batch.targets.shape == (5, spec.train_length)
    assert batch.tokens.dtype == batch.targets.dtype == np.int64
    assert all(mask.shape == batch.tokens.shape and mask.dtype == bool for mask in batch.slices.values())


def test_tokens_and_targets_are_in_the_vocabulary(spec: DataSpec, make: Make):
    task = make(0)
    assert task.vocab_size == spec.vocab_size
    for batch in [task.train_batch(0, 16), *task.eval_batches(16, 16)]:
        scored = batch.targets[batch.scored]
        assert batch.tokens.min() >= 0
        assert batch.tokens.max() < spec.vocab_size
        assert scored.size
        assert scored.min() >= 0
        assert scored.max() < spec.vocab_size


def test_a_batch_depends_on_seed_and_step_alone(make: Make):
    asked_at_once, asked_after_others = make(7), make(7)
    for step in range(4):
        asked_after_others.train_batch(step, 6)
    assert same(asked_at_once.train_batch(4, 6), asked_after_others.train_batch(4, 6))


def test_another_seed_or_step_gives_another_batch(make: Make):
    batch = make(7).train_batch(4, 6)
    assert not same(batch, make(8).train_batch(4, 6))
    assert not same(batch, make(7).train_batch(5, 6))


def test_the_held_out_set_is_the_same_for_every_seed_and_batch_size(spec: DataSpec, make: Make):
    (whole,) = make(1).eval_batches(10, 10)
    parts = list(make(2).eval_batches(10, 4))
    assert [len(part.tokens) for part in parts] == [4, 4, 2]
    assert whole.tokens.shape == (10, spec.test_length)
    np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    np.testing.assert_array_equal(np.concatenate([part.targets for part in parts]), whole.targets)
    for name, mask in whole.slices.items():
        np.testing.assert_array_equal(np.concatenate([part.slices[name] for part in parts]), mask)


def test_slices_are_those_of_the_spec_and_only_scored_positions(spec: DataSpec, make: Make):
    for batch in make(0).eval_batches(32, 8):
        assert tuple(batch.slices) == spec.slices
        for mask in batch.slices.values():
            assert (batch.targets[mask] != IGNORE).all()


def test_slice_names_are_metric_names(spec: DataSpec):
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-/")
    assert all(set(name) <= allowed for name in spec.slices)


@given(seed=st.integers(0, 2**70), step=st.integers(0, 2**31))
def test_streams_of_a_seed_differ(seed: int, step: int):
    draws = [generator(stream, seed, step).integers(2**62, size=2).tolist() for stream in Stream]
    assert len({tuple(draw) for draw in draws}) == len(Stream)
    assert draws[0] == generator(Stream.train, seed, step).integers(2**62, size=2).tolist()


def test_training_does_not_meet_the_held_out_set():
    task = make_task(StateTrackingSpec(group=Group.S5, train_length=20, test_length=20), 0)
    held_out = {row.tobytes() for batch in task.eval_batches(64, 64) for row in batch.tokens}
    assert len(held_out) == 64
    assert not held_out & {row.tobytes() for step in range(20) for row in task.train_batch(step, 64).tokens}
