"""The gated delta rule token by token: the definition that every other form is tested against.

    S̄_t = Diag(exp g_t) S_{t-1}                             decay
    S_t = S̄_t + k_t (w_t ⊙ v_t − S̄_tᵀ (b_t ⊙ k_t))ᵀ       erase what b selects, write what w selects
    o_t = scale · S_tᵀ q_t

(arXiv 2605.22791, eq. 9 and 10.) q, k [B, T, H, K] query and key; v [B, T, HV, V] value; g log-decay (natural, ≤ 0),
b erase gate, w write gate; S [N, HV, K, V] the state of each sequence and value head. Value head hv reads the q, k,
g, b of key head hv // (HV // H). Gradients are autograd's.
"""

import itertools

import torch
from torch import Tensor

from deltalab.kernels.arguments import Arguments, check_arguments, full_precision


@full_precision
def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    b: Tensor | None = None,
    w: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence one token at a time.

    Args:
        q: [B, T, H, K].
        k: [B, T, H, K].
        v: [B, T, HV, V], HV a multiple of H.
        g: none (no decay), [B, T, H] or [B, T, H, K].
        b: none (b = 0, no erase), [B, T, H] or [B, T, H, K].
        w: none (w = 1), [B, T, HV] or [B, T, HV, V].
        scale: factor of the output; K**-0.5 unless given.
        initial_state: [N, HV, K, V], zero unless given.
        output_final_state: whether to return the state after the last token.
        cu_seqlens: [N + 1] boundaries of sequences packed along T (B = 1), from 0 to T.

    Returns:
        o [B, T, HV, V] in v's dtype, and the final state [N, HV, K, V] in fp32 (fp64 for fp64 inputs) or None.

    Raises:
        ValueError: a shape does not fit.
    """
    x = check_arguments(q, k, v, g, b, w, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens)
    if x.bounds is None:
        o, state = _scan(x, slice(None), x.initial_state)
    else:
        parts = []
        for n, (start, stop) in enumerate(itertools.pairwise(x.bounds)):
            first = None if x.initial_state is None else x.initial_state[n : n + 1]
            parts.append(_scan(x, slice(start, stop), first))
        o, state = torch.cat([p[0] for p in parts], dim=1), torch.cat([p[1] for p in parts])
    return o.to(x.out_dtype), state if output_final_state else None


def _scan(x: Arguments, span: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """One pass over the tokens of ``span``: o [B, T, HV, V] and the last state [B, HV, K, V]."""
    group = x.v.shape[2] // x.q.shape[2]
    q, k, g, b = (_on_value_heads(t, span, group) for t in (x.q, x.k, x.g, x.b))
    assert q is not None
    assert k is not None
    v = x.v[:, span] if x.w is None else x.w[:, span] * x.v[:, span]
    if state is None:
        state = v.new_zeros(v.shape[0], v.shape[2], k.shape[-1], v.shape[-1])
    out = []
    for t in range(v.shape[1]):
        if g is not None:
            state = g[:, t].exp().unsqueeze(-1) * state
        write = v[:, t]
        if b is not None:
            write = write - torch.einsum("nhkv,nhk->nhv", state, b[:, t] * k[:, t])
        state = state + k[:, t].unsqueeze(-1) * write.unsqueeze(-2)
        out.append(torch.einsum("nhkv,nhk->nhv", state, x.scale * q[:, t]))
    return torch.stack(out, dim=1), state


def _on_value_heads(x: Tensor | None, span: slice, group: int) -> Tensor | None:
    return None if x is None else x[:, span].repeat_interleave(group, dim=2)
