"""The gated delta-rule mixer: one layer for every variant of the lattice (arXiv 2605.22791, App. C and D.5).

q, k = L2 norm per head of SiLU(short conv(W x));   v = SiLU(short conv(W_v x))
o = gated delta rule(q, k, v, g, b, w);             y = W_o (RMSNorm(o) ⊙ SiLU(W_g x))
"""

import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.kernels.dispatch import gated_delta_rule
from deltalab.mixers.base import TokenMixer
from deltalab.mixers.gates import Gates
from deltalab.mixers.short_conv import ShortConvolution
from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import VariantSpec


class GatedDelta(TokenMixer):
    """Linear attention with the gated delta rule; which variant it is, ``Gates`` alone knows."""

    def __init__(self, variant: VariantSpec, model: ModelSpec) -> None:
        super().__init__()
        self.key_dim = model.heads * model.head_dim
        self.value_heads = model.value_heads or model.heads
        self.heads = model.heads
        value_dim = self.value_heads * model.value_dim
        channels = 2 * self.key_dim + value_dim
        self.qkv = nn.Linear(model.d_model, channels, bias=False)
        self.conv = ShortConvolution(channels, model.conv_width) if model.conv_width else None
        self.gates = Gates(variant, model)
        self.norm = nn.RMSNorm(model.value_dim, eps=model.norm_eps)
        self.output_gate = nn.Linear(model.d_model, value_dim, bias=False)
        self.out = nn.Linear(value_dim, model.d_model, bias=False)

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        qkv = self.qkv(x_BTD)
        if self.conv is not None:
            qkv = self.conv(qkv, cu_seqlens)
        qk, v = F.silu(qkv).split([2 * self.key_dim, qkv.shape[-1] - 2 * self.key_dim], dim=-1)
        q, k = qk.unflatten(-1, (2 * self.heads, -1)).chunk(2, dim=-2)
        v = v.unflatten(-1, (self.value_heads, -1))
        o, _ = gated_delta_rule(q, k, v, **self.gates.raw(x_BTD)._asdict(), normalize=True, cu_seqlens=cu_seqlens)
        return self.out(self.norm(o).flatten(-2) * F.silu(self.output_gate(x_BTD)))
