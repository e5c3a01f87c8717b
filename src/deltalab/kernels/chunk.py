"""The gated delta rule in chunks: dense products, state carried from chunk to chunk, a written backward.

One chunk of C tokens with state S at its start (G: cumulative sum of g inside the chunk, γ = exp G):

    A_ij = (b_i ⊙ k_i)ᵀ Diag(γ_i/γ_j) k_j   i > j       P_ij = q_iᵀ Diag(γ_i/γ_j) k_j   i ≥ j
    E = γ ⊙ b ⊙ k,   Qγ = γ ⊙ q,   Kt = (γ_C/γ) ⊙ k,   Z = w ⊙ v,   T = (I + A)⁻¹

    forward   X = Z − E S;   R = T X;   O = Qγ S + P R;   S' = Diag(γ_C) S + Ktᵀ R
    backward  dR = Pᵀ dO + Kt dS';   dX = Tᵀ dR;   dS = Qγᵀ dO + Diag(γ_C) dS' − Eᵀ dX
              dZ = dX;   dE = −dX Sᵀ;   dQγ = dO Sᵀ;   dKt = R dS'ᵀ;   dP = tril(dO Rᵀ);   dA = −stril(dX Rᵀ)

applying T late (to X, not to E and Z) spares two tensors and their gradients. The output scale is applied to o and to its
cotangent. b ⊙ k and q are kept interleaved (``rows``), as are −dX and dO, so that A with P, dA with dP and dE with dQγ are one
product each. Only the terms that need S or dS' run chunk after chunk; all others run over all chunks at once.

Shapes: M = chunks × heads rows in the order of ``layout``; grouped value heads are folded into V, for they share q, k, g, b.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltalab.kernels.arguments import check_arguments
from deltalab.kernels.carry import Factors, carry, carry_back
from deltalab.kernels.layout import Layout, lay_out
from deltalab.kernels.scores import score_grads, scores
from deltalab.kernels.triangular import unit_lower_inverse


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
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence in chunks; arguments and results as ``reference.gated_delta_rule``.

    Args:
        chunk_size: tokens in a chunk, a power of two; shorter sequences use the next power of two above their length.

    Raises:
        ValueError: a shape does not fit, or the chunk size is not a power of two.
    """
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size: {chunk_size}; must be a power of two")
    x = check_arguments(q, k, v, g, b, w, scale=scale, initial_state=initial_state, cu_seqlens=cu_seqlens)
    layout = lay_out(x.q, x.bounds, chunk_size)
    inputs = (x.q, x.k, x.v, x.g, x.b, x.w, x.initial_state)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        o, state = _GatedDeltaRule.apply(*inputs, x.scale, layout, output_final_state)
    else:
        o, state, _ = _forward(*inputs, x.scale, layout, output_final_state)
    return o.to(x.out_dtype), state


class _Saved(NamedTuple):
    """What backward needs of forward beside its inputs; the last four are none where no chunk starts from or hands on a state.

    Attributes:
        x: b ⊙ k (absent without erase) and q, interleaved [M, C, s, K].
        k: [M, C, K].
        G: [M, C, K or 1]; none without decay.
        P: [M, C, C].
        R: [M, C, V].
        T, lead, tail, end: as in ``carry.Factors``.
        S: the states that rows start from [M', K, V].
    """

    x: Tensor
    k: Tensor
    G: Tensor | None
    P: Tensor
    R: Tensor
    T: Tensor | None
    lead: Tensor | None
    tail: Tensor | None
    end: Tensor | None
    S: Tensor | None


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    initial: Tensor | None,
    scale: float,
    layout: Layout,
    want_final: bool,
) -> tuple[Tensor, Tensor | None, _Saved]:
    """o [B, T, HV, V] in the compute dtype, the final state if wanted, and what backward needs."""
    x = q.new_empty(layout.rows, layout.chunk, 1 if b is None else 2, q.shape[-1])
    layout.to_chunks(q, out=x[:, :, -1])
    if b is not None:
        layout.to_chunks(b * k, out=x[:, :, 0])
    keys = layout.to_chunks(k)
    G = None if g is None else layout.to_chunks(g).cumsum(1)
    Z = layout.to_chunks(layout.fold(v if w is None else w * v))
    pairs = scores(x, keys, G)
    P, T = pairs[:, :, -1], None if b is None else unit_lower_inverse(pairs[:, :, 0])
    if len(layout.active) == 1 and initial is None and not want_final:
        R = Z if T is None else torch.bmm(T, Z)
        factors, S, final = Factors(T, None, None, None), None, None
        O = torch.bmm(P, R)
    else:
        factors = _factors(x, keys, G, T, layout, initial is not None, want_final)
        first = None if initial is None else layout.state_in(initial)
        R, S, final = carry(Z, factors, first, layout, want_final)
        O = torch.bmm(P, R)
        O[len(O) - len(S) :].baddbmm_(factors.lead[:, :, -1], S)
        final = None if final is None else layout.state_out(final, v.shape[2] // layout.heads)
    o = layout.to_tokens(O, factor=scale).reshape(v.shape)
    return o, final, _Saved(x, keys, G, P, R, *factors, S)


def _factors(
    x: Tensor, k: Tensor, G: Tensor | None, T: Tensor | None, layout: Layout, given: bool, want_final: bool
) -> Factors:
    """E with Qγ for the rows with a state before them, Kt and γ_C for those with a state after them."""
    lead = x if given else x[layout.active[0] * layout.heads :]
    tail = k if want_final else k[: layout.rows - layout.active[-1] * layout.heads]
    if G is None:
        return Factors(T, lead, tail, None)
    G_tail = G[: len(tail)]
    last = G_tail[:, -1:]
    lead = lead * G[len(G) - len(lead) :].exp().unsqueeze(2)
    return Factors(T, lead, tail * (last - G_tail).exp_(), last.mT.exp())


class _GatedDeltaRule(torch.autograd.Function):
    """The chunkwise form with its written backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        _, k, v, _, b, w, _, ctx.scale, ctx.layout, _ = inputs
        o, final, saved = _forward(*inputs)
        ctx.save_for_backward(k, v, b, w, *saved)
        return o, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        k, v, b, w, *rest = ctx.saved_tensors
        saved, layout, need = _Saved(*rest), ctx.layout, ctx.needs_input_grad
        Y = torch.empty(*saved.x.shape[:3], saved.R.shape[-1], dtype=do.dtype, device=do.device)
        layout.to_chunks(layout.fold(do), factor=ctx.scale, out=Y[:, :, -1])
        dX, D, dinitial = _state_grads(Y, saved, dfinal, layout)
        if b is not None:
            Y[:, :, 0] = dX
        dx, dk, dG = _pair_grads(Y, D, saved, need[3])
        dz = layout.to_tokens(dX, factor=-1.0).reshape(v.shape)
        dq, dk = layout.to_tokens(dx[:, :, -1]), layout.to_tokens(dk)
        db = dw = None
        if w is not None:
            dw = _like(v * dz, w) if need[5] else None
            dz = w * dz
        if b is not None:
            e = layout.to_tokens(dx[:, :, 0])
            dk = dk.addcmul_(b, e)
            db = _like(k * e, b) if need[4] else None
        dg = None if dG is None else layout.to_tokens(dG)
        if dinitial is not None:
            dinitial = layout.state_out(dinitial, v.shape[2] // layout.heads)
        return dq, dk, dz, dg, db, dw, dinitial, None, None, None


def _state_grads(
    Y: Tensor, s: _Saved, dfinal: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """−dX [M, C, V], the cotangents of the states handed on, and that of the initial state."""
    dO = Y[:, :, -1]
    dR = torch.baddbmm(dO.new_empty(1, 1, 1), s.P.mT, dO, beta=0, alpha=-1)
    if s.lead is None or s.tail is None:
        return dR if s.T is None else torch.bmm(s.T.mT, dR), None, None
    dS = torch.bmm(s.lead[:, :, -1].mT, dO[len(dO) - len(s.lead) :])
    dfinal = None if dfinal is None else layout.state_in(dfinal)
    return carry_back(dR, dS, Factors(s.T, s.lead, s.tail, s.end), dfinal, layout)


def _pair_grads(Y: Tensor, D: Tensor | None, s: _Saved, need_g: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """e and dq interleaved [M, C, s, K], the part of dk beside b ⊙ e [M, C, K], dg [M, C, K or 1].

    dg is made of terms that a strong decay makes small, so nothing larger may be added and taken away again. A token's score
    with itself, which no decay enters, is left out of dG; and the terms of Kt, added to dG at the chunk's end and taken away
    at each token, are summed from the chunk's beginning instead.
    """
    m, c, _, _ = Y.shape
    G = s.G if need_g else None
    d = torch.bmm(Y.flatten(1, 2), s.R.mT).view(m, c, -1, c)
    own = d[:, :, -1].diagonal(dim1=1, dim2=2).unsqueeze(-1).clone()
    dx, dk = score_grads(d, s.x, s.k, s.G, own=G is None)
    dG = None if G is None else -s.k * dk
    if G is not None:
        dk.addcmul_(own, s.x[:, :, -1])
    through = None
    if D is not None and s.S is not None and s.tail is not None:
        begin, stop = m - len(s.S), len(D)
        dlead = torch.bmm(Y[begin:].flatten(1, 2), s.S.mT).view_as(dx[begin:])
        dtail = torch.bmm(s.R[:stop], D.mT)
        if s.G is None or s.end is None:
            dx[begin:].add_(dlead)
            dk[:stop].add_(dtail)
        else:
            dx[begin:].addcmul_(dlead, s.G[begin:].exp().unsqueeze(2))
            dk[:stop].addcmul_(dtail, (s.G[:stop, -1:] - s.G[:stop]).exp_())
            through = (s.tail * dtail).cumsum(1)
            through = through.roll(1, 1)
            through[:, 0] = 0
            through[begin:] += ((s.S[: stop - begin] * D[begin:]).sum(-1) * s.end[begin:, :, 0]).unsqueeze(1)
    if dG is None:
        return dx, dk, None
    dG += (s.x * dx).sum(2)
    dx[:, :, -1].addcmul_(own, s.k)
    dg = dG.flip(1).cumsum(1).flip(1)
    if through is not None:
        dg[: len(through)] += through
    return dx, dk, dg if s.G.shape[-1] > 1 else dg.sum(-1, keepdim=True)


def _like(d: Tensor, gate: Tensor) -> Tensor:
    """The cotangent of a gate: summed over the channels if the gate has one value per head."""
    return d if gate.shape == d.shape else d.sum(-1, keepdim=True)
