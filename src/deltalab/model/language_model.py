"""The language model: embedding, blocks, final norm, head tied to the embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.model.block import Block
from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import VariantSpec


class LanguageModel(nn.Module):
    """Tokens to logits. Parameters are allocated, not initialised (see ``model.init``).

    Args:
        variant: which mixers; its pattern is tiled over ``model.depth`` blocks.
        model: shape; ``vocab_size`` must be resolved.
    """

    def __init__(self, variant: VariantSpec, model: ModelSpec) -> None:
        super().__init__()
        assert model.vocab_size is not None, "a resolved ModelSpec has a vocab_size"
        layers = variant.layers(model.depth)
        self.embedding = nn.Parameter(torch.empty(model.vocab_size, model.d_model))
        self.blocks = nn.ModuleList(Block(layer, variant, model) for layer in layers)
        self.norm = nn.RMSNorm(model.d_model, eps=model.norm_eps)

    def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """int64 [B, T] → logits [B, T, vocab]; ``cu_seqlens`` marks packed sequences (B = 1)."""
        x_BTD = F.embedding(tokens_BT, self.embedding)
        for block in self.blocks:
            x_BTD = block(x_BTD, cu_seqlens)
        return F.linear(self.norm(x_BTD), self.embedding)
