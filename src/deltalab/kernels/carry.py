"""The serial part of the chunkwise form: the state from chunk to chunk, and its cotangent back.

    forward   X = Z − E S;   R = T X;   S' = Diag(γ_C) S + Ktᵀ R
    backward  dR = Pᵀ dO + Kt dS';   dX = Tᵀ dR;   dS = Qγᵀ dO + Diag(γ_C) dS' − Eᵀ dX

Everything that does not wait for S or dS' (Z, Pᵀ dO, Qγᵀ dO, and all products made of the results) is done elsewhere,
over all chunks at once. A step works on the rows of one slice (``layout``); the first of them hand their state on to
the rows of the next step, the others, if any, end here.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from deltalab.kernels.layout import Layout


class Factors(NamedTuple):
    """What the carried state is multiplied with.

    Attributes:
        T: (I + A)⁻¹ [M, C, C]; none without erase (T = I).
        lead: E (absent without erase) and Qγ, stacked, [M', s, C, K], of the M' rows that start from a state: the last.
        tail: Kt [M'', C, K] of the M'' rows that hand a state on: the first.
        end: γ_C of the same rows, [M'', K or 1, 1]; none without decay.
    """

    T: Tensor | None
    lead: Tensor
    tail: Tensor
    end: Tensor | None


def carry(
    Z: Tensor, f: Factors, initial: Tensor | None, layout: Layout, want_final: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """R [M, C, V], the states S that rows start from [M', K, V], and the final states [N · H, K, V] if wanted."""
    S = Z.new_empty(len(f.lead), f.lead.shape[-1], Z.shape[-1])
    R = Z if f.T is None else torch.empty_like(Z)
    sizes = layout.sizes
    T, Zs, Rs = _split(f.T, sizes), Z.split(sizes), R.split(sizes)
    # Without an initial state the rows of the first step start from none.
    fresh = (None,) if initial is None else ()
    E = fresh + f.lead[:, 0].split(sizes[len(fresh) :])
    states = fresh + S.split(sizes[len(fresh) :])
    if initial is not None:
        S[: sizes[0]] = initial
    row, ended = 0, []
    for n, size in enumerate(sizes):
        before, step = states[n], E[n]
        if T is not None:
            X = Zs[n] if before is None or step is None else torch.baddbmm(Zs[n], step, before, alpha=-1)
            torch.bmm(T[n], X, out=Rs[n])
        going = sizes[n + 1] if n + 1 < len(sizes) else 0
        if going:
            _hand_on(f, Rs[n], before, row, 0, going, states[n + 1])
        if want_final and going < size:
            ended.append(_hand_on(f, Rs[n], before, row, going, size, None))
        row += size
    return R, S, torch.cat(ended[::-1]) if want_final else None


def _hand_on(f: Factors, R: Tensor, S: Tensor | None, row: int, start: int, stop: int, out: Tensor | None) -> Tensor:
    """S' = Diag(γ_C) S + Ktᵀ R for the rows start:stop of the step whose first row is ``row``."""
    keys, R = f.tail[row + start : row + stop].mT, R[start:stop]
    if S is None:
        return torch.bmm(keys, R, out=out)
    if f.end is None:
        return torch.baddbmm(S[start:stop], keys, R, out=out)
    return torch.mul(S[start:stop], f.end[row + start : row + stop], out=out).baddbmm_(keys, R)


def carry_back(dR: Tensor, dS: Tensor, f: Factors, dfinal: Tensor | None, layout: Layout) -> tuple[Tensor, Tensor]:
    """−dX [M, C, V], and the cotangents of the states that are handed on [M'', K, V].

    Args:
        dR: the part of −dR that does not wait, −Pᵀ dO [M, C, V]; overwritten.
        dS: the part of dS that does not wait, Qγᵀ dO of the rows that start from a state [M', K, V]; completed here.
        dfinal: cotangent of the final states [N · H, K, V]; none if no row hands one out.
    """
    sizes = layout.sizes
    fresh = (None,) if len(dS) < layout.rows else ()
    dX = dR if f.T is None else torch.empty_like(dR)
    T, dRs, dXs = _split(f.T, sizes), dR.split(sizes), dX.split(sizes)
    E, before = fresh + f.lead[:, 0].split(sizes[len(fresh) :]), fresh + dS.split(sizes[len(fresh) :])
    handed: list[Tensor] = []
    stop, after = layout.rows, None
    for n in reversed(range(len(sizes))):
        row = stop - sizes[n]
        if dfinal is not None:
            ended = dfinal[0 if after is None else len(after) : sizes[n]]
            after = ended if after is None else torch.cat((after, ended)) if len(ended) else after
        if after is not None:
            dRs[n].baddbmm_(f.tail[row:stop], after, alpha=-1)
            handed.append(after)
        if T is not None:
            torch.bmm(T[n].mT, dRs[n], out=dXs[n])
        d, step = before[n], E[n]
        if d is not None and step is not None:
            if T is not None:
                d.baddbmm_(step.mT, dXs[n])
            if after is not None:
                d.add_(after) if f.end is None else d.addcmul_(after, f.end[row:stop])
        stop, after = row, d
    if dfinal is None:
        return dX, dS[layout.rows - len(f.tail) - (layout.rows - len(dS)) :]
    return dX, torch.cat(handed[::-1])


def _split(x: Tensor | None, sizes: tuple[int, ...]) -> tuple[Tensor, ...] | None:
    return None if x is None else x.split(sizes)
