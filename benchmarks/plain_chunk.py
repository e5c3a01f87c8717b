"""The algebra of ``deltalab.kernels.chunk`` differentiated by autograd: what the written backward is timed against.

The forward is made of the same parts (layout, scores, inverse, the same serial loop); only the inverse has its gradient
written down, dA = −Tᵀ dT Tᵀ, as its steps in place cannot be differentiated. Dense batches without initial state; no
gradient is treated specially.
"""

from typing import Any

import torch
from torch import Tensor

from deltalab.kernels.arguments import check_arguments
from deltalab.kernels.layout import lay_out
from deltalab.kernels.scores import is_steep, scores
from deltalab.kernels.triangular import unit_lower_inverse


class _Inverse(torch.autograd.Function):
    """T = (I + A)⁻¹."""

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        T = unit_lower_inverse(A)
        ctx.save_for_backward(T)
        return T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (T,) = ctx.saved_tensors
        return -torch.bmm(T.mT, torch.bmm(grads[0], T.mT))


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, b: Tensor, w: Tensor, *, chunk_size: int = 32
) -> Tensor:
    """o [B, T, H, V]; arguments as ``deltalab.kernels.chunk.gated_delta_rule``."""
    c = check_arguments(q, k, v, g, b, w, scale=None, initial_state=None, cu_seqlens=None)
    assert c.b is not None
    assert c.w is not None
    layout = lay_out(c.q, None, chunk_size)
    x = torch.stack((layout.to_chunks(c.b * c.k), layout.to_chunks(c.q)), dim=1)
    keys, Z = layout.to_chunks(c.k), layout.to_chunks(c.w * c.v)
    lead, tail, end, G = x, keys, None, None
    if c.g is not None:
        G = layout.to_chunks(c.g).cumsum(1)
        gamma = G.exp()
        lead, end = x * gamma.unsqueeze(1), gamma[:, -1:]
        if is_steep(G):
            tail = keys * (G[:, -1:] - G).exp()
        else:
            x, keys, G = lead, keys / gamma, None
            tail = keys * end
    pairs = scores(x, keys, G)
    T = _Inverse.apply(pairs[:, 0])
    R, S = _carry(Z, T, lead, tail, end, layout.sizes)
    O = torch.bmm(pairs[:, 1], R)
    if S is not None:
        first = layout.sizes[0]
        O = torch.cat((O[:first], torch.baddbmm(O[first:], lead[first:, 1], S)))
    return (layout.to_tokens(O) * c.scale).to(c.out_dtype)


def _carry(
    Z: Tensor, T: Tensor, lead: Tensor, tail: Tensor, end: Tensor | None, sizes: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """R [M, C, V], and the states that all but the first chunks start from (none with one chunk)."""
    Zs, Ts, Es, tails = Z.split(sizes), T.split(sizes), lead[:, 0].split(sizes), tail.split(sizes)
    ends = None if end is None else end.mT.split(sizes)
    R, states = [torch.bmm(Ts[0], Zs[0])], []
    for n in range(1, len(sizes)):
        S = torch.bmm(tails[n - 1].mT, R[-1])
        if states:
            S = S + (states[-1] if ends is None else ends[n - 1] * states[-1])
        states.append(S)
        R.append(torch.bmm(Ts[n], torch.baddbmm(Zs[n], Es[n], S, alpha=-1)))
    return torch.cat(R), torch.cat(states) if states else None
