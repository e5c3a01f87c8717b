"""The Mamba-3 mixer (arXiv 2603.15569), of rank 1 (SISO) or R (MIMO): no convolution, B and C normalised and biased.

z, x, B, C, r, f, u, ω = W x                                       B, C of rank R and ω shared by all heads
B, C = RMSNorm(B) + b, RMSNorm(C) + c                               b, c per head and rank
Δ = softplus(r + δ);   g = −max(softplus(f), 1e-4) Δ;   λ = σ(u);   θ = π tanh(ω) Δ        in fp32, per head
y_r = trapezoid(C, B, p_r ⊙ x, g, Δ, λ, θ)_r + D p_r ⊙ x
out = W_o Σ_r o_r ⊙ y_r ⊙ SiLU(s_r ⊙ z)                            p, s, o per head, rank and channel; 1 for rank 1

The state turns in its first half: N / 4 angles for N / 2 of the channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.kernels.arguments import compute_dtype
from deltalab.kernels.trapezoid import Memory, trapezoid, trapezoid_step
from deltalab.mixers.base import Cache, TokenMixer
from deltalab.spec.model import ModelSpec

SLOWEST = 1e-4
"""Least rate of decay, before it is multiplied with the step."""


class Mamba3(TokenMixer):
    """State-space model with trapezoidal steps and a rotating state; ``model`` must be resolved."""

    fp32 = ("delta",)

    def __init__(self, rank: int, model: ModelSpec) -> None:
        super().__init__()
        assert model.mamba_head_dim, "a resolved ModelSpec has a mamba_head_dim"
        assert model.d_state, "and a d_state"
        inner, self.rank, self.d_state = model.inner_width, rank, model.d_state
        self.heads = heads = inner // model.mamba_head_dim
        shared = rank * self.d_state
        self.widths = [inner, inner, shared, shared, heads, heads, heads, angles(self.d_state)]
        self.proj = nn.Linear(model.d_model, sum(self.widths), bias=False)
        self.delta = nn.Parameter(torch.empty(heads))
        self.skip = nn.Parameter(torch.empty(heads))
        self.B_norm = nn.RMSNorm(self.d_state, eps=model.norm_eps)
        self.C_norm = nn.RMSNorm(self.d_state, eps=model.norm_eps)
        self.B_bias = nn.Parameter(torch.empty(rank, heads, self.d_state))
        self.C_bias = nn.Parameter(torch.empty(rank, heads, self.d_state))
        self.rank_in = self.rank_gate = self.rank_out = None
        if rank > 1:
            self.rank_in, self.rank_gate, self.rank_out = (
                nn.Parameter(torch.empty(rank, heads, model.mamba_head_dim)) for _ in range(3)
            )
        self.out = nn.Linear(inner, model.d_model, bias=False)

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        z, x, *inputs = self._inputs(x_BTD)
        C, B, g, dt, mix, theta = inputs
        y, memory = trapezoid(C, B, x, g, dt, mix, theta, output_final_state=cache is not None, cu_seqlens=cu_seqlens)
        if cache is not None and memory is not None:
            _keep(cache, memory)
        return self._output(y, x, z)

    def new_cache(self, batch: int, length: int) -> Cache:
        weight = self.proj.weight
        zeros = weight.new_zeros
        width = self.widths[0] // self.heads
        return {
            "state": zeros(batch, self.heads, self.d_state, width, dtype=compute_dtype(weight)),
            "B": zeros(batch, self.rank, self.heads, self.d_state),
            "x": zeros(batch, self.rank, self.heads, width),
        }

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        z, x, *inputs = self._inputs(x_BD)
        C, B, g, dt, mix, theta = inputs
        y, memory = trapezoid_step(Memory(**cache), C, B, x, g, dt, mix, theta)
        _keep(cache, memory)
        return self._output(y, x, z)

    def _inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """z […, 1, H, P], x […, R, H, P], C and B […, R, H, N], g, Δ and λ […, H], θ […, H, S]."""
        z, x, B, C, rate, decay, mix, angle = self.proj(x).split(self.widths, dim=-1)
        z, x = (part.unflatten(-1, (1, self.heads, -1)) for part in (z, x))
        if self.rank_in is not None:
            x = (self.rank_in * x).to(x.dtype)
        precise = compute_dtype(z)
        B, C, rate, decay, mix, angle = (part.to(precise) for part in (B, C, rate, decay, mix, angle))
        B, C = (part.unflatten(-1, (self.rank, 1, -1)) for part in (B, C))
        dt = F.softplus(rate + self.delta)
        g = -F.softplus(decay).clamp(min=SLOWEST) * dt
        theta = torch.pi * angle.tanh().unsqueeze(-2) * dt.unsqueeze(-1)
        return z, x, self.C_norm(C) + self.C_bias, self.B_norm(B) + self.B_bias, g, dt, mix.sigmoid(), theta

    def _output(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = y + self.skip.unsqueeze(-1) * x
        gate = F.silu(z if self.rank_gate is None else self.rank_gate * z)
        y = y * gate if self.rank_out is None else self.rank_out * y * gate
        return self.out(y.sum(-3).flatten(-2))


def angles(d_state: int) -> int:
    """S, the pairs of state channels that turn."""
    return max(1, d_state // 4)


def _keep(cache: Cache, memory: Memory) -> None:
    for name, value in memory._asdict().items():
        cache[name].copy_(value)
