"""Fill in what follows from the rest, so that a frozen config says every number that is used."""

from dataclasses import replace

from deltalab.data.manifest import settled
from deltalab.errors import ConfigError
from deltalab.model.matching import fitted
from deltalab.spec.data import TextSpec
from deltalab.spec.model import ModelSpec, decay_range_for
from deltalab.spec.trial import TrialSpec
from deltalab.spec.variant import MAMBA


def resolve(spec: TrialSpec) -> TrialSpec:
    """Vocabulary from the data, value heads from the heads, heads and state of Mamba layers from those of gated delta
    layers, decay range from the training length, hashes of text and tokenizer; depth and MLP width from the budget.

    Raises:
        ConfigError: the vocabulary asked for is smaller than the data's, the budget is too small, or a corpus is not on
            this machine.
        NotFoundError: a text has to be prepared and was not.
    """
    model, data = spec.model, spec.data
    if isinstance(data, TextSpec):
        data = settled(data)
    model = replace(
        model,
        vocab_size=model.vocab_size or data.vocab_size,
        value_heads=model.value_heads or model.heads,
        decay_range=model.decay_range or list(decay_range_for(data.train_length)),
    )
    if not MAMBA.isdisjoint(spec.variant.layers(len(spec.variant.pattern))):
        model = _with_mamba(model)
    if (model.vocab_size or 0) < data.vocab_size:
        raise ConfigError("model.vocab_size", model.vocab_size, f"null or at least the data's {data.vocab_size}")
    return replace(spec, model=fitted(spec.variant, model), data=data)


def _with_mamba(model: ModelSpec) -> ModelSpec:
    """Head width and state channels of Mamba layers, as ``ModelSpec`` says."""
    head_dim = model.mamba_head_dim
    if head_dim is None:
        head_dim, rest = divmod(model.inner_width, 4 * model.heads)
        if rest:
            allowed = f"a divisor of model.expand × model.d_model = {model.inner_width}"
            raise ConfigError("model.mamba_head_dim", "null", f"{allowed} (it has no {4 * model.heads} heads)")
    state = (model.value_heads or model.heads) * model.head_dim * model.value_dim
    nearest = max(2, 2 * round(state / (2 * model.inner_width)))
    return replace(model, mamba_head_dim=head_dim, d_state=model.d_state or nearest)
