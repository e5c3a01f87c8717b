"""The serial part of the chunkwise form: the state from chunk to chunk, and its cotangent back.

    forward   X = Z − E S;   R = T X;   S' = Diag(γ_C) S + Ktᵀ R
    backward  dR = Pᵀ dO + Kt dS';   dX = Tᵀ dR;   dS = Qγᵀ dO + Diag(γ_C) dS' − Eᵀ dX

Everything that does not wait for S or dS' (Z, Pᵀ dO, Qγᵀ dO, and all products made of the results) is done elsewhere, over all
chunks at once. A step of the loop works on one contiguous slice of rows (``layout``): row:stop, whose first rows row:going
hand their state on to the first rows of the next step while going:stop end here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from deltalab.kernels.layout import Layout


class Factors(NamedTuple):
    """What the carried state is multiplied with.

    Attributes:
        T: (I + A)⁻¹ [M, C, C]; none without erase (T = I).
        lead: E (absent without erase) and Qγ, interleaved, of the rows that start from a state: the last M' rows, [M', C, s, K].
        tail: Kt of the rows that hand a state on: the first M'' rows, [M'', C, K].
        end: γ_C of the same rows, [M'', K or 1, 1]; none without decay.
    """

    T: Tensor | None
    lead: Tensor
    tail: Tensor
    end: Tensor | None


class _Step(NamedTuple):
    row: int
    going: int
    stop: int


def _steps(layout: Layout) -> Iterator[_Step]:
    row = 0
    for active, following in zip(layout.active, (*layout.active[1:], 0), strict=True):
        stop = row + active * layout.heads
        yield _Step(row, row + following * layout.heads, stop)
        row = stop


def carry(
    Z: Tensor, f: Factors, initial: Tensor | None, layout: Layout, want_final: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """R [M, C, V], the states S that rows start from [M', K, V], and the final states [N · H, K, V] if wanted."""
    begin = len(Z) - len(f.lead)
    S = Z.new_empty(len(f.lead), f.lead.shape[-1], Z.shape[-1])
    if initial is not None:
        S[: len(initial)] = initial
    R = torch.empty_like(Z)
    ended = []
    for row, going, stop in _steps(layout):
        X, before = Z[row:stop], None
        if row >= begin:
            before = S[row - begin : stop - begin]
            if f.T is not None:
                X = torch.baddbmm(X, f.lead[row - begin : stop - begin, :, 0], before, alpha=-1)
        if f.T is None:
            R[row:stop] = X
        else:
            torch.bmm(f.T[row:stop], X, out=R[row:stop])
        if row < going:
            out = S[stop - begin : stop - begin + going - row]
            _hand_on(f, R, None if before is None else before[: going - row], row, going, out)
        if want_final and going < stop:
            ended.append(_hand_on(f, R, None if before is None else before[going - row :], going, stop))
    return R, S, torch.cat(ended[::-1]) if want_final else None


def _hand_on(f: Factors, R: Tensor, S: Tensor | None, row: int, stop: int, out: Tensor | None = None) -> Tensor:
    """S' = Diag(γ_C) S + Ktᵀ R for row:stop."""
    keys = f.tail[row:stop].mT
    if S is None:
        return torch.bmm(keys, R[row:stop], out=out)
    if f.end is None:
        return torch.baddbmm(S, keys, R[row:stop], out=out)
    return torch.mul(S, f.end[row:stop], out=out).baddbmm_(keys, R[row:stop])


def carry_back(
    dR: Tensor, dS: Tensor, f: Factors, dfinal: Tensor | None, layout: Layout
) -> tuple[Tensor, Tensor, Tensor | None]:
    """−dX [M, C, V], the cotangents of the states handed on [M'', K, V], and that of the initial state if there was one.

    Args:
        dR: the part of −dR that does not wait, −Pᵀ dO [M, C, V]; overwritten.
        dS: the part of dS that does not wait, Qγᵀ dO of the rows that start from a state [M', K, V]; overwritten.
        dfinal: cotangent of the final states [N · H, K, V]; none if they were not asked for.
    """
    begin = len(dR) - len(f.lead)
    # Rows that end without a final state hand nothing on; uneven sequences leave such rows between those that do.
    D = dR.new_zeros(len(f.tail), *dS.shape[1:])
    dX = dR if f.T is None else torch.empty_like(dR)
    steps = list(_steps(layout))
    for n in reversed(range(len(steps))):
        row, going, stop = steps[n]
        if dfinal is not None:
            D[going:stop] = dfinal[going - row : stop - row]
            going = stop
        if row < going:
            dR[row:going].baddbmm_(f.tail[row:going], D[row:going], alpha=-1)
        if f.T is not None:
            torch.bmm(f.T[row:stop].mT, dR[row:stop], out=dX[row:stop])
        if row < begin:
            continue
        before = dS[row - begin : stop - begin]
        if f.T is not None:
            before.baddbmm_(f.lead[row - begin : stop - begin, :, 0].mT, dX[row:stop])
        if row < going:
            before[: going - row].addcmul_(D[row:going], f.end[row:going]) if f.end is not None else before[
                : going - row
            ].add_(D[row:going])
        if n > 0:
            D[steps[n - 1].row : steps[n - 1].going] = before
    return dX, D, dS[: layout.active[0] * layout.heads] if begin == 0 else None
