"""The gates of the lattice: log-decay g, erase b, write w. The only reader of ties and granularity.

    b = r σ(W_b x)                       r = erase range, 1 or 2
    w = σ(W_w x), or σ(W_b x) when tied  (the erase gate alone is widened)
    g = −exp(a) ⊙ softplus(W_f x + δ)    in fp32; a per head, δ per channel, W_f of rank K (channel-wise)

(arXiv 2605.22791, App. C.) A scalar gate is either *pooled*, the mean over the channels of the full-width gate with its
projection unchanged (Table 5 of the paper), or *projected*, a projection of one value per head.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deltalab.kernels.activations import DecayParameters, activate_gates, log_decay
from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import Decay, Erase, Narrowing, VariantSpec, Write


class GateValues(NamedTuple):
    """Gates of one forward pass, as ``kernels.dispatch.gated_delta_rule`` takes them; None is g = 0, b = 0, w = 1."""

    g: Tensor | None
    b: Tensor | None
    w: Tensor | None


class RawGates(NamedTuple):
    """Gates to be activated by the recurrence, and how: arguments of ``kernels.dispatch.gated_delta_rule``."""

    g: Tensor | None
    b: Tensor | None
    w: Tensor | None
    decay: DecayParameters | None
    erase_range: float
    write_sigmoid: bool


class Gate(nn.Module):
    """Gate over heads × channels, [B, T, D] → [B, T, heads, channels] or, scalar, [B, T, heads].

    The sigmoid is left to the recurrence, but where a mean over channels has to follow it (``pooled``).
    """

    def __init__(self, d_model: int, heads: int, channels: int, scalar: bool, narrowing: Narrowing) -> None:
        super().__init__()
        self.heads, self.pooled = heads, scalar and narrowing is Narrowing.pool
        self.projected = scalar and not self.pooled
        self.proj = nn.Linear(d_model, heads if self.projected else heads * channels, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate = self.proj(x_BTD)
        if self.projected:
            return gate
        gate = gate.unflatten(-1, (self.heads, -1))
        return torch.sigmoid(gate).mean(-1) if self.pooled else gate


class DecayGate(nn.Module):
    """Rate of the log-decay, [B, T, D] → [B, T, H, K] or, scalar, [B, T, H]; if ``pooled``, the log-decay itself."""

    def __init__(self, d_model: int, heads: int, channels: int, scalar: bool, narrowing: Narrowing) -> None:
        super().__init__()
        self.heads, self.pooled = heads, scalar and narrowing is Narrowing.pool
        self.projected = scalar and not self.pooled
        if self.projected:
            self.proj = nn.Linear(d_model, heads, bias=False)
        else:
            self.down = nn.Linear(d_model, channels, bias=False)
            self.proj = nn.Linear(channels, heads * channels, bias=False)
        self.a = nn.Parameter(torch.empty(heads))
        self.delta = nn.Parameter(torch.empty(self.proj.out_features))

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.projected:
            return self.proj(x_BTD)
        rate = self.proj(self.down(x_BTD)).unflatten(-1, (self.heads, -1))
        return log_decay(rate, self.parameters_of_heads).mean(-1) if self.pooled else rate

    @property
    def parameters_of_heads(self) -> DecayParameters:
        """a [H] and δ [H], or [H, K] where there is one for each channel."""
        return self.a, self.delta if self.projected else self.delta.unflatten(0, (self.heads, -1))


class Gates(nn.Module):
    """All gates of one mixer, built from the variant and the model's shape."""

    def __init__(self, variant: VariantSpec, model: ModelSpec) -> None:
        super().__init__()
        d, h, hv = model.d_model, model.heads, model.value_heads or model.heads
        self.erase_range, self.tied, self.group = variant.erase_range, variant.tie, hv // h
        self.decay = self.erase = self.write = None
        if variant.decay is not Decay.none:
            self.decay = DecayGate(d, h, model.head_dim, variant.decay is Decay.scalar, variant.narrowing)
        if variant.erase is not Erase.none:
            self.erase = Gate(d, h, model.head_dim, variant.erase is Erase.scalar, variant.narrowing)
        if variant.write is not Write.one and not variant.tie:
            self.write = Gate(d, hv, model.value_dim, variant.write is Write.scalar, variant.narrowing)

    def forward(self, x_BTD: Tensor) -> GateValues:
        """The gates' values."""
        return GateValues(*activate_gates(**self.raw(x_BTD)._asdict()))

    def raw(self, x_BTD: Tensor) -> RawGates:
        """The gates before the activations that the recurrence can do itself."""
        g = None if self.decay is None else self.decay(x_BTD)
        b = None if self.erase is None else self.erase(x_BTD)
        w = None if self.write is None else self.write(x_BTD)
        if self.tied:
            assert b is not None  # VariantSpec refuses a tie without an erase gate
            w = b if self.group == 1 else b.repeat_interleave(self.group, dim=-1)
        decay = None if self.decay is None or self.decay.pooled else self.decay.parameters_of_heads
        raw_erase = self.erase is not None and not self.erase.pooled
        if b is not None and self.erase_range != 1 and not raw_erase:
            b = self.erase_range * b
        write = self.erase if self.tied else self.write
        raw_write = write is not None and not write.pooled
        return RawGates(g, b, w, decay, float(self.erase_range) if raw_erase else 0.0, raw_write)
