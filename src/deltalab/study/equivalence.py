"""Trials that compute the same numbers, bit for bit, though their specs differ.

Every trial has a plainest one: fields that nothing reads are set to one value, and what is written in two ways is
written in one. Trials with the same plainest trial are equivalent. Where that follows from:

    [mixer] over two layers          [gated_delta, gated_delta], or what else the variant's mixer is
    depth and width                  the budget they were solved for
    no gated delta layer             the gates and that layer's widths
    no Mamba-3 layer                 rank
    no Mamba layer                   expand, mamba_head_dim, d_state
    neither, and no attention        heads
    no layer with a convolution      conv_width
    no scalar gate of its own        narrowing (a tied write gate is the erase gate's)
    no decay, its rate or its step   decay_range, dt_range
    a window over the longest row    full attention; no window left: model.window
    no attention                     rope_base
    a group and its generators       its elements are what tokens are made of
    bytes                            bpe_vocab
    steps                            log_every and eval.every above them; checkpoints, which a resumed run repeats
    where a trial's parts lie        strategy, shard_size, micro_batch_size; keep_checkpoints
    eval.sequences                   eval.batch_size above them
    nothing                          samples, profiles and the peak that MFU is a share of: only looked at

Parameters draw their initial values by seed, name and shape, so one that is absent changes no other. What only may
compute the same, as a batch split into other parts, is not equivalent.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from deltalab.spec.data import DataSpec, StateTrackingSpec, TextSpec, Tokenizer
from deltalab.spec.eval import EvalSpec
from deltalab.spec.groups import Group, generated_group
from deltalab.spec.model import BUDGETING, ModelSpec
from deltalab.spec.train import PLACING, TrainSpec
from deltalab.spec.trial import TrialSpec
from deltalab.spec.variant import MAMBA, Decay, Erase, Layer, Mixer, Narrowing, VariantSpec, Write


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
    tiled = spec.variant.layers(spec.model.depth)
    if spec.model.window >= longest:
        tiled = [Layer.attention if layer is Layer.swa else layer for layer in tiled]
    variant = _variant(spec.variant, tiled)
    return replace(
        spec,
        variant=variant,
        model=_model(spec.model, variant),
        data=_data(spec.data),
        train=_train(spec.train),
        eval=_eval(spec.eval, spec.train),
    )


def _variant(variant: VariantSpec, tiled: list[Layer]) -> VariantSpec:
    rank = variant.rank if Layer.mamba3 in tiled else 1
    variant = replace(variant, mixer=Mixer.gated_delta, pattern=tiled, rank=rank)
    if Layer.gated_delta not in tiled:
        variant = replace(variant, decay=Decay.none, erase=Erase.none, write=Write.one, tie=False, erase_range=1)
    scalar = (variant.decay is Decay.scalar, variant.erase is Erase.scalar, variant.write is Write.scalar)
    return variant if any(scalar) else replace(variant, narrowing=Narrowing.project)


def _model(model: ModelSpec, variant: VariantSpec) -> ModelSpec:
    named = set(variant.pattern)
    decays = variant.decay is not Decay.none
    unread = [*BUDGETING]
    if Layer.gated_delta not in named:
        unread += ["head_dim", "value_dim"]
        model = replace(model, value_heads=model.heads)
    if named.isdisjoint(MAMBA):
        unread += ["expand", "mamba_head_dim", "d_state"]
    if named.isdisjoint({Layer.gated_delta, Layer.mamba2}):
        unread.append("conv_width")
    if not decays and Layer.mamba2 not in named:
        model = replace(model, decay_range=[1.0, 1.0])
    if not decays and named.isdisjoint(MAMBA):
        model = replace(model, dt_range=[1.0, 1.0])
    if Layer.swa not in named:
        unread.append("window")
    if named.isdisjoint({Layer.swa, Layer.attention}):
        unread.append("rope_base")
        if Layer.gated_delta not in named:
            model = replace(model, heads=1, value_heads=1)
    return replace(model, **{key: getattr(ModelSpec, key) for key in unread})


def _data(data: DataSpec) -> DataSpec:
    if isinstance(data, StateTrackingSpec):
        given = None if data.generators is None else tuple(map(tuple, data.generators))
        return replace(data, group=StateTrackingSpec.group, generators=_generators(data.group, given))
    if isinstance(data, TextSpec) and data.tokenizer is not Tokenizer.bpe:
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


def _train(train: TrainSpec) -> TrainSpec:
    silent = {key: getattr(TrainSpec, key) for key in ("profile", "peak_tflops", *PLACING)}
    return replace(train, log_every=min(train.log_every, train.steps), checkpoint_every=0, **silent)


def _eval(evaluation: EvalSpec, train: TrainSpec) -> EvalSpec:
    every = evaluation.every if evaluation.every < train.steps else 0
    looked_at = {key: getattr(EvalSpec, key) for key in ("sample_every", "samples", "sample_tokens")}
    batch_size = min(evaluation.batch_size, evaluation.sequences)
    return replace(evaluation, every=every, batch_size=batch_size, **looked_at)
