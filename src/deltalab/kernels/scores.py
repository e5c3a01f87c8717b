"""Causal scores inside a chunk and their gradients, with the decay between the two tokens of each pair.

    P_ij = Σ_c x_ic exp(G_ic − G_jc) k_jc     x = q, i ≥ j: causal scores;     x = b ⊙ k, i > j: erase scores

G is the inclusive cumulative sum of g inside the chunk. Three cases:

* no decay: x kᵀ, masked;
* scalar decay (G has width 1): (x kᵀ) ⊙ exp(G_i − G_j);
* channel decay: hierarchical anchors. A block of 2w tokens is scored between its second half (rows) and its first half
  (columns) with the anchor a = G at the last token of the first half,

      (x_i ⊙ exp(G_i − a)) · (k_j ⊙ exp(a − G_j))       both exponents ≤ 0,

  for 2w = C, C/2, … down to leaves, inside which one anchor (the first token) serves all pairs. A leaf is the largest
  block over which no channel decays below e^−SPAN, so its factors stay far from overflow; a single token always is one.

The rows come interleaved, x [M, C, s, K] with s = 2 (erase row, query row) or s = 1 (query row), so that one product with
the same columns k [M, C, K] gives both scores, [M, C, s, C].
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# e^40 ≈ 2e17, far from the end of fp32 (3e38) and from its beginning.
SPAN = 40.0


class _Block(NamedTuple):
    """Equal blocks on the diagonal of every chunk, all of one size: ``count`` per chunk, rows and columns of ``width``.

    ``rows`` and ``columns`` say which tokens: (block, half) indices into a view [count, halves, width] of the chunk.
    """

    count: int
    halves: int
    width: int

    def rows(self, x: Tensor) -> Tensor:
        """[M, C, ...] → [M, count, width, ...], the last of the halves."""
        return x.unflatten(1, (self.count, self.halves, self.width))[:, :, -1]

    def columns(self, x: Tensor) -> Tensor:
        """[M, C, ...] → [M, count, width, ...], the first of the halves."""
        return x.unflatten(1, (self.count, self.halves, self.width))[:, :, 0]

    def pairs(self, d: Tensor) -> Tensor:
        """[M, C, s, C] → [M, count, width, s, width], rows against columns."""
        view = self.rows(d).unflatten(-1, (self.count, self.halves, self.width))[..., 0, :]
        return view.diagonal(dim1=1, dim2=4).movedim(-1, 1)

    def factors(self, G: Tensor) -> tuple[Tensor, Tensor]:
        """exp(G_i − a) of the rows and exp(a − G_j) of the columns, [M, count, width, K]."""
        columns = self.columns(G)
        anchor = columns[:, :, -1:] if self.halves == 2 else columns[:, :, :1]
        return (self.rows(G) - anchor).exp_(), (anchor - columns).exp_()


def scores(x: Tensor, k: Tensor, G: Tensor | None) -> Tensor:
    """[M, C, s, C]: the erase scores (strictly lower) first when s = 2, the causal scores (lower) last."""
    m, c, s, _ = x.shape
    if G is None or G.shape[-1] == 1:
        return _weigh(torch.bmm(x.flatten(1, 2), k.mT).view(m, c, s, c), G)
    out = x.new_zeros(m, c, s, c)
    for block in _blocks(G):
        up, down = block.factors(G)
        rows = (block.rows(x) * up.unsqueeze(-2)).flatten(0, 1).flatten(1, 2)
        pairs = torch.bmm(rows, (block.columns(k) * down).flatten(0, 1).mT)
        block.pairs(out).copy_(pairs.view(m, block.count, block.width, s, block.width))
    return _weigh(out, None)


def score_grads(d: Tensor, x: Tensor, k: Tensor, G: Tensor | None, *, own: bool = True) -> tuple[Tensor, Tensor]:
    """The cotangent d of the scores (overwritten) → dx [M, C, s, K], dk [M, C, K]; that of G follows from these two.

    Args:
        own: whether to count a token's score with itself.
    """
    m, c, s, width = x.shape
    if G is None or G.shape[-1] == 1:
        d = _weigh(d, G, own=own).flatten(1, 2)
        return torch.bmm(d, k).view(x.shape), torch.bmm(d.mT, x.flatten(1, 2))
    d = _weigh(d, None, own=own)
    dx, dk = torch.zeros_like(x), torch.zeros_like(k)
    for block in _blocks(G):
        up, down = block.factors(G)
        up = up.unsqueeze(-2)
        rows = (block.rows(x) * up).flatten(0, 1).flatten(1, 2)
        columns = (block.columns(k) * down).flatten(0, 1)
        pairs = block.pairs(d).reshape(m * block.count, block.width * s, block.width)
        block.rows(dx).addcmul_(torch.bmm(pairs, columns).view(m, block.count, block.width, s, width), up)
        block.columns(dk).addcmul_(torch.bmm(pairs.mT, rows).view(m, block.count, block.width, width), down)
    return dx, dk


def _blocks(G: Tensor) -> Iterator[_Block]:
    """The blocks that cover the lower triangle of a chunk: halves against halves down to the leaf, then the leaves."""
    c = G.shape[1]
    leaf = c
    while leaf > 1:
        tokens = G.unflatten(1, (c // leaf, leaf))
        if (tokens[:, :, 0] - tokens[:, :, -1]).amax() <= SPAN:
            break
        leaf //= 2
        yield _Block(c // (2 * leaf), 2, leaf)
    yield _Block(c // leaf, 1, leaf)


def _weigh(d: Tensor, G: Tensor | None, *, own: bool = True) -> Tensor:
    """Weigh every pair by its decay (scalar G; none: 1) in place, and clear the pairs that see the future."""
    c, s = d.shape[1:3]
    mask = _mask(c, s, own, d.dtype, d.device)
    if G is not None:
        mask = mask * (G - G.mT).clamp_(max=0).exp_().unsqueeze(2)
    return d.mul_(mask)


@lru_cache(maxsize=16)
def _mask(c: int, s: int, own: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[C, s, C]: 1 where i > j, and on the diagonal of the causal scores if ``own``."""
    lower = torch.ones(c, c, dtype=dtype, device=device).tril(-1)
    causal = lower + torch.eye(c, dtype=dtype, device=device) if own else lower
    return torch.stack((lower, causal)[-s:], dim=1)
