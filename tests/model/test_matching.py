"""Budgets: every preset with every variant and family, counted without torch."""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from deltalab.errors import ConfigError
from deltalab.model.accounting import cost
from deltalab.model.matching import MLP_RATIO, counted, layer_states, solve_mlp_width, state_mismatch
from deltalab.spec import load
from deltalab.spec.trial import TrialSpec
from deltalab.spec.variant import VariantSpec
from deltalab.study.match import budget_of
from deltalab.study.resolve import resolve
from tests.specs import VARIANTS, trial

PRESETS = sorted(path.stem for path in (load.CONF / "model").glob("*.yaml"))
FAMILIES = {"recurrent": "[mixer]", "hybrid": "[mixer,swa]"}
TRANSFORMER = ("variant=transformer",)
PAPER_VOCAB = 32_000


def composed(*overrides: str) -> TrialSpec:
    """A trial at the size its preset gives it."""
    return resolve(load.trial_spec(load.compose(overrides)))


@cache
def variant_of(name: str, pattern: str) -> VariantSpec:
    return load.trial_spec(load.compose([f"variant={name}", f"variant.pattern={pattern}"])).variant


@pytest.mark.parametrize("preset", PRESETS)
def test_every_variant_meets_a_presets_parameters_and_state(preset: str) -> None:
    open_ = load.trial_spec(load.compose([f"model={preset}"]))
    for name, pattern in product(VARIANTS, FAMILIES.values()):
        spec = resolve(replace(open_, variant=variant_of(name, pattern)))
        parameters = cost(spec.variant, spec.model, 1).parameters
        outside = (spec.data.vocab_size - (spec.model.budget_vocab or 0)) * spec.model.d_model
        assert spec.model.parameters is not None
        assert (parameters - outside) / spec.model.parameters == pytest.approx(1, abs=0.005), (name, pattern)
        assert abs(state_mismatch(spec.variant, spec.model)) <= 0.01, (name, pattern)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_papers_size_has_the_papers_numbers(family: str) -> None:
    """262,144 floats of state in every recurrent layer, 1.3 billion parameters ± 2 %."""
    open_ = load.trial_spec(load.compose(["model=1.3b", f"model.vocab_size={PAPER_VOCAB}"]))
    for name in set(VARIANTS) - {"transformer"}:
        spec = resolve(replace(open_, variant=variant_of(name, FAMILIES[family])))
        states = layer_states(spec.variant, spec.model)
        assert spec.model.depth is not None
        assert set(states) == {262_144}, name
        if name.startswith("mamba"):
            assert (spec.model.expand, spec.model.mamba_head_dim, spec.model.d_state) == (2, 64, 64)
        assert len(states) == spec.model.depth // (1 if family == "recurrent" else 2)
        assert cost(spec.variant, spec.model, 4096).parameters == pytest.approx(1.3e9, rel=0.02), name
        assert (spec.model.d_model, spec.model.heads, spec.model.window) == (2048, 16, 2048)


def test_a_transformer_of_the_papers_size_is_as_large_without_a_state() -> None:
    spec = composed("model=1.3b", *TRANSFORMER, f"model.vocab_size={PAPER_VOCAB}")
    assert cost(spec.variant, spec.model, 4096).parameters == pytest.approx(1.3e9, rel=0.005)
    assert layer_states(spec.variant, spec.model) == []


def test_the_depth_of_a_transformer_brings_its_mlp_nearest_to_the_usual_width() -> None:
    def off(spec: TrialSpec) -> float:
        assert spec.model.mlp_width is not None
        return abs(spec.model.mlp_width / spec.model.d_model - MLP_RATIO)

    solved = composed("model=60m", *TRANSFORMER)
    assert solved.model.depth is not None
    others = [composed("model=60m", *TRANSFORMER, f"model.depth={solved.model.depth + way}") for way in (-1, 1)]
    assert off(solved) <= min(map(off, others))
    assert [other.model.depth for other in others] == [solved.model.depth - 1, solved.model.depth + 1]
    recurrent = composed("model=60m", "variant=kda")
    assert recurrent.model.depth == 12 != solved.model.depth


def test_a_width_that_is_given_leaves_the_depth_to_the_budget() -> None:
    spec = composed("model=60m", *TRANSFORMER, "model.mlp_width=1024")
    assert spec.model.mlp_width == 1024
    off = budget_of(spec).mismatch(spec)
    for way in (-1, 1):
        assert spec.model.depth is not None
        other = composed("model=60m", *TRANSFORMER, "model.mlp_width=1024", f"model.depth={spec.model.depth + way}")
        assert abs(counted(other.variant, other.model) / 60e6 - 1) >= abs(off)


def test_a_pattern_is_repeated_whole_where_depth_is_solved() -> None:
    spec = composed("model=20m", "variant.pattern=[attention,attention,swa]")
    assert spec.model.depth is not None
    assert spec.model.depth % 3 == 0
    assert abs(budget_of(spec).mismatch(spec)) <= 0.005


def test_the_blocks_do_not_depend_on_the_datas_vocabulary() -> None:
    parity, recall = (composed("model=20m", f"data={name}").model for name in ("parity", "recall"))
    assert parity.vocab_size != recall.vocab_size
    assert (parity.depth, parity.mlp_width) == (recall.depth, recall.mlp_width)
    counting_all = composed("model=20m", "data=recall", "model.budget_vocab=null").model
    assert (counting_all.mlp_width or 0) > (recall.mlp_width or 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_solved_width_comes_nearest_to_the_target(variant: str) -> None:
    spec = trial(f"variant={variant}", "model.budget_vocab=null")

    def miss(width: int) -> int:
        model = trial(f"variant={variant}", f"model.mlp_width={width}").model
        return abs(cost(spec.variant, model, 1).parameters - 70_000)

    width = solve_mlp_width(spec.variant, spec.model, 70_000)
    assert miss(width) <= min(miss(width - 1), miss(width + 1))


def test_solved_and_given_widths_are_one_trial() -> None:
    solved = composed("model=tiny", "variant=kda")
    given = composed("model=tiny", "variant=kda", f"model.mlp_width={solved.model.mlp_width}")
    assert (solved.model.parameters, given.model.parameters) == (70_000, None)
    assert solved.trial_id == given.trial_id
    assert solved.trial_id != composed("model=tiny", "variant=kda", "model.parameters=80_000").trial_id


def test_a_budget_below_the_mixers_is_refused_with_what_they_take() -> None:
    with pytest.raises(ConfigError, match=r"^model.parameters=9000000: allowed is about \d+ or more for this variant"):
        composed("model=20m", "model.parameters=9_000_000")


@pytest.mark.parametrize("key", ["mlp_width", "depth"])
def test_what_is_open_needs_a_budget(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^model.{key}=null: allowed is a whole number, or null with a budget"):
        composed("model.mlp_width=8", f"model.{key}=null", "model.parameters=null")
