"""Causal scores inside a chunk and their gradients, with the decay between the two tokens of each pair.

    P_ij = Σ_c x_ic exp(G_ic − G_jc) k_jc     x = q, i ≥ j: causal scores;     x = b ⊙ k, i > j: erase scores

G is the inclusive cumulative sum of g inside the chunk. Where no channel decays below e^−SPAN in a chunk the decay is
absorbed, x ⊙ exp G and k ⊙ exp(−G), and what is left is the problem without decay: this is the usual case. Beyond that:

* scalar decay (G has width 1): (x kᵀ) ⊙ exp(G_i − G_j);
* channel decay: hierarchical anchors. A block of 2w tokens is scored between its second half (rows) and its first half
  (columns) with the anchor a = G at the last token of the first half,

      (x_i ⊙ exp(G_i − a)) · (k_j ⊙ exp(a − G_j))       both exponents ≤ 0,

  for 2w = C, C/2, … down to leaves, the largest blocks over which no channel decays below e^−SPAN; inside them the
  first token is the anchor of all pairs. A single token always is a leaf.

No anchor is later than the row it serves, so no token's output is touched by a later decay.

The rows come stacked, x [M, s, C, K] with s = 2 (erase rows, query rows) or s = 1 (query rows), so that one product
with the same columns k [M, C, K] gives both scores, [M, s, C, C].
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# e^60 ≈ 1e26 leaves fp32 (1e-38 to 3e38) twelve orders of magnitude to either side for what it is multiplied with.
SPAN = 60.0


def is_steep(G: Tensor) -> bool:
    """Whether some channel of some chunk decays below e^−SPAN."""
    return not bool(G[:, -1].amin() >= -SPAN)


def scores(x: Tensor, k: Tensor, G: Tensor | None) -> Tensor:
    """[M, s, C, C]: the erase scores (strictly lower) first when s = 2, the causal scores (lower) last."""
    m, s, c, _ = x.shape
    if G is None or G.shape[-1] == 1:
        return _weigh(torch.bmm(x.flatten(1, 2), k.mT).view(m, s, c, c), G, own=True)
    out = x.new_zeros(m, s, c, c)
    for block in _blocks(G):
        up, down = block.factors(G)
        pairs = torch.bmm(block.gather(block.rows(x) * up), block.columns(k).mul(down).flatten(0, 1).mT)
        block.pairs(out).copy_(block.scatter(pairs, s))
    return _weigh(out, None, own=True)


def score_grads(d: Tensor, x: Tensor, k: Tensor, G: Tensor | None, *, own: bool) -> tuple[Tensor, Tensor]:
    """The cotangent d of the scores (overwritten) → dx [M, s, C, K], dk [M, C, K]; that of G follows from these two.

    Args:
        own: whether to count a token's causal score with itself.
    """
    s = x.shape[1]
    if G is None or G.shape[-1] == 1:
        d = _weigh(d, G, own=own).flatten(1, 2)
        return torch.bmm(d, k).view(x.shape), torch.bmm(d.mT, x.flatten(1, 2))
    d = _weigh(d, None, own=own)
    dx, dk = torch.zeros_like(x), torch.zeros_like(k)
    for block in _blocks(G):
        up, down = block.factors(G)
        rows, columns = block.gather(block.rows(x) * up), block.columns(k).mul(down).flatten(0, 1)
        pairs = block.gather(block.pairs(d))
        block.rows(dx).addcmul_(block.scatter(torch.bmm(pairs, columns), s), up)
        block.columns(dk).addcmul_(torch.bmm(pairs.mT, rows).view_as(down), down)
    return dx, dk


class _Block(NamedTuple):
    """Blocks of one size along the diagonal of a chunk: ``number`` of them, each of ``halves`` × ``width`` tokens."""

    number: int
    halves: int
    width: int

    def rows(self, x: Tensor) -> Tensor:
        """The last half of each block, [M, s, C, ...] → [M, s, number, width, ...]."""
        return x.unflatten(2, (self.number, self.halves, self.width))[:, :, :, -1]

    def columns(self, x: Tensor) -> Tensor:
        """The first half of each block, [M, C, ...] → [M, number, width, ...]."""
        return x.unflatten(1, (self.number, self.halves, self.width))[:, :, 0]

    def pairs(self, d: Tensor) -> Tensor:
        """Rows against columns, [M, s, C, C] → [M, s, number, width, width]."""
        view = self.rows(d).unflatten(-1, (self.number, self.halves, self.width))[..., 0, :]
        return view.diagonal(dim1=2, dim2=4).movedim(-1, 2)

    def factors(self, G: Tensor) -> tuple[Tensor, Tensor]:
        """exp(G_i − a) of rows, [M, 1, number, width, K], and exp(a − G_j) of columns, [M, number, width, K]."""
        columns = self.columns(G)
        anchor = columns[:, :, -1:] if self.halves == 2 else columns[:, :, :1]
        return (self.rows(G.unsqueeze(1)) - anchor.unsqueeze(1)).exp_(), (anchor - columns).exp_()

    def gather(self, x: Tensor) -> Tensor:
        """[M, s, number, width, D] → [M · number, s · width, D]: the stacked rows of a block together."""
        return x.transpose(1, 2).flatten(0, 1).flatten(1, 2)

    def scatter(self, x: Tensor, s: int) -> Tensor:
        """[M · number, s · width, D] → [M, s, number, width, D], the inverse of ``gather``."""
        return x.view(-1, self.number, s, self.width, x.shape[-1]).transpose(1, 2)


def _blocks(G: Tensor) -> Iterator[_Block]:
    """The blocks that cover the lower triangle of a chunk: halves against halves down to the leaves, then these."""
    c = G.shape[1]
    leaf = c
    while leaf > 1:
        tokens = G.unflatten(1, (c // leaf, leaf))
        if (tokens[:, :, 0] - tokens[:, :, -1]).amax() <= SPAN:
            break
        leaf //= 2
        yield _Block(c // (2 * leaf), 2, leaf)
    yield _Block(c // leaf, 1, leaf)


def _weigh(d: Tensor, G: Tensor | None, *, own: bool) -> Tensor:
    """Weigh every pair by its scalar decay (none: 1) in place, and clear the pairs that see the future."""
    mask = _mask(*d.shape[1:3], own, d.dtype, d.device)
    if G is not None:
        mask = mask * (G - G.mT).clamp_(max=0).exp_().unsqueeze(1)
    return d.mul_(mask)


@lru_cache(maxsize=16)
def _mask(s: int, c: int, own: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[s, C, C]: 1 where i > j, and on the diagonal of the causal scores if ``own``."""
    lower = torch.ones(c, c, dtype=dtype, device=device).tril(-1)
    causal = lower + torch.eye(c, dtype=dtype, device=device) if own else lower
    return torch.stack((lower, causal)[-s:])
