"""Multi-query associative recall (MQAR, arXiv 2312.04927), with keys that may be bound again, and distractors.

First come ``pairs`` bindings of distinct keys to distinct values, then ``overwrites`` of these keys bound again to
another value, then every key once as a query, whose target is the key's newest value. Among the first bindings lie, in
random order, those of ``distractors`` further keys that nobody asks for: they fill the state and interfere. Two pairs,
one overwrite, vocab 16 (keys 1-7, values 8-15):

    position   1  2  3  4  5  6  7  8  9 10 11 12
    token      3 11  5  8  3 14  5  0  0  0  3  0
    target     ·  ·  ·  ·  ·  ·  8  ·  ·  · 14  ·
               k1 v1 k2 v2 k1 v1'k2          k1
    gap                          1     2     3

A query takes every second place after the context; the g-th place is gap g, and gaps are drawn without replacement
with p(g) ∝ a·g^(a−1), a = ``gap_power``. Which key takes which of the drawn gaps is uniform. The remaining places hold
token 0, which is neither key nor value: a random value there would read as one more binding of the query before it.
"""

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import IGNORE, Batch
from deltalab.data.generated import GeneratedTask
from deltalab.spec.data import RecallSpec, range_name


class Recall(GeneratedTask[RecallSpec]):
    """MQAR; only queries are scored, slices are ranges of gaps and ``overwritten`` and ``kept`` keys.

    Args:
        spec: pairs, overwrites, vocabulary, gaps and lengths.
        seed: of the training sequences.
    """

    def draw(self, rng: np.random.Generator, rows: int, length: int) -> Batch:
        """``rows`` sequences of bindings and queries."""
        pairs, bound, half = self.spec.pairs, self.spec.pairs + self.spec.distractors, self.spec.vocab // 2
        tokens = np.zeros((rows, length), dtype=np.int64)
        targets = np.full((rows, length), IGNORE, dtype=np.int64)
        keys = 1 + draw_distinct(rng, rows, half - 1, bound)
        values = half + draw_distinct(rng, rows, half, bound)
        order = draw_distinct(rng, rows, bound, bound) if self.spec.distractors else np.arange(bound)[None]
        _interleave(tokens, 0, *(np.take_along_axis(part, order, axis=1) for part in (keys, values)))
        keys, values = keys[:, :pairs], values[:, :pairs]
        rebound = draw_distinct(rng, rows, pairs, self.spec.overwrites)
        old = np.take_along_axis(values, rebound, axis=1)
        new = half + (old - half + rng.integers(1, half, size=old.shape)) % half
        _interleave(tokens, 2 * bound, np.take_along_axis(keys, rebound, axis=1), new)
        np.put_along_axis(values, rebound, new, axis=1)

        gaps = draw_gaps(rng, rows, self.spec.query_places(length), pairs, self.spec.gap_power)
        positions = self.spec.context_length + 2 * (gaps - 1)
        np.put_along_axis(tokens, positions, keys, axis=1)
        np.put_along_axis(targets, positions, values, axis=1)
        rebound_at = np.take_along_axis(positions, rebound, axis=1)
        return Batch(tokens=tokens, targets=targets, slices=self._slices(targets, rebound_at))

    def _slices(self, targets: NDArray[np.int64], rebound_at: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
        scored = targets != IGNORE
        length = targets.shape[1]
        gap = (np.arange(length) - self.spec.context_length) // 2 + 1
        slices = {
            f"gap/{range_name(first, last)}": scored & (first <= gap) & (gap <= last)
            for first, last in self.spec.gap_ranges(length)
        }
        if self.spec.overwrites:
            overwritten = np.zeros_like(scored)
            np.put_along_axis(overwritten, rebound_at, True, axis=1)
            slices |= {"overwritten": overwritten, "kept": scored & ~overwritten}
        return slices


def draw_distinct(rng: np.random.Generator, rows: int, population: int, count: int) -> NDArray[np.int64]:
    """int64 [rows, count]: in each row ``count`` different numbers below ``population``, in random order.

    Floyd's sampling (CACM 30:9, 1987), all rows at once: the cost does not grow with the population.
    """
    chosen = np.empty((rows, count), dtype=np.int64)
    for i, last in enumerate(range(population - count, population)):
        number = rng.integers(last + 1, size=rows)
        taken = (chosen[:, :i] == number[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, number)
    return rng.permuted(chosen, axis=1)


def draw_gaps(rng: np.random.Generator, rows: int, places: int, count: int, power: float) -> NDArray[np.int64]:
    """int64 [rows, count]: gaps from 1 to ``places``, drawn without replacement with p(g) ∝ a·g^(a−1), in random order.

    Gumbel top-k: the ``count`` largest of log p(g) + Gumbel noise are such a draw (arXiv 1903.06059).
    """
    log_p = (power - 1) * np.log(np.arange(1, places + 1))
    noisy = log_p + rng.gumbel(size=(rows, places))
    largest = np.argpartition(noisy, places - count, axis=1)[:, places - count :]
    return rng.permuted(1 + largest, axis=1)


def _interleave(tokens: NDArray[np.int64], start: int, keys: NDArray[np.int64], values: NDArray[np.int64]) -> None:
    """Write ``key value key value …`` from ``start`` on."""
    stop = start + 2 * keys.shape[1]
    tokens[:, start:stop:2] = keys
    tokens[:, start + 1 : stop : 2] = values
