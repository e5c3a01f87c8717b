"""The short convolution with its SiLU: causal, depthwise, over a few tokens of the same sequence.

    z_t = Σ_j weight_j ⊙ x_{t−j} + c;   y_t = z_t σ(z_t)

x [B, T, C], weight [C, width] with the newest token's tap last, c [C]. On a GPU one Triton kernel reads x once and
writes y in the parts that are asked for; elsewhere torch goes over x once a tap.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.kernels.dispatch import runs_triton
from deltalab.kernels.packing import tokens_before

MOST_TAPS = 4
"""That the kernel takes."""


def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sequence[int], cu_seqlens: Tensor | None = None
) -> list[Tensor]:
    """SiLU of the convolution, in contiguous parts where the kernel runs.

    Args:
        x: [B, T, C].
        weight: [C, width].
        bias: c [C], none for 0.
        sizes: channels of each part, C together.
        cu_seqlens: [N + 1] offsets of packed sequences (B = 1); no tap reaches across a boundary.

    Returns:
        [B, T, size] for each size, in x's dtype; sums are fp32 in the kernel.
    """
    if _fits(x, weight):
        from deltalab.kernels.triton.short_conv import short_convolution as fused

        past = None if cu_seqlens is None else tokens_before(cu_seqlens, x.shape[1])
        return fused(x, weight, bias, past, list(sizes))
    z = convolution(x, weight, cu_seqlens)
    return list(F.silu(z if bias is None else z + bias.to(z.dtype)).split(list(sizes), dim=-1))


def convolution(x: Tensor, weight: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """z without c, [B, T, C] in x's dtype; arguments as ``short_convolution``."""
    weight = weight.to(x.dtype)  # under autocast the weight alone is fp32, and would make all of it so
    length, width = x.shape[1], weight.shape[1]
    y = x * weight[:, -1]
    past = None if cu_seqlens is None else tokens_before(cu_seqlens, length)
    for lag in range(1, min(width, length)):
        shifted = F.pad(x[:, : length - lag], (0, 0, lag, 0))
        if past is not None:
            shifted = shifted * (past >= lag).to(shifted.dtype)[None, :, None]
        y = torch.addcmul(y, shifted, weight[:, width - 1 - lag])
    return y


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel runs."""
    return x.dtype is not torch.float64 and weight.shape[1] <= MOST_TAPS and runs_triton(x.device)
