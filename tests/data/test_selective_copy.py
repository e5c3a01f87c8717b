"""Selective copying: the answers are the symbols in order, strewn uniformly."""

import numpy as np

from deltalab.data.batch import IGNORE, make_task
from deltalab.spec.data import SelectiveCopySpec
from tests.data.drawn import held_out


def test_the_targets_are_the_symbols_in_order():
    spec = SelectiveCopySpec(train_length=30, test_length=40, copies=6, vocab=9)
    for batch in (held_out(spec, 50), make_task(spec, 3).train_batch(2, 50)):
        for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
            symbols = [token for token in tokens if token >= 2]
            assert len(symbols) == 6
            assert max(symbols) < 9
            assert tokens[-6:] == [1] * 6
            assert targets == [IGNORE] * (len(tokens) - 6) + symbols


def test_the_shortest_sequence_has_no_blank():
    tokens = held_out(SelectiveCopySpec(train_length=6, test_length=6, copies=3), 20).tokens
    assert (tokens > 0).all()


def test_symbols_lie_anywhere():
    tokens = held_out(SelectiveCopySpec(train_length=16, test_length=16, copies=4), 2000).tokens
    share = (tokens[:, :12] >= 2).mean(axis=0)
    np.testing.assert_allclose(share, 4 / 12, atol=0.05)  # more than 4 standard errors


def test_slices_are_the_order():
    spec = SelectiveCopySpec(train_length=40, test_length=40, copies=10)
    batch = held_out(spec, 3)
    assert spec.slices == tuple(batch.slices) == ("order/1-4", "order/5-8", "order/9-10")
    assert [int(mask.sum()) for mask in batch.slices.values()] == [12, 12, 6]
    np.testing.assert_array_equal(np.sum(list(batch.slices.values()), axis=0), batch.scored)
