"""One token of a gated delta-rule layer in plain torch: what the Triton kernel does in one pass, step by step.

    q, k = L2 norm of SiLU(short conv(x));   v = SiLU(short conv(x_v))
    S̄ = Diag(exp g) S;   S ← S̄ + k (w ⊙ v − S̄ᵀ(b ⊙ k))ᵀ;   o = scale · Sᵀ q

The recurrence is the reference's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.kernels import reference
from deltalab.kernels.activations import normalize_keys


def decode_step(
    qkv: Tensor,
    state: Tensor,
    *,
    heads: int,
    g: Tensor | None = None,
    b: Tensor | None = None,
    w: Tensor | None = None,
    conv_weight: Tensor | None = None,
    conv_state: Tensor | None = None,
) -> Tensor:
    """Advance every sequence of a batch by one token; ``state`` and ``conv_state`` are updated in place.

    Args:
        qkv: [N, 2·H·K + HV·V], q, k and v of the token side by side, before the convolution.
        state: [N, HV, K, V].
        heads: H, key heads.
        g: none, [N, H] or [N, H, K]: log-decay.
        b: none, [N, H] or [N, H, K]: erase gate.
        w: none, [N, HV] or [N, HV, V]: write gate.
        conv_weight: [2·H·K + HV·V, width] of the short convolution; none without one.
        conv_state: [N, 2·H·K + HV·V, width − 1], the tokens before this one, newest last; goes with ``conv_weight``.

    Returns:
        o [N, HV, V].
    """
    if conv_weight is not None:
        assert conv_state is not None, "a convolution has a past"
        qkv = convolve(qkv, conv_weight, conv_state)
    keys = heads * state.shape[2]
    qk, v = F.silu(qkv).split([2 * keys, qkv.shape[-1] - 2 * keys], dim=-1)
    q, k = normalize_keys(*qk.unflatten(-1, (2 * heads, -1)).chunk(2, dim=-2))
    v = v.unflatten(-1, (state.shape[1], -1))
    token = (None if x is None else x.unsqueeze(1) for x in (q, k, v, g, b, w))
    o, final = reference.gated_delta_rule(*token, initial_state=state, output_final_state=True)  # pyright: ignore[reportArgumentType]
    assert final is not None
    state.copy_(final)
    return o.squeeze(1)


def convolve(x: Tensor, weight: Tensor, past: Tensor) -> Tensor:
    """The short convolution's output for one token.

    Args:
        x: [N, C].
        weight: [C, width], its last tap for this token.
        past: [N, C, width − 1], the tokens before, newest last; updated in place.

    Returns:
        [N, C].
    """
    taps = torch.cat((past, x.unsqueeze(-1)), dim=-1)
    past.copy_(taps[..., 1:])
    return (taps * weight).sum(-1)


def conv_state_of(x: Tensor, width: int, cu_seqlens: Tensor | None = None) -> Tensor:
    """The past that prompts leave to the next token: their last width − 1 tokens, zeros before the first.

    Args:
        x: [B, T, C], what the convolution is applied to.
        width: its taps, 1 or more.
        cu_seqlens: [N + 1] offsets of packed prompts (B = 1).

    Returns:
        [N, C, width − 1], newest last, contiguous, in memory of its own; N = B without ``cu_seqlens``.
    """
    if cu_seqlens is None:
        past = x[:, max(0, x.shape[1] - width + 1) :].mT
        return F.pad(past, (width - 1 - past.shape[-1], 0)).clone(memory_format=torch.contiguous_format)
    place = cu_seqlens[1:, None] + torch.arange(1 - width, 0, device=x.device)
    inside = place >= cu_seqlens[:-1, None]
    return torch.where(inside.unsqueeze(-1), x[0, place.clamp(min=0)], 0).mT.contiguous()
