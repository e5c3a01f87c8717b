"""The gated delta-rule mixer: one layer for every variant of the lattice (arXiv 2605.22791, App. C and D.5).

q, k = L2 norm per head of SiLU(short conv(W x));   v = SiLU(short conv(W_v x))
o = gated delta rule(q, k, v, g, b, w);             y = W_o (RMSNorm(o) ⊙ SiLU(W_g x))
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.kernels.decode import conv_state_of
from deltalab.kernels.dispatch import decode_step, gated_delta_rule
from deltalab.mixers.base import Cache, TokenMixer
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
        self.fp32 = () if self.gates.decay is None else ("gates.decay.a", "gates.decay.delta")

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        qkv = self.qkv(x_BTD)
        if self.conv is not None and cache is not None:
            cache["past"].copy_(conv_state_of(qkv.detach(), self.conv.weight.shape[1], cu_seqlens))
        sizes = [self.key_dim, self.key_dim, qkv.shape[-1] - 2 * self.key_dim]
        parts = F.silu(qkv).split(sizes, dim=-1) if self.conv is None else self.conv(qkv, sizes, cu_seqlens)
        heads = (self.heads, self.heads, self.value_heads)
        q, k, v = (part.unflatten(-1, (count, -1)) for part, count in zip(parts, heads, strict=True))
        o, state = gated_delta_rule(
            *(q, k, v),
            **self.gates.raw(x_BTD)._asdict(),
            normalize=True,
            cu_seqlens=cu_seqlens,
            output_final_state=cache is not None,
        )
        if cache is not None and state is not None:
            cache["state"].copy_(state.detach())
        return self._output(o, x_BTD)

    def new_cache(self, batch: int, length: int) -> Cache:
        """``state`` [N, HV, K, V] (fp32, or fp64 as the weights) and the convolution's ``past`` [N, C, width − 1]."""
        weight = self.qkv.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shape = (batch, self.value_heads, self.key_dim // self.heads, self.norm.weight.shape[0])
        cache = {"state": weight.new_zeros(shape, dtype=dtype)}
        if self.conv is not None:
            channels, width = self.conv.weight.shape
            cache["past"] = weight.new_zeros(batch, channels, width - 1)
            cache["arrivals"] = weight.new_zeros(batch, self.heads, dtype=torch.int32)
        return cache

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        o = decode_step(
            self.qkv(x_BD),
            cache["state"],
            heads=self.heads,
            **self.gates.raw(x_BD)._asdict(),
            conv_weight=None if self.conv is None else self.conv.weight,
            conv_state=cache.get("past"),
            arrivals=cache.get("arrivals"),
        )
        return self._output(o, x_BD)

    def _output(self, o: Tensor, x: Tensor) -> Tensor:
        """Heads [..., HV, V] and the layer's input [..., D] to [..., D]."""
        o = o.to(self.norm.weight.dtype)  # under autocast: norms are fused where both have one type
        return self.out(self.norm(o).flatten(-2) * F.silu(self.output_gate(x)))
