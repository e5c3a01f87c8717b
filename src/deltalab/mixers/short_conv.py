"""The short convolution's filters, one per channel; what is computed with them is in kernels/short_conv.py."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deltalab.kernels.short_conv import short_convolution


class ShortConvolution(nn.Module):
    """SiLU(Σ_j weight_j ⊙ x_{t−j} + c), zero before a sequence's first token.

    Args:
        channels: C, channels filtered on their own.
        width: taps; the newest token is the last tap.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))

    def forward(
        self, x_BTC: Tensor, sizes: Sequence[int], cu_seqlens: Tensor | None = None, bias: Tensor | None = None
    ) -> list[Tensor]:
        """[B, T, C] → [B, T, size] for each of ``sizes``, in the same dtype; with ``cu_seqlens`` no tap reaches across
        a boundary. ``bias`` is c [C]."""
        return short_convolution(x_BTC, self.weight, bias, sizes, cu_seqlens)
