"""Softmax attention over what a token may see: its past, within a window, within its own packed sequence.

One rule says what runs; none of it ever holds a [T, T] mask of a long sequence:

* the whole past: torch's scaled_dot_product_attention (SDPA), causal;
* else, beyond BLOCK tokens on a GPU: torch's FlexAttention, compiled, which skips blocks that nobody sees;
* else SDPA on BLOCK queries at a time, each with the keys that some of them see: memory T × (window + BLOCK).
"""

import functools
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from deltalab.kernels.dispatch import runs_triton

BLOCK = 256
"""Queries that one call of SDPA takes together; where there are no more, one mask does."""
TILE = 128
"""Queries, and keys, in a block of FlexAttention's mask."""
FLEX_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FLEX_WIDTHS = (16, 256)
KINDS = 64
"""Kinds of call (dtype, head width, window or none, first and later lengths) that a process compiles; after torch's own
limit of 8 FlexAttention would run uncompiled, with no more than a warning."""


def attend(q: Tensor, k: Tensor, v: Tensor, window: int | None, cu_seqlens: Tensor | None) -> Tensor:
    """Causal attention.

    Args:
        q: [B, H, T, d].
        k: [B, H, T, d].
        v: [B, H, T, d].
        window: tokens that are seen, the present one included; None for all of the past.
        cu_seqlens: [N + 1] offsets of packed sequences, from 0 to T.

    Returns:
        [B, H, T, d].
    """
    length = q.shape[2]
    if window is not None and window >= length:
        window = None
    if window is None and cu_seqlens is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    place = torch.arange(length, device=q.device)
    sequence = None if cu_seqlens is None else torch.searchsorted(cu_seqlens, place, right=True)
    if length > BLOCK and _flex_runs(q):
        return flex(q, k, v, _tiles_of(length, window, sequence, q.device))
    return _by_blocks(q, k, v, place, window, sequence, None if cu_seqlens is None else cu_seqlens.tolist())


def visible(rows: Tensor, columns: Tensor, window: int | None, sequence: Tensor | None) -> Tensor:
    """Where the tokens at places ``rows`` may see those at ``columns``; ``sequence`` [T] says whose a token is."""
    seen = rows >= columns
    if window is not None:
        seen = seen & (rows - columns < window)
    if sequence is not None:
        seen = seen & (sequence[rows] == sequence[columns])
    return seen


def _by_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    place: Tensor,
    window: int | None,
    sequence: Tensor | None,
    bounds: list[int] | None,
) -> Tensor:
    out = []
    for start in range(0, len(place), BLOCK):
        rows = slice(start, start + BLOCK)
        first = 0 if window is None else max(0, start - window + 1)
        if bounds is not None:
            first = max(first, bounds[bisect_right(bounds, start) - 1])
        columns = slice(first, start + BLOCK)
        mask = visible(place[rows, None], place[None, columns], window, sequence)
        out.append(F.scaled_dot_product_attention(q[:, :, rows], k[:, :, columns], v[:, :, columns], attn_mask=mask))
    return torch.cat(out, dim=2)


def _flex_runs(q: Tensor) -> bool:
    """Whether FlexAttention has kernels for these heads."""
    least, most = FLEX_WIDTHS
    if not (q.is_cuda and q.dtype in FLEX_DTYPES and least <= q.shape[-1] <= most):
        return False
    return runs_triton(q.device)


def flex(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Any:
    """FlexAttention as kernels; uncompiled it makes all scores."""
    if torch.compiler.is_compiling():
        return flex_attention(q, k, v, block_mask=mask)
    with torch._dynamo.config.patch(recompile_limit=KINDS):
        return _compiled_flex()(q, k, v, block_mask=mask)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _tiles_of(length: int, window: int | None, sequence: Tensor | None, device: torch.device) -> BlockMask:
    if sequence is not None:
        return tiles(length, window, sequence)
    # every layer of a model asks for the same: compiled code finds that itself, and warns of caches
    return (_one_sequence if torch.compiler.is_compiling() else _kept_tiles)(length, window, device)


def _one_sequence(length: int, window: int | None, device: torch.device) -> BlockMask:
    return tiles(length, window, torch.zeros(length, dtype=torch.int64, device=device))


_kept_tiles = functools.lru_cache(maxsize=16)(_one_sequence)


def tiles(length: int, window: int | None, sequence: Tensor) -> BlockMask:
    """What is ``visible``, by tiles of TILE queries and TILE keys, without looking into any of them.

    A tile is seen if its nearest pair is and their sequences overlap, and seen fully if its farthest pair is, too.
    """
    first = torch.arange(0, length, TILE, device=sequence.device)
    last = (first + TILE - 1).clamp(max=length - 1)
    row, column = (first[:, None], last[:, None]), (first[None], last[None])
    seen = row[1] >= column[0]
    whole = (row[0] >= column[1]) & (first + TILE <= length) & (first + TILE <= length)[:, None]
    if window is not None:
        seen &= row[0] - column[1] < window
        whole &= row[1] - column[0] < window
    seen &= sequence[row[0]] <= sequence[column[1]]
    whole &= sequence[row[1]] == sequence[column[0]]

    def pair(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query, key, window, sequence)

    return BlockMask.from_kv_blocks(
        *_listed(seen & ~whole), *_listed(whole), BLOCK_SIZE=TILE, mask_mod=pair, seq_lengths=(length, length)
    )


def _listed(tile: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles each row has, [1, 1, rows], and which, first, [1, 1, rows, columns]."""
    order = tile.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return tile.sum(1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]
