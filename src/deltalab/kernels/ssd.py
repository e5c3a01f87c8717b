"""Mamba-2's recurrence, state-space duality (SSD, arXiv 2405.21060): token by token, and through the gated delta rule.

    h_t = exp(g_t) h_{t−1} + Δ_t B_t x_tᵀ;   y_t = h_tᵀ C_t           g_t = Δ_t A, one value per head

This is the gated delta rule without erase: q = C, k = B, v = x, w = Δ, b = 0 and an output scale of 1. What it adds
is nothing but names, so it has no chunkwise form of its own.

x [B, T, H, P] input; Δ, g [B, T, H] step and log-decay in fp32; B, C [B, T, G, N] with G groups, a divisor of H, whose
heads share B and C; h [N, H, N, P] the state of each sequence.
"""

import torch
from torch import Tensor

from deltalab.kernels.dispatch import Form, gated_delta_rule


def ssd(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    g: Tensor,
    dt: Tensor,
    *,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    form: Form | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run whole sequences.

    Args:
        C: [B, T, G, N].
        B: [B, T, G, N].
        x: [B, T, H, P].
        g: [B, T, H], log-decay.
        dt: [B, T, H], step Δ.
        output_final_state: whether to return the state after each sequence's last token.
        cu_seqlens: [N + 1] boundaries of sequences packed along T (B = 1).
        form: as in ``dispatch.gated_delta_rule``.

    Returns:
        y [B, T, H, P] in x's dtype, and the final state [N, H, N, P] in fp32 (fp64 for fp64 inputs) or None.

    Raises:
        ValueError: a shape does not fit.
    """
    # Heads of a group share B and C, but not the decay: value heads of the gated delta rule would share that too.
    q, k = (per_head(M, x.shape[2]) for M in (C, B))
    return gated_delta_rule(
        q, k, x, g, None, dt, scale=1.0, output_final_state=output_final_state, cu_seqlens=cu_seqlens, form=form
    )


def ssd_step(state: Tensor, C: Tensor, B: Tensor, x: Tensor, g: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """One token of each sequence, the arguments of ``ssd`` without their time axis: y [B, H, P] and the next state."""
    C, B = (per_head(M, x.shape[1]).to(state.dtype) for M in (C, B))
    write = (dt.unsqueeze(-1) * x).to(state.dtype)
    state = g.exp()[..., None, None] * state + B.unsqueeze(-1) * write.unsqueeze(-2)
    return (state * C.unsqueeze(-1)).sum(-2).to(x.dtype), state


def ssd_reference(C: Tensor, B: Tensor, x: Tensor, g: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, token by token: y [B, T, H, P] and the final state; gradients are autograd's."""
    state = x.new_zeros(x.shape[0], x.shape[2], B.shape[-1], x.shape[-1])
    out = []
    for t in range(x.shape[1]):
        y, state = ssd_step(state, *(part[:, t] for part in (C, B, x, g, dt)))
        out.append(y)
    return torch.stack(out, dim=1), state


def per_head(M: Tensor, heads: int) -> Tensor:
    """[…, G, N] → […, H, N], what a group shares repeated for each of its heads; a view for one group."""
    groups = M.shape[-2]
    return M.unsqueeze(-2).expand(*M.shape[:-1], heads // groups, M.shape[-1]).flatten(-3, -2)
