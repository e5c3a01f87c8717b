"""The gated delta rule in chunks: dense products, a state carried from chunk to chunk, a written backward.

One chunk of C tokens with state S at its start (G: cumulative sum of g inside the chunk, γ = exp G):

    A_ij = (b_i ⊙ k_i)ᵀ Diag(γ_i/γ_j) k_j   i > j       P_ij = q_iᵀ Diag(γ_i/γ_j) k_j   i ≥ j
    E = γ ⊙ b ⊙ k,   Qγ = γ ⊙ q,   Kt = (γ_C/γ) ⊙ k,   Z = w ⊙ v,   T = (I + A)⁻¹

    forward   X = Z − E S;   R = T X;   O = Qγ S + P R;   S' = Diag(γ_C) S + Ktᵀ R
    backward  dR = Pᵀ dO + Kt dS';   dX = Tᵀ dR;   dS = Qγᵀ dO + Diag(γ_C) dS' − Eᵀ dX
              dZ = dX;   dE = −dX Sᵀ;   dQγ = dO Sᵀ;   dKt = R dS'ᵀ;   dP = tril(dO Rᵀ);   dA = −stril(dX Rᵀ)

Applying T late (to X, not to E and to Z) spares two tensors and their gradients. The output scale is applied to o and
to its cotangent. Only the terms that need S or dS' run chunk after chunk (``carry``); all others run over all chunks
at once.

x = (b ⊙ k, q) is kept stacked, as is Y = (−dX, dO): A with P, E with Qγ, dA with dP, dE with dQγ are one product each.
The gradient of the decay follows from those of the rows and columns it scales; with dk in two parts, dk̃ through Kt and
dǩ through the columns of the scores (b ⊙ e is x's),

    dg_t = Σ_{i≥t} (x_i ⊙ dx_i − k_i ⊙ dǩ_i) + rowsum(γ_C ⊙ S ⊙ dS') + Σ_{i<t} k_i ⊙ dk̃_i

which is the reverse cumulative sum of dG, but never adds a large term at the chunk's end to take it away again.

Shapes: M = chunks × heads rows in the order of ``layout``. Value heads that share a key head are folded into V, for
they share q, k, g and b.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltalab.kernels.arguments import check_arguments, full_precision
from deltalab.kernels.carry import Factors, carry, carry_back
from deltalab.kernels.layout import Layout, lay_out
from deltalab.kernels.scores import is_steep, score_grads, scores
from deltalab.kernels.triangular import unit_lower_inverse


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
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence in chunks; arguments and results as ``reference.gated_delta_rule``.

    Args:
        chunk_size: tokens in a chunk, a power of two; shorter sequences use the next power of two above their length.
            On a CPU 32 is the quickest or within a tenth of it for K, V from 16 to 128 and T from 64 to 2048.

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
    """What backward needs of forward beside its inputs.

    Attributes:
        x: (b ⊙ k, q), or q alone without erase, stacked [M, s, C, K]; times γ unless steep.
        k: [M, C, K]; over γ unless steep.
        gamma: γ [M, C, K or 1]; none without decay.
        G: [M, C, K or 1] if steep.
        P: [M, C, C].
        R: [M, C, V].
        S: the states that rows start from [M', K, V].
        T, lead, tail, end: as in ``carry.Factors``. S, lead and tail are none if no chunk starts from or hands on one.
    """

    x: Tensor
    k: Tensor
    gamma: Tensor | None
    G: Tensor | None
    P: Tensor
    R: Tensor
    S: Tensor | None
    T: Tensor | None
    lead: Tensor | None
    tail: Tensor | None
    end: Tensor | None


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
    x = q.new_empty(layout.rows, 1 if b is None else 2, layout.chunk, q.shape[-1])
    layout.to_chunks(q, out=x[:, -1])
    if b is not None:
        layout.to_chunks(k * b, out=x[:, 0])
    keys = layout.to_chunks(k)
    Z = layout.to_chunks(layout.fold(v if w is None else v * w))
    G = gamma = None
    if g is not None:
        G = layout.to_chunks(g).cumsum(1)
        gamma = G.exp()
        if not is_steep(G):
            x.mul_(gamma.unsqueeze(1))
            keys, G = keys / gamma, None
    pairs = scores(x, keys, G)
    P, T = pairs[:, -1], None if b is None else unit_lower_inverse(pairs[:, 0])
    if len(layout.sizes) == 1 and initial is None and not want_final:
        R = Z if T is None else torch.bmm(T, Z)
        o = layout.to_tokens(torch.bmm(P, R)).mul_(scale).reshape(v.shape)
        return o, None, _Saved(x, keys, gamma, G, P, R, None, T, None, None, None)
    f = _factors(x, keys, gamma, G, T, layout, initial is not None, want_final)
    R, S, final = carry(Z, f, None if initial is None else layout.state_in(initial), layout, want_final)
    O = torch.bmm(P, R)
    O[len(O) - len(S) :].baddbmm_(f.lead[:, -1], S)
    if final is not None:
        final = layout.state_out(final, v.shape[2] // layout.heads)
    o = layout.to_tokens(O).mul_(scale).reshape(v.shape)
    return o, final, _Saved(x, keys, gamma, G, P, R, S, *f)


def _factors(
    x: Tensor,
    k: Tensor,
    gamma: Tensor | None,
    G: Tensor | None,
    T: Tensor | None,
    layout: Layout,
    given: bool,
    want_final: bool,
) -> Factors:
    """E with Qγ for the rows that start from a state, Kt and γ_C for those that hand one on."""
    begin = 0 if given else layout.sizes[0]
    # Uneven sequences end in between: there all rows hand on, some of them to nobody.
    stop = layout.rows if want_final or not layout.even else layout.rows - layout.sizes[-1]
    lead, tail = x[begin:], k[:stop]
    if gamma is None:
        return Factors(T, lead, tail, None)
    end = gamma[:stop, -1:]
    if G is None:
        return Factors(T, lead, tail * end, end.mT)
    return Factors(T, lead * gamma[begin:].unsqueeze(1), tail * (G[:stop, -1:] - G[:stop]).exp_(), end.mT)


class _GatedDeltaRule(torch.autograd.Function):
    """The chunkwise form with its written backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None]:
        _, k, v, _, b, w, initial, ctx.scale, ctx.layout, ctx.want_final = inputs
        ctx.given = initial is not None
        o, final, saved = _forward(*inputs)
        ctx.save_for_backward(k, v, b, w, *saved)
        return o, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _backward(grads[0], grads[1], ctx)


@full_precision
def _backward(do: Tensor, dfinal: Tensor | None, ctx: Any) -> tuple[Tensor | None, ...]:
    """The gradients of all inputs of ``_forward``, in their order."""
    k, v, b, w, *rest = ctx.saved_tensors
    s, layout, need = _Saved(*rest), ctx.layout, ctx.needs_input_grad
    Y = do.new_empty(*s.x.shape[:3], s.R.shape[-1])
    layout.to_chunks(layout.fold(do), out=Y[:, -1]).mul_(ctx.scale)
    dX, dS, D = _state_grads(Y[:, -1], s, dfinal if ctx.want_final else None, layout)
    if b is not None:
        Y[:, 0] = dX
    dx, dk, dg = _pair_grads(Y, D, s, need[3])
    dq, dk = layout.to_tokens(dx[:, -1]), layout.to_tokens(dk)
    db = dw = dinitial = None
    if b is not None:
        e = layout.to_tokens(dx[:, 0])
        dk = dk.addcmul_(b, e)
        db = _like(e.mul_(k), b) if need[4] else None
    dz = layout.to_tokens(dX).neg_().reshape(v.shape)
    if w is not None:
        dw = _like(v * dz, w) if need[5] else None
        dz = dz.mul_(w)
    if ctx.given and dS is not None:
        dinitial = layout.state_out(dS[: layout.sizes[0]], v.shape[2] // layout.heads)
    return dq, dk, dz, None if dg is None else layout.to_tokens(dg), db, dw, dinitial, None, None, None


def _state_grads(
    dO: Tensor, s: _Saved, dfinal: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """−dX [M, C, V], the cotangents of the states rows start from [M', K, V], and of those they hand on [M'', K, V]."""
    dR = torch.baddbmm(dO.new_empty(1, 1, 1), s.P.mT, dO, beta=0, alpha=-1)
    if s.S is None or s.lead is None or s.tail is None:
        return dR if s.T is None else torch.bmm(s.T.mT, dR), None, None
    dS = torch.bmm(s.lead[:, -1].mT, dO[len(dO) - len(s.lead) :])
    if dfinal is not None:
        dfinal = layout.state_in(dfinal)
    elif not layout.even:
        dfinal = dS.new_zeros(layout.sizes[0], *dS.shape[1:])
    dX, D = carry_back(dR, dS, Factors(s.T, s.lead, s.tail, s.end), dfinal, layout)
    return dX, dS, D


def _pair_grads(Y: Tensor, D: Tensor | None, s: _Saved, need_g: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """(e, dq) stacked [M, s, C, K], dk beside b ⊙ e [M, C, K], dg [M, C, K or 1].

    Where the decay is strong the terms of dg are small. A token's score with itself, which no decay enters, would drown
    them in its rounding: it is added to dx and dk after the terms are taken.
    """
    rows = Y.flatten(1, 2)
    d = torch.bmm(rows, s.R.mT).view(*Y.shape[:3], -1)
    own = d[:, -1].diagonal(dim1=1, dim2=2).unsqueeze(-1).clone() if need_g else None
    dx, dk = score_grads(d, s.x, s.k, s.G, own=own is None)
    between = None if own is None else torch.mul(s.k, dk).neg_()
    passing = None if D is None else _add_state_grads(dx, dk, rows, D, s, need_g)
    dg = None
    if own is not None and between is not None:
        for i in range(dx.shape[1]):
            between.addcmul_(s.x[:, i], dx[:, i])
        dg = _decay_grad(between, passing, s)
        dx[:, -1].addcmul_(own, s.k)
        dk.addcmul_(own, s.x[:, -1])
    if s.gamma is not None and s.G is None:
        dx.mul_(s.gamma.unsqueeze(1))
        dk.div_(s.gamma)
    return dx, dk, dg


def _add_state_grads(dx: Tensor, dk: Tensor, rows: Tensor, D: Tensor, s: _Saved, need_g: bool) -> Tensor | None:
    """Add what dE, dQγ and dKt give; return what starts to pass on to S' at each token (at the first, also S)."""
    assert s.S is not None
    begin, stop = len(rows) - len(s.S), len(D)
    kept = D if s.end is None else D * s.end
    if s.G is None or s.gamma is None:
        dx[begin:].flatten(1, 2).baddbmm_(rows[begin:], s.S.mT)
        dtail = torch.bmm(s.R[:stop], kept.mT)
    else:
        lead = torch.bmm(rows[begin:], s.S.mT).view_as(dx[begin:])
        dx[begin:].addcmul_(lead, s.gamma[begin:].unsqueeze(1))
        dtail = torch.bmm(s.R[:stop], D.mT).mul_((s.G[:stop, -1:] - s.G[:stop]).exp_())
    dk[:stop].add_(dtail)
    if not need_g:
        return None
    passing = torch.empty_like(dtail)
    torch.mul(s.k[:stop, :-1], dtail[:, :-1], out=passing[:, 1:])
    passing[:begin, 0] = 0
    torch.sum(s.S[: stop - begin] * kept[begin:], -1, out=passing[begin:, 0])
    return passing


def _decay_grad(between: Tensor, passing: Tensor | None, s: _Saved) -> Tensor:
    """dg [M, C, K or 1]: the pairs that stand on either side of a token, and what passes it on its way to S'."""
    assert s.gamma is not None
    if s.gamma.shape[-1] == 1:
        between = between.sum(-1, keepdim=True)
        passing = None if passing is None else passing.sum(-1, keepdim=True)
    dg = between.flip(1).cumsum(1).flip(1)
    if passing is not None:
        dg[: len(passing)] += passing.cumsum(1)
    return dg


def _like(d: Tensor, gate: Tensor) -> Tensor:
    """The cotangent of a gate: summed over the channels if the gate has one value per head."""
    return d if gate.shape == d.shape else d.sum(-1, keepdim=True)
