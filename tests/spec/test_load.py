"""Composition: what is accepted, what is resolved, and what a user's mistake says."""

import pytest

from deltalab.errors import UsageError
from deltalab.spec import load
from deltalab.spec.trial import TrialSpec
from deltalab.study.resolve import resolve
from tests.specs import VARIANTS, trial

MISTAKES = [
    (["variant=kdaa"], ["variant=kdaa", "gated_delta_net_2", "kda"]),
    (["variant.deca=none"], ["variant.deca", "decay", "erase_range"]),
    (["trian.steps=3"], ["trian.steps", "train"]),
    (["variant.decay=half"], ["variant.decay=half", "none, scalar, channel"]),
    (["train.steps=many"], ["train.steps=many", "Integer"]),
    (["train.steps=0"], ["train.steps=0", "whole number from 1"]),
    (["train.lr=0"], ["train.lr=0", "above 0"]),
    (["train.accumulation=3"], ["train.accumulation=3", "divisor"]),
    (["variant.tie=true"], ["variant.tie=true", "erase=channel", "scalar"]),
    (["variant=kda", "variant.write=channel"], ["variant.tie=true", "write=channel"]),
    (["variant=gated_linear_attention", "variant.erase_range=2"], ["erase_range=2", "1 when"]),
    (["variant.erase_range=3"], ["erase_range=3", "1, 2"]),
    (["variant.pattern=[]"], ["variant.pattern=[]", "mixer, swa, attention"]),
    (["variant.pattern=[mixer,mamba]"], ["mamba", "mixer, swa, attention"]),
    (["model.heads=3"], ["model.heads=3", "divisor"]),
    (["model.value_heads=3"], ["model.value_heads=3", "multiple of model.heads = 2"]),
    (["model.decay_range=[2,1]"], ["model.decay_range=[2.0, 1.0]", "low <= high"]),
    (["model.vocab_size=1"], ["model.vocab_size=1", "2"]),
    (["data.group=M11"], ["data.group=M11", "S3"]),
    (["data.generators=[[0,0]]"], ["data.generators=[[0, 0]]", "permutations"]),
    (["data=recall", "data.overwrites=9"], ["data.overwrites=9", "data.pairs = 8"]),
    (["data.pairs=3"], ["data.pairs", "train_length"]),
    (["variant.pattern=[mixer,swa]", "model.depth=1"], ["variant.pattern=[mixer,swa]", "model.depth = 1"]),
    (["model.norm_eps=-1"], ["model.norm_eps=-1", "above 0"]),
    (["tracking.flush_seconds=0"], ["tracking.flush_seconds=0", "from 0.1"]),
    (["seed=-1"], ["seed=-1", "from 0"]),
    (["+colour=red"], ["+colour=red", "no key outside"]),
    (["+train.colour=red"], ["+train.colour=red", "no key outside"]),
    (["hydra/launcher=moon"], ["hydra/launcher=moon", "inline, local"]),
    (["variant=kda,delta_net"], ["variant=kda,delta_net", "multirun"]),
]


@pytest.mark.parametrize(("overrides", "said"), MISTAKES, ids=lambda part: " ".join(part)[:40])
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(overrides: list[str], said: list[str]) -> None:
    def read() -> None:
        config = load.compose(overrides)
        load.launch_spec(config)
        resolve(load.trial_spec(config))

    with pytest.raises(UsageError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    for part in said:
        assert part in message


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frozen_config_restores_an_equal_spec(variant: str) -> None:
    spec = trial(f"variant={variant}")
    again = TrialSpec.from_dict(spec.to_dict())
    assert again == spec
    assert again.trial_id == spec.trial_id


def test_identity_is_the_content_and_not_the_label() -> None:
    named = trial("variant=untied_scalar")
    spelled = trial("variant=gated_delta_net_2", "variant.erase=scalar", "variant.write=scalar")
    assert named.variant.name != spelled.variant.name
    assert named.trial_id == spelled.trial_id


@pytest.mark.parametrize("change", ["seed=1", "train.lr=1e-4", "variant.narrowing=pool", "data=s3", "eval.every=5"])
def test_whatever_changes_a_number_changes_the_id(change: str) -> None:
    assert trial(change).trial_id != trial().trial_id


@pytest.mark.parametrize("change", ["runs=elsewhere", "tracking=none", "hydra/launcher=inline"])
def test_how_a_trial_is_run_leaves_its_id(change: str) -> None:
    assert trial(change).trial_id == trial().trial_id


def test_every_value_is_resolved() -> None:
    spec = trial("data=recall")
    assert spec.model.vocab_size == 64
    assert spec.model.value_heads == spec.model.heads
    assert spec.model.decay_range == pytest.approx([0.05, 0.5], rel=0.01)  # measured at 64 tokens
    assert trial("model.decay_range=[1,16]").model.decay_range == [1, 16]


def test_decay_range_follows_the_training_length_and_ends_at_the_papers() -> None:
    ranges = [trial(f"data.train_length={n}", f"data.test_length={n}").model.decay_range for n in (32, 256, 4096, 9999)]
    assert ranges[0][1] < ranges[1][1] < ranges[2][1] == ranges[3][1] == 16
    assert ranges[2][0] == 1
