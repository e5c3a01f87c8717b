"""The Mamba-2 mixer (arXiv 2405.21060, section 7): state-space duality with a short convolution, a skip and a gate.

z, xBC, r = W x;   x, B, C = SiLU(short conv(xBC) + c)             B, C shared by all heads
Δ = softplus(r + δ);   g = −exp(a) Δ                                in fp32, one value per head
y = SSD(C, B, x, g, Δ) + D x;   out = W_o RMSNorm(y ⊙ SiLU(z))
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.kernels.arguments import compute_dtype
from deltalab.kernels.decode import conv_state_of, convolve
from deltalab.kernels.ssd import ssd, ssd_step
from deltalab.mixers.base import Cache, TokenMixer
from deltalab.mixers.short_conv import ShortConvolution
from deltalab.spec.model import ModelSpec


class Mamba2(TokenMixer):
    """State-space model with a decay per head and step; ``model`` must be resolved."""

    fp32 = ("a", "delta")

    def __init__(self, model: ModelSpec) -> None:
        super().__init__()
        assert model.mamba_head_dim, "a resolved ModelSpec has a mamba_head_dim"
        assert model.d_state, "and a d_state"
        inner, self.d_state = model.inner_width, model.d_state
        self.heads = inner // model.mamba_head_dim
        channels = inner + 2 * self.d_state
        self.widths, self.parts = [inner, channels, self.heads], [inner, self.d_state, self.d_state]
        self.proj = nn.Linear(model.d_model, sum(self.widths), bias=False)
        self.conv = ShortConvolution(channels, model.conv_width) if model.conv_width else None
        self.conv_bias = nn.Parameter(torch.empty(channels)) if model.conv_width else None
        self.a = nn.Parameter(torch.empty(self.heads))
        self.delta = nn.Parameter(torch.empty(self.heads))
        self.skip = nn.Parameter(torch.empty(self.heads))
        self.norm = nn.RMSNorm(inner, eps=model.norm_eps)
        self.out = nn.Linear(inner, model.d_model, bias=False)

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        z, xBC, rate = self.proj(x_BTD).split(self.widths, dim=-1)
        if self.conv is None:
            parts = F.silu(xBC).split(self.parts, dim=-1)
        else:
            if cache is not None:
                cache["past"].copy_(conv_state_of(xBC, self.conv.weight.shape[1], cu_seqlens))
            parts = self.conv(xBC, self.parts, cu_seqlens, self.conv_bias)
        x, B, C, g, dt = self._inputs(parts, rate)
        y, state = ssd(C, B, x, g, dt, output_final_state=cache is not None, cu_seqlens=cu_seqlens)
        if cache is not None and state is not None:
            cache["state"].copy_(state)
        return self._output(y, x, z)

    def new_cache(self, batch: int, length: int) -> Cache:
        weight = self.proj.weight
        shape = (batch, self.heads, self.d_state, self.widths[0] // self.heads)
        cache = {"state": weight.new_zeros(shape, dtype=compute_dtype(weight))}
        if self.conv is not None:
            cache["past"] = weight.new_zeros(batch, self.widths[1], self.conv.weight.shape[1] - 1)
        return cache

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        z, xBC, rate = self.proj(x_BD).split(self.widths, dim=-1)
        if self.conv is not None and self.conv_bias is not None:
            xBC = convolve(xBC, self.conv.weight, cache["past"]) + self.conv_bias
        x, B, C, g, dt = self._inputs(F.silu(xBC).split(self.parts, dim=-1), rate)
        y, state = ssd_step(cache["state"], C, B, x, g, dt)
        cache["state"].copy_(state)
        return self._output(y, x, z)

    def _inputs(self, parts: Sequence[Tensor], rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x […, H, P], B and C […, 1, N], g and Δ […, H]."""
        x, B, C = parts
        dt = F.softplus(rate.to(compute_dtype(rate)) + self.delta)
        return x.unflatten(-1, (self.heads, -1)), B.unsqueeze(-2), C.unsqueeze(-2), -self.a.exp() * dt, dt

    def _output(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = (y + self.skip.unsqueeze(-1) * x).flatten(-2)
        return self.out(self.norm(y * F.silu(z)))
