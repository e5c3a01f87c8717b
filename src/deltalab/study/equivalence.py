"""Trials that compute the same numbers, bit for bit, though their specs differ.

Every trial has a plainest one: fields that nothing reads are set to one value, and what is written in two ways is
written in one. Trials with the same plainest trial are equivalent. Where that follows from:

    no mixer in the pattern          the gates, the mixer's widths, its convolution and its ranges
    no scalar gate of its own        narrowing (a tied write gate is the erase gate's)
    no decay                         decay_range, dt_range
    [mixer] over two layers          [mixer, mixer]
    a window over the longest row    full attention; no window left: model.window
    no attention                     rope_base
    a group and its generators       its elements are what tokens are made of
    bytes                            bpe_vocab
    steps                            log_every and eval.every above them; checkpoints, which a resumed run repeats
    eval.sequences                   eval.batch_size above them

Parameters draw their initial values by seed, name and shape, so one that is absent changes no other. What only may
compute the same, as a batch split into other parts, is not equivalent.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from deltalab.spec.data import DataSpec, Group, StateTrackingSpec, TextSpec, Tokenizer, generated_group
from deltalab.spec.eval import EvalSpec
from deltalab.spec.model import ModelSpec
from deltalab.spec.train import TrainSpec
from deltalab.spec.trial import TrialSpec
from deltalab.spec.variant import Decay, Erase, Layer, Narrowing, VariantSpec, Write


def equivalence_key(spec: TrialSpec) -> str:
    """Equal for two resolved trials when every number they compute and record is equal, timings aside."""
    return plainest(spec).trial_id


def classes(keys: Mapping[str, str]) -> dict[str, str]:
    """Member → first member of its class, for the members that are not the first themselves.

    Args:
        keys: member → its ``equivalence_key``.
    """
    first: dict[str, str] = {}
    firsts = {member: first.setdefault(key, member) for member, key in keys.items()}
    return {member: one for member, one in firsts.items() if one != member}


def plainest(spec: TrialSpec) -> TrialSpec:
    """The trial that stands for all that compute the same numbers as this resolved one."""
    longest = max(spec.data.train_length, spec.data.test_length)
    tiled = [spec.variant.pattern[i % len(spec.variant.pattern)] for i in range(spec.model.depth)]
    if spec.model.window >= longest:
        tiled = [Layer.attention if layer is Layer.swa else layer for layer in tiled]
    variant = _variant(replace(spec.variant, pattern=tiled))
    return replace(
        spec,
        variant=variant,
        model=_model(spec.model, variant),
        data=_data(spec.data),
        train=replace(spec.train, log_every=min(spec.train.log_every, spec.train.steps), checkpoint_every=0),
        eval=_eval(spec.eval, spec.train),
    )


def _variant(variant: VariantSpec) -> VariantSpec:
    if Layer.mixer not in variant.pattern:
        variant = replace(variant, decay=Decay.none, erase=Erase.none, write=Write.one, tie=False, erase_range=1)
    scalar = (variant.decay is Decay.scalar, variant.erase is Erase.scalar, variant.write is Write.scalar)
    return variant if any(scalar) else replace(variant, narrowing=Narrowing.project)


def _model(model: ModelSpec, variant: VariantSpec) -> ModelSpec:
    if Layer.mixer not in variant.pattern:
        model = replace(
            model,
            head_dim=ModelSpec.head_dim,
            value_dim=ModelSpec.value_dim,
            value_heads=model.heads,
            conv_width=ModelSpec.conv_width,
        )
    if variant.decay is Decay.none:
        model = replace(model, decay_range=[1.0, 1.0], dt_range=[1.0, 1.0])
    if Layer.swa not in variant.pattern:
        model = replace(model, window=ModelSpec.window)
    if {Layer.swa, Layer.attention}.isdisjoint(variant.pattern):
        model = replace(model, rope_base=ModelSpec.rope_base)
    return model


def _data(data: DataSpec) -> DataSpec:
    if isinstance(data, StateTrackingSpec):
        given = None if data.generators is None else tuple(map(tuple, data.generators))
        return replace(data, group=StateTrackingSpec.group, generators=_generators(data.group, given))
    if isinstance(data, TextSpec) and data.tokenizer is Tokenizer.bytes:
        return replace(data, bpe_vocab=TextSpec.bpe_vocab)
    return data


@lru_cache
def _generators(group: Group, given: tuple[tuple[int, ...], ...] | None) -> list[list[int]]:
    """The same generators for the same set of permutations: in order, each that those before it do not make."""
    from deltalab.data.state_tracking import group_elements  # numpy, which only a plan needs

    elements = generated_group(given) if given else [tuple(element) for element in group_elements(group).tolist()]
    chosen = elements[:1]
    made = set(chosen)
    for element in elements:
        if element not in made:
            chosen.append(element)
            made = set(generated_group(chosen))
    return [list(element) for element in chosen]


def _eval(evaluation: EvalSpec, train: TrainSpec) -> EvalSpec:
    every = evaluation.every if evaluation.every < train.steps else 0
    return replace(evaluation, every=every, batch_size=min(evaluation.batch_size, evaluation.sequences))
