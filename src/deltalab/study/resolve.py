"""Fill in what follows from the rest, so that a frozen config says every number that is used."""

from dataclasses import replace

from deltalab.data.corpus import corpus_sha256
from deltalab.errors import ConfigError
from deltalab.spec.data import TextSpec
from deltalab.spec.model import decay_range_for
from deltalab.spec.trial import TrialSpec


def resolve(spec: TrialSpec) -> TrialSpec:
    """Vocabulary from the data, value heads from the heads, decay range from the training length, corpus hash.

    Raises:
        ConfigError: the vocabulary asked for is smaller than the data's, or a corpus is not on this machine.
    """
    model, data = spec.model, spec.data
    if isinstance(data, TextSpec) and data.corpus_sha256 is None:
        data = replace(data, corpus_sha256=corpus_sha256(data.corpus))
    model = replace(
        model,
        vocab_size=model.vocab_size or data.vocab_size,
        value_heads=model.value_heads or model.heads,
        decay_range=model.decay_range or list(decay_range_for(data.train_length)),
    )
    if (model.vocab_size or 0) < data.vocab_size:
        raise ConfigError("model.vocab_size", model.vocab_size, f"null or at least the data's {data.vocab_size}")
    return replace(spec, model=model, data=data)
