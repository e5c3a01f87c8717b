"""Counted costs against the modules themselves, laid out on the meta device."""

from itertools import product

import pytest
import torch

from deltalab.model.accounting import cost
from deltalab.model.language_model import LanguageModel
from tests.specs import VARIANTS, trial

SHAPES = [
    [],
    ["variant.pattern=[mixer,swa]"],
    ["variant.pattern=[attention,mixer]", "model.depth=3"],
    ["variant.pattern=[mamba2,gated_delta,mixer]", "model.depth=3", "model.d_state=10", "model.expand=3"],
    ["model.value_heads=4", "model.head_dim=8", "model.value_dim=24"],
    ["model.mlp_width=0", "model.conv_width=0"],
]


def parameters(*overrides: str) -> tuple[int, int]:
    spec = trial(*overrides)
    with torch.device("meta"):
        module = LanguageModel(spec.variant, spec.model)
    counted = cost(spec.variant, spec.model, spec.data.train_length).parameters
    return counted, sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("narrowing", "shape"), list(product(["pool", "project"], SHAPES)), ids=str)
def test_counted_parameters_are_the_modules(variant: str, narrowing: str, shape: list[str]) -> None:
    counted, built = parameters(f"variant={variant}", f"variant.narrowing={narrowing}", *shape)
    assert counted == built


def test_pooling_leaves_the_parameter_count_of_the_channel_gate() -> None:
    full = parameters("variant=gated_delta_net_2")[0]
    for variant in ("erase_only", "write_only", "untied_scalar"):
        assert parameters(f"variant={variant}", "variant.narrowing=pool")[0] == full
        assert parameters(f"variant={variant}")[0] < full


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "transformer"])
def test_the_papers_shape_has_the_papers_state(variant: str) -> None:
    shape = ("model.d_model=2048", "model.heads=16", "model.head_dim=128", "model.value_dim=128", "model.depth=1")
    spec = trial(f"variant={variant}", *shape)
    assert cost(spec.variant, spec.model, 4096).state == 262_144
    if variant.startswith("mamba"):
        assert (spec.model.mamba_head_dim, spec.model.d_state) == (64, 64)


@pytest.mark.parametrize("model", ["tiny", "20m"])
def test_mamba_gets_the_state_of_gated_delta_layers(model: str) -> None:
    states = {
        cost(spec.variant, spec.model, 64).state
        for spec in (trial(f"variant={name}", f"model={model}") for name in ("kda", "mamba2", "mamba3", "mamba3_mimo"))
    }
    assert len(states) == 1


def test_the_work_of_a_rank_is_counted() -> None:
    """Per state cell: a decay, and for each rank two multiply-adds of writing and one of reading."""
    one, two, three = (trial("variant=mamba3", f"variant.rank={rank}", "model.depth=1") for rank in (1, 2, 3))
    flops = [cost(spec.variant, spec.model, 1) for spec in (one, two, three)]
    d, inner, n = 64, 128, 4
    projected = 2 * 2 * n * d  # B and C
    extra = 6 * inner * n + projected + (2 + 4) * inner
    assert flops[2].flops - flops[1].flops == extra
    assert flops[1].state == flops[0].state == inner * n


def test_a_window_bounds_the_cache_and_the_work() -> None:
    long = ["data.train_length=512", "data.test_length=512", "model.depth=1"]
    windowed = trial("variant.pattern=[swa]", "model.window=16", *long)
    full = trial("variant.pattern=[attention]", *long)
    near, far = (cost(spec.variant, spec.model, 512) for spec in (windowed, full))
    assert near.cache == 2 * 16 * 64
    assert far.cache == 2 * 512 * 64
    assert far.flops - near.flops == pytest.approx(4 * 64 * (256.5 - 16 + 16 * 15 / 2 / 512), abs=2)
