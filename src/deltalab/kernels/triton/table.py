"""Where sequences lie in tokens and chunks: the small integer tables that the kernels read.

A batch [B, T] lies in memory as B packed sequences of T tokens, so one form serves both. Tables are kept, because every
layer of a model asks for the same ones.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from deltalab.kernels.arguments import check_bounds


@dataclass(frozen=True)
class Table:
    """One packing.

    Attributes:
        sequences: [2, N + 1] int32, each sequence's first token and first chunk; the totals last.
        spans: [2, chunks] int32, each chunk's first token and the token after its sequence's last.
        chunks: how many chunks there are.
    """

    sequences: Tensor
    spans: Tensor
    chunks: int

    @property
    def count(self) -> int:
        """N."""
        return self.sequences.shape[1] - 1


_bounds: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def bounds_of(cu_seqlens: Tensor) -> tuple[int, ...]:
    """The boundaries as numbers; a tensor on a GPU is waited for once as long as it lives unchanged."""
    if cu_seqlens.is_inference():  # it does not tell whether it was changed
        return tuple(cu_seqlens.tolist())
    known = _bounds.get(cu_seqlens)
    if known is None or known[0] != cu_seqlens._version:
        known = _bounds[cu_seqlens] = (cu_seqlens._version, tuple(cu_seqlens.tolist()))
    return known[1]


def table_of(batch: int, time: int, cu_seqlens: Tensor | None, chunk: int, device: torch.device) -> Table:
    """The table of B sequences of T tokens, or of packed ones."""
    if cu_seqlens is None:
        return _even(batch, time, chunk, device)
    return _packed(check_bounds(bounds_of(cu_seqlens), time), chunk, device)


@lru_cache(maxsize=32)
def _even(batch: int, time: int, chunk: int, device: torch.device) -> Table:
    return _lay_out(tuple(range(0, (batch + 1) * time, time)), chunk, device)


@lru_cache(maxsize=32)
def _packed(bounds: tuple[int, ...], chunk: int, device: torch.device) -> Table:
    return _lay_out(bounds, chunk, device)


def _lay_out(bounds: tuple[int, ...], chunk: int, device: torch.device) -> Table:
    spans = [(first, stop) for start, stop in itertools.pairwise(bounds) for first in range(start, stop, chunk)]
    counts = [-(-(stop - start) // chunk) for start, stop in itertools.pairwise(bounds)]
    sequences = [bounds, tuple(itertools.accumulate(counts, initial=0))]
    return Table(
        torch.tensor(sequences, dtype=torch.int32, device=device),
        torch.tensor(spans, dtype=torch.int32, device=device).T.contiguous(),
        len(spans),
    )
