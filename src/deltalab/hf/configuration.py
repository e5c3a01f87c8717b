"""The configuration of an exported model: its trial, and what programs that know nothing of trials look for."""

from dataclasses import replace
from typing import Any

from transformers import PreTrainedConfig

from deltalab.spec.model import ModelSpec
from deltalab.spec.trial import TrialSpec


class DeltalabConfig(PreTrainedConfig):
    """A trial as transformers keeps configurations.

    Attributes:
        trial: the frozen trial, as ``TrialSpec.to_dict`` writes it.
        vocab_size: tokens; follows the trial until the embedding is resized.
        hidden_size: width of the residual stream.
        num_hidden_layers: blocks.
    """

    model_type = "deltalab"

    trial: dict[str, Any] | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = True
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.trial is not None:
            model = TrialSpec.from_dict(self.trial).model
            self.vocab_size = self.vocab_size or model.vocab_size
            self.hidden_size, self.num_hidden_layers = model.d_model, model.depth
        super().__post_init__(**kwargs)

    @property
    def spec(self) -> TrialSpec:
        """The trial.

        Raises:
            ValueError: there is none.
        """
        if self.trial is None:
            raise ValueError("trial: missing; a DeltalabConfig is made from one: DeltalabConfig(trial=spec.to_dict())")
        return TrialSpec.from_dict(self.trial)

    @property
    def shape(self) -> ModelSpec:
        """The model's shape, its vocabulary as it is now."""
        return replace(self.spec.model, vocab_size=self.vocab_size)
