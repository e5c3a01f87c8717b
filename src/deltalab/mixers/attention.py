"""Softmax attention with rotary positions, over the whole past or a sliding window (SWA)."""

import torch
from torch import Tensor, nn

from deltalab.mixers.base import TokenMixer
from deltalab.mixers.softmax import attend
from deltalab.spec.model import ModelSpec


class Attention(TokenMixer):
    """Causal multi-head attention; ``window`` tokens are seen, the present one included (None: all of the past)."""

    def __init__(self, model: ModelSpec, window: int | None) -> None:
        super().__init__()
        self.heads, self.window, self.rope_base = model.heads, window, model.rope_base
        self.qkv = nn.Linear(model.d_model, 3 * model.d_model, bias=False)
        self.out = nn.Linear(model.d_model, model.d_model, bias=False)

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        length = x_BTD.shape[1]
        qkv = self.qkv(x_BTD).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, H, T, d]
        position = torch.arange(length, device=x_BTD.device)
        q, k = rotate(q, position, self.rope_base), rotate(k, position, self.rope_base)
        o_BHTd = attend(q, k, v, self.window, cu_seqlens)
        return self.out(o_BHTd.transpose(1, 2).flatten(-2))


def rotate(x: Tensor, position: Tensor, base: float) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on [..., T, d]: pair (i, i + d/2) turns by position · base^(−2i/d).

    Positions are absolute within the row; attention depends on differences alone, so packed sequences need no reset.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = position[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
