"""Initial values: shared between cells by name, in the ranges asked for."""

import math

import pytest
import torch

from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from tests.specs import trial


def built(*overrides: str) -> dict[str, torch.Tensor]:
    spec = trial(*overrides)
    module = LanguageModel(spec.variant, spec.model)
    initialise(module, spec.model, spec.seed)
    return dict(module.named_parameters())


def test_the_same_seed_gives_shared_parameters_the_same_values_in_every_cell() -> None:
    first, second = built("variant=gated_delta_net_2"), built("variant=kda")
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    assert len(shared) > 15
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_another_seed_gives_other_values_and_no_two_matrices_are_alike() -> None:
    first, second = built("seed=0"), built("seed=1")
    assert not torch.equal(first["embedding"], second["embedding"])
    assert not torch.equal(first["blocks.0.mixer.out.weight"], first["blocks.1.mixer.out.weight"])


def test_decay_starts_in_its_range() -> None:
    values = built("model.decay_range=[2,4]", "model.dt_range=[0.01,0.02]", "model.heads=8", "model.head_dim=32")
    rate = values["blocks.0.mixer.gates.decay.a"].exp()
    dt = torch.nn.functional.softplus(values["blocks.0.mixer.gates.decay.delta"])
    assert 2 <= rate.min() < rate.max() <= 4
    assert dt.min().item() >= 0.01 * (1 - 1e-5)
    assert dt.max().item() <= 0.02 * (1 + 1e-5)


def test_mamba_starts_where_its_authors_do() -> None:
    ranges = ("model.decay_range=[2,4]", "model.dt_range=[0.01,0.02]", "model.conv_width=4")
    values = {name.removeprefix("blocks.0.mixer."): x for name, x in built("variant=mamba2", *ranges).items()}
    assert 2 <= values["a"].exp().min() < values["a"].exp().max() <= 4
    dt = torch.nn.functional.softplus(values["delta"])
    assert 0.01 * (1 - 1e-5) <= dt.min() < dt.max() <= 0.02 * (1 + 1e-5)
    assert values["skip"].eq(1).all()
    for name in ("conv.weight", "conv_bias"):
        assert 0.4 < values[name].abs().max() <= 0.5
    values = {name.removeprefix("blocks.0.mixer."): x for name, x in built("variant=mamba3_mimo", *ranges).items()}
    for name, start in {"rank_in": 0.25, "rank_gate": 1, "rank_out": 0.25, "B_bias": 1, "C_bias": 1, "skip": 1}.items():
        assert values[name].eq(start).all(), name
    assert "a" not in values


def test_linear_layers_are_xavier_uniform_with_the_papers_gain() -> None:
    weight = built()["blocks.0.mixer.qkv.weight"]
    bound = 2**-2.5 * math.sqrt(6 / sum(weight.shape))
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
