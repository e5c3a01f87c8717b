"""Causal depthwise short convolution over time, reset at the boundaries of packed sequences."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.mixers.packing import tokens_before


class ShortConvolution(nn.Module):
    """y_t = Σ_j weight_j ⊙ x_{t−j}, one filter per channel, zero before the sequence's first token.

    Args:
        channels: C, channels filtered on their own.
        width: taps; the newest token is the last tap.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))

    def forward(self, x_BTC: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """[B, T, C] → [B, T, C]; with ``cu_seqlens`` no tap reaches across a boundary."""
        length, width = x_BTC.shape[1], self.weight.shape[1]
        y_BTC = x_BTC * self.weight[:, -1]
        past = None if cu_seqlens is None else tokens_before(cu_seqlens, length)
        for lag in range(1, min(width, length)):
            shifted = F.pad(x_BTC[:, : length - lag], (0, 0, lag, 0))
            if past is not None:
                shifted = shifted * (past >= lag).to(shifted.dtype)[None, :, None]
            y_BTC = torch.addcmul(y_BTC, shifted, self.weight[:, width - 1 - lag])
        return y_BTC
