"""The inverse of a batch of unit lower triangular matrices, T = (I + A)⁻¹, A strictly lower [M, C, C]."""

import torch
from torch import Tensor


def unit_lower_inverse(A: Tensor) -> Tensor:
    """T [M, C, C]."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return torch.linalg.solve_triangular(A, eye.expand_as(A), upper=False, unitriangular=True)
