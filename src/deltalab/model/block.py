"""A pre-norm block: x + mixer(norm x); x + SwiGLU(norm x)."""

import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.mixers.attention import Attention
from deltalab.mixers.base import Cache, TokenMixer
from deltalab.mixers.gated_delta import GatedDelta
from deltalab.mixers.mamba2 import Mamba2
from deltalab.mixers.mamba3 import Mamba3
from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import Layer, VariantSpec


class SwiGLU(nn.Module):
    """W_down (SiLU(W_gate x) ⊙ W_up x), [B, T, D] → [B, T, D]."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, width, bias=False)
        self.up = nn.Linear(d_model, width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """One layer of the pattern with its MLP (none when ``model.mlp_width`` is 0)."""

    def __init__(self, layer: Layer, variant: VariantSpec, model: ModelSpec) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(model.d_model, eps=model.norm_eps)
        self.mixer = make_mixer(layer, variant, model)
        self.mlp_norm = nn.RMSNorm(model.d_model, eps=model.norm_eps) if model.mlp_width else None
        self.mlp = SwiGLU(model.d_model, model.mlp_width) if model.mlp_width else None

    def forward(self, x_BTD: Tensor, cu_seqlens: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Whole sequences; ``cache`` is filled as ``TokenMixer.forward`` says."""
        return self._feed(x_BTD + self.mixer(self.mixer_norm(x_BTD), cu_seqlens, cache))

    def step(self, x_BD: Tensor, cache: Cache) -> Tensor:
        """The next token of each sequence, [B, D] → [B, D]."""
        return self._feed(x_BD + self.mixer.step(self.mixer_norm(x_BD), cache))

    def _feed(self, x: Tensor) -> Tensor:
        return x if self.mlp is None or self.mlp_norm is None else x + self.mlp(self.mlp_norm(x))


def make_mixer(layer: Layer, variant: VariantSpec, model: ModelSpec) -> TokenMixer:
    """The mixer of an entry of ``VariantSpec.layers``."""
    makers = {
        Layer.gated_delta: lambda: GatedDelta(variant, model),
        Layer.mamba2: lambda: Mamba2(model),
        Layer.mamba3: lambda: Mamba3(variant.rank, model),
        Layer.swa: lambda: Attention(model, model.window),
        Layer.attention: lambda: Attention(model, None),
    }
    return makers[layer]()
