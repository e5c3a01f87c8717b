"""Curves in long form, a row per point, compact enough for twenty million of them.

Names are categories, whole numbers as narrow as they can be: a row takes 16 to 20 bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deltalab.track.points import Points


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One metric of one trial.

    Attributes:
        cell, seed, state, metric: what the points are of.
        points: all of them.
        compared: place of the point that is compared, or None.
    """

    cell: str
    seed: int
    state: str
    metric: str
    points: Points
    compared: int | None


def curves_of(pieces: Sequence[Piece]) -> pd.DataFrame:
    """The pieces one below the other: cell, seed, state, metric (categories but for the seed), step, value, and
    whether the point is the one that is compared."""
    lengths = np.array([piece.points.step.size for piece in pieces], dtype=np.int64)
    ends = np.cumsum(lengths)
    compared = np.zeros(int(lengths.sum()), dtype=bool)
    places = [(int(e - n), p.compared) for e, n, p in zip(ends, lengths, pieces, strict=True)]
    compared[[start + place for start, place in places if place is not None]] = True
    columns = {
        "cell": _named(pieces, lengths, lambda piece: piece.cell),
        "seed": np.repeat(_narrow([piece.seed for piece in pieces]), lengths),
        "state": _named(pieces, lengths, lambda piece: piece.state),
        "metric": _named(pieces, lengths, lambda piece: piece.metric),
        "step": _joined([piece.points.step for piece in pieces], np.dtype(np.int32)),
        "value": _joined([piece.points.value for piece in pieces], np.dtype(np.float64)),
        "compared": compared,
    }
    return pd.DataFrame(columns, copy=False)


def _named(pieces: Sequence[Piece], lengths: np.ndarray, name: Callable[[Piece], str]) -> pd.Categorical:
    """A column of names, each kept once."""
    numbers: dict[str, int] = {}
    codes = [numbers.setdefault(name(piece), len(numbers)) for piece in pieces]
    return pd.Categorical.from_codes(np.repeat(_narrow(codes), lengths), categories=list(numbers), validate=False)


def _narrow(numbers: Sequence[int]) -> np.ndarray:
    """Whole numbers from 0 in the smallest signed type that holds them."""
    return np.array(numbers, dtype=np.min_scalar_type(-max(numbers, default=0) - 1))


def _joined(arrays: Sequence[np.ndarray], kind: np.dtype) -> np.ndarray:
    """``np.concatenate`` that converts as it goes."""
    out = np.empty(sum(array.size for array in arrays), dtype=kind)
    return np.concatenate(arrays, out=out, casting="same_kind") if arrays else out
