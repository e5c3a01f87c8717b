"""Causal depthwise short convolution over time, reset at the boundaries of packed sequences."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        past = None if cu_seqlens is None else _tokens_before(cu_seqlens, length)
        for lag in range(1, min(width, length)):
            shifted = F.pad(x_BTC[:, : length - lag], (0, 0, lag, 0))
            if past is not None:
                shifted = shifted * (past >= lag).to(shifted.dtype)[None, :, None]
            y_BTC = torch.addcmul(y_BTC, shifted, self.weight[:, width - 1 - lag])
        return y_BTC

    def past(self, x_BTC: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """What ``step`` needs of each sequence: its last tokens [N, C, width − 1], zeros before its first."""
        width = self.weight.shape[1]
        if cu_seqlens is None:
            last = x_BTC[:, max(0, x_BTC.shape[1] - width + 1) :].mT
            return F.pad(last, (width - 1 - last.shape[-1], 0))
        position = cu_seqlens[1:, None] - torch.arange(width - 1, 0, -1, device=cu_seqlens.device)
        real = (position >= cu_seqlens[:-1, None]).unsqueeze(-1)
        return (x_BTC[0, position.clamp(min=0)] * real).mT

    def step(self, x_BC: Tensor, past: Tensor) -> Tensor:
        """The next token of each sequence, [B, C] → [B, C]; ``past`` moves on by it, in place."""
        window = torch.cat((past, x_BC.to(past.dtype).unsqueeze(-1)), dim=-1)
        past.copy_(window[..., 1:])
        return (window * self.weight).sum(-1)


def _tokens_before(cu_seqlens: Tensor, length: int) -> Tensor:
    """[T] tokens of the same packed sequence that precede each position."""
    position = torch.arange(length, device=cu_seqlens.device)
    sequence = torch.searchsorted(cu_seqlens, position, right=True) - 1
    return position - cu_seqlens[sequence]
