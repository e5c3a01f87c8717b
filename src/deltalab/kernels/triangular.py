"""The inverse of a batch of unit lower triangular matrices, T = (I + A)⁻¹.

Blocks of 8 by forward substitution, with the batch as the innermost axis so that each of its 7 steps is one long vector
operation; then pairs of blocks are merged,

    ⎡ L₁      ⎤⁻¹   ⎡  L₁⁻¹              ⎤
    ⎣ A₂₁  L₂ ⎦   = ⎣ −L₂⁻¹ A₂₁ L₁⁻¹  L₂⁻¹ ⎦

until one is left. Both are backward stable for any A; squaring a Neumann series is not (identical keys with b near
2). On a CPU thread 128 matrices of 64 × 64 take 0.8 ms, and of 32 × 32 0.28 ms, against 3.5 and 0.48 ms by
``torch.linalg.solve_triangular``, which calls BLAS once per matrix; up to 16 × 16 that call is the quicker one (256
matrices: 0.18 against 0.21 ms; 8 matrices: 0.01 against 0.09 ms).
"""

import torch
from torch import Tensor

_BASE = 8


def unit_lower_inverse(A: Tensor) -> Tensor:
    """[M, C, C], C a power of two; only the part of A below the diagonal is read."""
    size = A.shape[-1]
    if size <= 2 * _BASE:
        eye = torch.eye(size, dtype=A.dtype, device=A.device)
        return torch.linalg.solve_triangular(A, eye.expand_as(A), upper=False, unitriangular=True)
    T = A.new_zeros(A.shape)
    _diagonal(T).copy_(_substitute(_diagonal(A)))
    width = _BASE
    while width < size:
        for start in range(0, size, 2 * width):
            one, two = slice(start, start + width), slice(start + width, start + 2 * width)
            T[:, two, one] = torch.bmm(T[:, two, two], torch.bmm(A[:, two, one], T[:, one, one])).neg_()
        width *= 2
    return T


def _diagonal(A: Tensor) -> Tensor:
    """The blocks on the diagonal, a view [M, C / 8, 8, 8]."""
    blocks = (A.shape[-1] // _BASE, _BASE)
    return A.unflatten(2, blocks).unflatten(1, blocks).diagonal(dim1=1, dim2=3).movedim(-1, 1)


def _substitute(A: Tensor) -> Tensor:
    """The inverses of the blocks: column by column, what a solved row contributes is taken from the rows below it."""
    A = A.permute(2, 3, 0, 1).contiguous()
    T = torch.eye(_BASE, dtype=A.dtype, device=A.device)[:, :, None, None].repeat(1, 1, *A.shape[2:])
    for j in range(_BASE - 1):
        T[j + 1 :, : j + 1].addcmul_(A[j + 1 :, j : j + 1], T[j : j + 1, : j + 1], value=-1)
    return T.permute(2, 3, 0, 1)
