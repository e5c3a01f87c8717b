"""The language model: embedding, blocks, final norm, head tied to the embedding; in parallel or token by token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deltalab.model.block import Block
from deltalab.model.cache import ModelCache
from deltalab.spec.model import ModelSpec
from deltalab.spec.variant import VariantSpec


class LanguageModel(nn.Module):
    """Tokens to logits. Parameters are allocated, not initialised (see ``model.init``).

    Args:
        variant: which mixers; its pattern is tiled over ``model.depth`` blocks.
        model: shape; ``vocab_size`` must be resolved.
        checkpointing: in training keep only each block's input for the backward pass, which computes it again.
    """

    def __init__(self, variant: VariantSpec, model: ModelSpec, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        assert model.vocab_size is not None, "a resolved ModelSpec has a vocab_size"
        layers = variant.layers(model.depth)
        self.embedding = nn.Parameter(torch.empty(model.vocab_size, model.d_model))
        self.blocks = nn.ModuleList(Block(layer, variant, model) for layer in layers)
        self.norm = nn.RMSNorm(model.d_model, eps=model.norm_eps)

    def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """int64 [B, T] → logits [B, T, vocab]; ``cu_seqlens`` marks packed sequences (B = 1)."""
        return self.head(self.features(tokens_BT, cu_seqlens))

    def features(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None, cache: ModelCache | None = None) -> Tensor:
        """int64 [B, T] → what the head reads, [B, T, D]; a fresh ``cache`` is filled for ``step``."""
        x_BTD = F.embedding(tokens_BT, self.embedding)
        saving = self.checkpointing and self.training and torch.is_grad_enabled() and cache is None
        for index, block in enumerate(self.blocks):
            if saving:  # no layer draws random numbers
                x_BTD = checkpoint(block, x_BTD, cu_seqlens, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTD = block(x_BTD, cu_seqlens, None if cache is None else cache.layers[index])
        if cache is not None:
            cache.tokens = tokens_BT.shape[1] if cu_seqlens is None else int(cu_seqlens.diff().max())
        return self.norm(x_BTD)

    def head(self, features: Tensor) -> Tensor:
        """[..., D] → logits [..., vocab]."""
        return F.linear(features, self.embedding)

    @property
    def fp32(self) -> set[str]:
        """Names of the parameters that stay in fp32 in a model of a shorter type."""
        return {
            f"blocks.{index}.mixer.{name}" for index, block in enumerate(self._blocks()) for name in block.mixer.fp32
        }

    def new_cache(self, batch: int, length: int) -> ModelCache:
        """The cache of ``batch`` sequences without a token.

        Args:
            batch: sequences.
            length: most tokens that one of them is expected to have; only attention needs memory for it, sliding
                windows up to their width. Where sequences grow longer, so does the cache.
        """
        return ModelCache(layers=[block.mixer.new_cache(batch, length) for block in self._blocks()], length=length)

    @torch.no_grad()
    def prefill(
        self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None, length: int | None = None
    ) -> tuple[Tensor, ModelCache]:
        """Read prompts at once.

        Args:
            tokens_BT: int64 [B, T], prompts of one length, or (B = 1) packed ones.
            cu_seqlens: [N + 1] offsets of packed prompts, so that none needs padding.
            length: as ``new_cache``; that of the longest prompt unless given.

        Returns:
            Logits of the token after each prompt, [N, vocab], and the cache that ``step`` goes on from.
        """
        batch, longest = tokens_BT.shape
        if cu_seqlens is not None:
            batch, longest = len(cu_seqlens) - 1, int(cu_seqlens.diff().max())
        cache = self.new_cache(batch, max(longest, length or 0))
        features = self.features(tokens_BT, cu_seqlens, cache)
        last = features[:, -1] if cu_seqlens is None else features[0, cu_seqlens[1:] - 1]
        return self.head(last), cache

    @torch.no_grad()
    def step(self, tokens_N: Tensor, cache: ModelCache) -> Tensor:
        """The next token of each sequence, int64 [N] → logits of the one after it, [N, vocab]."""
        if cache.tokens == cache.length:
            self._enlarge(cache, 2 * cache.length)
        x_ND = F.embedding(tokens_N, self.embedding)
        for block, layer in zip(self._blocks(), cache.layers, strict=True):
            x_ND = block.step(x_ND, layer)
        cache.tokens += 1
        return self.head(self.norm(x_ND))

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # pyright: ignore[reportReturnType]

    def _enlarge(self, cache: ModelCache, length: int) -> None:
        """Room for ``length`` tokens; what is there keeps its place (a ring that has turned once is not enlarged)."""
        batch = len(next(iter(cache.layers[0].values())))
        larger = self.new_cache(batch, length)
        for old, new in zip(cache.layers, larger.layers, strict=True):
            for name, tensor in old.items():
                if tensor.shape != new[name].shape:
                    new[name][tuple(map(slice, tensor.shape))] = tensor
                    old[name] = new[name]
        cache.length = length


def in_a_row(tokens_BT: Tensor, starts_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A batch as a model takes it: as it is with None, or where documents begin, all of it as one packed row.

    Args:
        tokens_BT: int64 [B, T].
        starts_BT: bool [B, T], where a document begins that knows nothing of the ones before; None where none does. A
            sequence begins afresh anyway.

    Returns:
        Tokens [B, T] and None, or tokens [1, B·T] and ``cu_seqlens``.
    """
    if starts_BT is None:
        return tokens_BT, None
    starts_BT = starts_BT.clone()
    starts_BT[:, 0] = True
    cu_seqlens = F.pad(starts_BT.flatten().nonzero().flatten(), (0, 1), value=tokens_BT.numel())
    return tokens_BT.reshape(1, -1), cu_seqlens


def logits_of(module: nn.Module, tokens_BT: Tensor, starts_BT: Tensor | None) -> Tensor:
    """Logits [B, T, vocab] of a language model, or of what computes as one; arguments as ``in_a_row``."""
    return module(*in_a_row(tokens_BT, starts_BT)).view(*tokens_BT.shape, -1)
