"""The language model as a ``PreTrainedModel`` that transformers loads, saves, scores with and generates with.

Padding never reaches the model: where an attention mask leaves tokens out, on either side, the others are packed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from deltalab.hf.configuration import DeltalabConfig
from deltalab.model.cache import ModelCache
from deltalab.model.init import fill
from deltalab.model.language_model import LanguageModel


class DeltalabCache:
    """A ``ModelCache`` as ``generate`` handles it.

    Attributes:
        sequences: the caches of the model.
        columns: tokens that were given for each sequence so far, padding included.
    """

    is_compileable = is_croppable = False
    is_linear = (False,)
    """``generate`` cuts off what ``get_seq_length`` says was read."""

    def __init__(self, sequences: ModelCache, columns: int) -> None:
        self.sequences, self.columns = sequences, columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the input that were read."""
        return self.columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these sequences, in this order."""
        self.sequences.select(beam_idx)


class DeltalabForCausalLM(PreTrainedModel, GenerationMixin):
    """Any model of the lattice; the head is the embedding, one parameter.

    Args:
        config: with the trial whose model it is.
    """

    config_class = DeltalabConfig
    config: DeltalabConfig
    _no_split_modules = ["Block"]  # noqa: RUF012
    _is_stateful = True  # a recurrent state cannot be taken back, as assisted generation would

    def __init__(self, config: DeltalabConfig) -> None:
        super().__init__(config)
        self.model = LanguageModel(config.spec.variant, config.shape)
        self._keep_in_fp32_modules_strict = {f"model.{name}" for name in self.model.fp32}
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DeltalabCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the token after each, [B, T or logits_to_keep, vocab].

        Args:
            input_ids: int64 [B, T]; with ``cache`` those that it has not read.
            attention_mask: [B, T], 0 where there is padding; with ``cache`` it is not read.
            cache: what an earlier call returned; it is changed.
            labels: int64 [B, T], -100 where nothing is scored; shifted inside.
            use_cache: return a cache; as configured unless given, never while training.
            logits_to_keep: the last positions that are wanted; 0 is all.
            return_dict: a tuple instead where False.
        """
        if cache is not None:
            columns = [self.model.step(column, cache.sequences) for column in input_ids.unbind(1)]
            cache.columns += len(columns)
            logits = torch.stack(columns[-logits_to_keep:], dim=1)
        else:
            wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
            features, cache = self._read(input_ids, attention_mask, bool(wanted))
            logits = self.model.head(features[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        output = CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache)  # pyright: ignore[reportArgumentType]
        return output.to_tuple() if return_dict is False else output

    def _read(self, tokens: Tensor, mask: Tensor | None, keep: bool) -> tuple[Tensor, DeltalabCache | None]:
        """What the head reads, [B, T, D], zero at padding, and the cache if it is to be kept."""
        batch, columns = tokens.shape
        cache = self.model.new_cache(batch, columns) if keep else None
        real = None if mask is None or bool(mask.all()) else mask.bool()
        if real is None:
            features = self.model.features(tokens, cache=cache)
        else:
            lengths = real.sum(1)
            if not bool(lengths.all()):
                raise ValueError("attention_mask: a sequence without a token; allowed is one or more in each")
            cu_seqlens = nn.functional.pad(lengths.cumsum(0), (1, 0))
            packed = self.model.features(tokens[real][None], cu_seqlens, cache)[0]
            features = packed.new_zeros(batch, columns, packed.shape[-1]).index_put((real,), packed)
        return features, None if cache is None else DeltalabCache(cache, columns)

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: DeltalabCache | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """What ``generate`` calls ``forward`` with: the tokens that the cache has not read."""
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        passed = {name: kwargs[name] for name in ("use_cache", "logits_to_keep") if name in kwargs}
        return {"input_ids": input_ids, "attention_mask": attention_mask, "cache": cache, **passed}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The cache is the model's own, made where a prompt is read."""
        return False

    def get_input_embeddings(self) -> nn.Module:
        """The embedding as a module; its weight is the model's."""
        weight = self.model.embedding
        embedding = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
        embedding.weight = weight
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Take another embedding's weight, which is the head's as well."""
        assert isinstance(value.weight, nn.Parameter)
        self.model.embedding = value.weight

    def get_output_embeddings(self) -> None:
        """None of its own: the head is the embedding."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Parameters that no file gave get the values that the trial began with."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for parameter in module.parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                fill(names[id(parameter)], parameter, self.config.shape, self.config.spec.seed)
