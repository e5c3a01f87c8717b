"""Mamba-3's recurrence (arXiv 2603.15569): exponential-trapezoidal steps, a turning state, in- and outputs of rank R.

    h_t = α_t R_tᵀ (h_{t−1} + (1 − λ_t) Δ_t Σ_r B_{t−1,r} x_{t−1,r}ᵀ) + λ_t Δ_t Σ_r B_{t,r} x_{t,r}ᵀ
    y_{t,r} = h_tᵀ C_{t,r}

α_t = exp(g_t), one value per head; R_t turns channel i of the state against channel i + S by θ_{t,i}, i < S, and leaves
those from 2S on; λ = 1, θ = 0 and R = 1 is Mamba-2. Rank 1 is SISO, rank R MIMO.

B, C [B, T, R, H, N]; x, y [B, T, R, H, P]; g, Δ, λ [B, T, H] and θ [B, T, H, S] in fp32; h [N, H, N, P].

**In chunks.** With Φ_t = Σ_{i≤t} θ_i, k = R(Φ) B, q = R(Φ) C and h̃ = R(Φ) h the state no longer turns. A token s
reaches y_t, t > s, by its own step and by the past half of the step after it, both decayed alike: with G = Σ g

    y_{t,r} = Σ_{s<t} e^{G_t − G_s} u_s Σ_r' (q_{t,r}·k_{s,r'}) x_{s,r'}  +  λ_t Δ_t Σ_r' (q_{t,r}·k_{t,r'}) x_{t,r'}
    u_s = λ_s Δ_s + (1 − λ_{s+1}) Δ_{s+1}

The first sum is a gated delta rule without erase whose writes come one token late: token t writes k_{t−1}, x_{t−1}
with w_t = α_t u_{t−1}. So no token is touched by a later step, not even in rounding, which a weight u_t taken back on
the diagonal would not give. Rank R makes R sub-tokens of a token, the decay on the first of them. Sub-token r then
reads the writes r' ≤ r; the others, r' > r, and the second sum are blocks of R × R inside a token, added to what it
returns.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from deltalab.kernels.dispatch import Form, gated_delta_rule


class Memory(NamedTuple):
    """What a sequence leaves to its next token.

    Attributes:
        state: h [N, H, N, P].
        B: of the last token [N, R, H, N].
        x: of the last token [N, R, H, P].
    """

    state: Tensor
    B: Tensor
    x: Tensor


def trapezoid(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    g: Tensor,
    dt: Tensor,
    mix: Tensor,
    theta: Tensor,
    *,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    form: Form | None = None,
) -> tuple[Tensor, Memory | None]:
    """Run whole sequences.

    Args:
        C: [B, T, R, H, N].
        B: [B, T, R, H, N].
        x: [B, T, R, H, P].
        g: [B, T, H], log-decay (≤ 0).
        dt: [B, T, H], step Δ.
        mix: [B, T, H], the share λ of the step that the token itself takes.
        theta: [B, T, H, S] angles in radians, 2S ≤ N.
        output_final_state: whether to return what each sequence leaves to a next token.
        cu_seqlens: [N + 1] boundaries of sequences packed along T (B = 1).
        form: as in ``dispatch.gated_delta_rule``.

    Returns:
        y [B, T, R, H, P] in x's dtype, and the memory or None.

    Raises:
        ValueError: a shape does not fit.
    """
    angle = turned(theta)
    # In fp32 even for a bf16 model: the angles' gradients are sums over time, in which roundings of q and k add up.
    q, k = rotate(C, angle.unsqueeze(2)), rotate(B, angle.unsqueeze(2))
    own = mix * dt
    late = g.exp() * (_late(own) + (1 - mix) * dt)
    first = cu_seqlens[:-1] if cu_seqlens is not None else torch.zeros(1, dtype=torch.long, device=x.device)
    late = late.index_fill(1, first, 0)
    k_late, x_late = _late(k), _late(x)
    y, state = _past(q, k_late, x_late, g, late, output_final_state, cu_seqlens, form)
    y = y + _inside(q, k, x, own, k_late, x_late, late)
    if state is None:
        return y.to(x.dtype), None
    last = cu_seqlens[1:] - 1 if cu_seqlens is not None else None
    angle, k, final_B, final_x, own = (_last(part, last) for part in (angle, k, B, x, own))
    state = state + _outer(k, own[:, None, :, None] * final_x).to(state.dtype)
    return y.to(x.dtype), Memory(rotate(state.mT, -angle.unsqueeze(-2)).mT, final_B, final_x)


def trapezoid_step(
    memory: Memory, C: Tensor, B: Tensor, x: Tensor, g: Tensor, dt: Tensor, mix: Tensor, theta: Tensor
) -> tuple[Tensor, Memory]:
    """One token of each sequence, the arguments of ``trapezoid`` without their time axis: y [B, R, H, P] and what the
    next token needs."""
    dtype = memory.state.dtype
    past = ((1 - mix) * dt)[:, None, :, None] * memory.x
    state = memory.state + _outer(memory.B, past).to(dtype)
    state = g.exp()[..., None, None] * rotate(state.mT, -theta.unsqueeze(-2)).mT
    state = state + _outer(B, (mix * dt)[:, None, :, None] * x).to(dtype)
    y = torch.einsum("bhnp,brhn->brhp", state, C.to(dtype))
    return y.to(x.dtype), Memory(state, B, x)


def trapezoid_reference(
    C: Tensor, B: Tensor, x: Tensor, g: Tensor, dt: Tensor, mix: Tensor, theta: Tensor
) -> tuple[Tensor, Memory]:
    """The definition, token by token: y [B, T, R, H, P] and the memory at the end; gradients are autograd's."""
    state = x.new_zeros(x.shape[0], x.shape[3], B.shape[-1], x.shape[-1])
    memory = Memory(state, torch.zeros_like(B[:, 0]), torch.zeros_like(x[:, 0]))
    out = []
    for t in range(x.shape[1]):
        y, memory = trapezoid_step(memory, *(part[:, t] for part in (C, B, x, g, dt, mix, theta)))
        out.append(y)
    return torch.stack(out, dim=1), memory


def turned(theta: Tensor) -> Tensor:
    """Φ [B, T, H, S], the angles summed over time, in [0, 2π): summed in fp64, for a long row turns many times."""
    return theta.double().cumsum(1).remainder(2 * torch.pi).to(theta.dtype)


def rotate(M: Tensor, angle: Tensor) -> Tensor:
    """R(angle) on the last axis [N]: channel i turns against channel i + S, i < S, the channels from 2S on stay."""
    size = angle.shape[-1]
    cos, sin = angle.cos(), angle.sin()
    one, other, rest = M.split([size, size, M.shape[-1] - 2 * size], dim=-1)
    turned = (one * cos - other * sin, one * sin + other * cos)
    return torch.cat((*turned, rest.to(turned[0].dtype)), dim=-1)


def _past(
    q: Tensor,
    k: Tensor,
    x: Tensor,
    g: Tensor,
    w: Tensor,
    want_final: bool,
    cu_seqlens: Tensor | None,
    form: Form | None,
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule of R sub-tokens a token: y [B, T, R, H, P] and the state."""
    rank = q.shape[2]
    g = F.pad(g.unsqueeze(2), (0, 0, 0, rank - 1)).flatten(1, 2)
    w = w.repeat_interleave(rank, dim=1)
    q, k, x = (part.flatten(1, 2) for part in (q, k, x))
    bounds = cu_seqlens if cu_seqlens is None or rank == 1 else _sub_bounds(cu_seqlens, rank)
    y, state = gated_delta_rule(
        q, k, x, g, None, w, scale=1.0, output_final_state=want_final, cu_seqlens=bounds, form=form
    )
    return y.unflatten(1, (-1, rank)), state


_bounds: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _sub_bounds(cu_seqlens: Tensor, rank: int) -> Tensor:
    """Boundaries counted in sub-tokens; one tensor as long as the given one lives unchanged, for the kernels read the
    numbers of a new one, and wait for the device to do so."""
    if cu_seqlens.is_inference():  # it does not tell whether it was changed
        return cu_seqlens * rank
    known = _bounds.get(cu_seqlens)
    if known is None or known[:2] != (cu_seqlens._version, rank):
        known = _bounds[cu_seqlens] = (cu_seqlens._version, rank, cu_seqlens * rank)
    return known[2]


def _inside(q: Tensor, k: Tensor, x: Tensor, own: Tensor, k_late: Tensor, x_late: Tensor, late: Tensor) -> Tensor:
    """What ``_past`` leaves out of a token: its own writes, and the late ones of the sub-tokens behind the reader."""
    if q.shape[2] == 1:
        return (own.unsqueeze(2) * (q * k).sum(-1)).unsqueeze(-1) * x
    behind = torch.ones(q.shape[2], q.shape[2], dtype=q.dtype, device=q.device).triu(1)
    scores = own[..., None, None] * torch.einsum("btrhn,btshn->bthrs", q, k)
    missed = late[..., None, None] * behind * torch.einsum("btrhn,btshn->bthrs", q, k_late)
    both = torch.cat((scores, missed), dim=-1)
    return torch.einsum("bthrs,btshp->btrhp", both, torch.cat((x, x_late), dim=2).to(both.dtype))


def _late(M: Tensor) -> Tensor:
    """[B, T, …] one token later, zeros for the first."""
    return torch.cat((torch.zeros_like(M[:, :1]), M[:, :-1]), dim=1)


def _last(M: Tensor, last: Tensor | None) -> Tensor:
    """The last token of each sequence, [B, T, …] → [N, …]."""
    return M[:, -1] if last is None else M[0, last]


def _outer(k: Tensor, x: Tensor) -> Tensor:
    """Σ_r k_r x_rᵀ, [N, R, H, N], [N, R, H, P] → [N, H, N, P]."""
    return torch.einsum("brhn,brhp->bhnp", k, x.to(k.dtype))
