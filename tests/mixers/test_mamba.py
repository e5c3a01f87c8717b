"""Mamba layers: tokens one by one as all at once, what they carry, and the authors' layers with the same weights."""

import importlib.util
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deltalab.mixers.mamba2 import Mamba2
from deltalab.mixers.mamba3 import Mamba3, angles
from deltalab.model.accounting import cost
from deltalab.model.init import initialise
from tests.specs import trial

LAYERS = {"mamba2": Mamba2, "mamba3": lambda model: Mamba3(1, model), "mamba3_mimo": lambda model: Mamba3(4, model)}


def layer(variant: str, *overrides: str, scale: float = 0.3) -> nn.Module:
    """A layer of 8 heads of 16 channels, 12 of state, so far from its initial values that every part matters."""
    model = trial(f"variant={variant}", "model.d_state=12", *overrides).model
    module = LAYERS[variant](model)
    initialise(module, model, 0)
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=random))
    return module.double()


def inputs(batch: int, length: int) -> Tensor:
    return torch.randn(batch, length, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", LAYERS)
@pytest.mark.parametrize("prompt", [0, 2, 35])
def test_token_by_token_after_a_prompt_is_the_whole_forward(variant: str, prompt: int) -> None:
    module, x = layer(variant), inputs(2, 40)
    whole, cache = module(x), module.new_cache(2, 40)
    last = min(prompt + 8, 40)
    if prompt:
        torch.testing.assert_close(module(x[:, :prompt], cache=cache), whole[:, :prompt], rtol=1e-9, atol=1e-11)
    for t in range(prompt, last):
        torch.testing.assert_close(module.step(x[:, t], cache), whole[:, t], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", LAYERS)
def test_packed_prompts_are_handed_over_each_by_itself(variant: str) -> None:
    module, x, cuts = layer(variant), inputs(1, 24), [0, 1, 9, 12, 24]
    cache = module.new_cache(4, 24)
    module(x, torch.tensor(cuts), cache)
    for n, (start, stop) in enumerate(pairwise(cuts)):
        alone = module.new_cache(1, 24)
        module(x[:, start:stop], cache=alone)
        for name, value in alone.items():
            torch.testing.assert_close(cache[name][n : n + 1], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", LAYERS)
def test_a_cache_stays_as_large_as_it_is_and_its_tensors_the_same(variant: str) -> None:
    module, x = layer(variant), inputs(3, 9)
    cache = module.new_cache(3, 9)
    before = {name: (value.shape, value.data_ptr()) for name, value in cache.items()}
    module(x, cache=cache)
    module.step(x[:, 0], cache)
    assert {name: (value.shape, value.data_ptr()) for name, value in cache.items()} == before
    assert module.new_cache(3, 9_000)["state"].shape == cache["state"].shape


@pytest.mark.parametrize("variant", LAYERS)
def test_the_state_counted_is_the_state_carried(variant: str) -> None:
    spec = trial(f"variant={variant}", "model.depth=1")
    module = LAYERS[variant](spec.model)
    assert module.new_cache(1, 1)["state"].numel() == cost(spec.variant, spec.model, 1).state == 2 * 16 * 16


@pytest.mark.parametrize("variant", LAYERS)
def test_the_state_stays_fp32_and_steps_follow_under_autocast(variant: str) -> None:
    module, x = layer(variant).float(), inputs(2, 30).float()
    cache = module.new_cache(2, 30)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = module(x)
        module(x[:, :20], cache=cache)
        for t in range(20, 30):
            apart = (module.step(x[:, t], cache) - whole[:, t]).float()
            assert apart.norm() <= 0.02 * whole[:, t].float().norm()
    assert cache["state"].dtype is torch.float32


def test_a_convolution_of_one_tap_or_none() -> None:
    x = inputs(2, 10)
    for width in (0, 1):
        module = layer("mamba2", f"model.conv_width={width}")
        whole, cache = module(x), module.new_cache(2, 10)
        for t in range(10):
            torch.testing.assert_close(module.step(x[:, t], cache), whole[:, t], rtol=1e-9, atol=1e-11)


def test_mimo_starts_as_siso_with_the_mean_of_its_ranks() -> None:
    """Initial ranks see the same input, divided: the state of each is a part of one that sums over B."""
    model = trial("variant=mamba3_mimo").model
    module = Mamba3(4, model)
    initialise(module, model, 0)
    assert all(torch.equal(x, torch.full_like(x, 0.25)) for x in (module.rank_in, module.rank_out))
    assert all(x.eq(1).all() for x in (module.rank_gate, module.B_bias, module.C_bias, module.skip))


def missing(package: str, kind: str) -> str:
    """Why a package's layer cannot run here, or ""."""
    if not torch.cuda.is_available():
        return f"the kernels of {package} need a CUDA GPU"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed (pip install --no-build-isolation 'deltalab[mamba]')"
    if package == "fla" and importlib.util.find_spec("fla") is None:
        return "flash-linear-attention is not installed (pip install 'deltalab[fla]')"
    if kind == "mamba3_mimo" and importlib.util.find_spec("tilelang") is None:
        return "the kernels of rank 4 need TileLang (pip install tilelang)"
    return ""


def theirs(package: str, kind: str, model: Any) -> nn.Module:
    """A layer of mamba-ssm or flash-linear-attention of the shape of ours."""
    if package == "mamba_ssm":
        module = importlib.import_module(f"mamba_ssm.modules.{'mamba2' if kind == 'mamba2' else 'mamba3'}")
        shape = {"d_model": model.d_model, "d_state": model.d_state, "headdim": model.mamba_head_dim}
        if kind == "mamba2":
            return module.Mamba2(**shape, d_conv=model.conv_width, use_mem_eff_path=False)
        return module.Mamba3(**shape, is_mimo=kind == "mamba3_mimo", mimo_rank=4, chunk_size=16)
    layers = importlib.import_module("fla.layers")
    shape = {"hidden_size": model.d_model, "state_size": model.d_state, "head_dim": model.mamba_head_dim}
    if kind == "mamba2":
        heads = model.inner_width // model.mamba_head_dim
        return layers.Mamba2(num_heads=heads, **shape, conv_kernel=model.conv_width, use_conv_bias=True, use_bias=False)
    return layers.Mamba3(**shape, is_mimo=kind == "mamba3_mimo", mimo_rank=4, chunk_size=16)


def copy_weights(ours: Any, other: nn.Module, kind: str) -> None:
    """Give their layer the weights of ours: other names, other axes, other pairs of channels that turn."""
    values = dict(ours.named_parameters())
    common = {"in_proj.weight": "proj.weight", "out_proj.weight": "out.weight", "dt_bias": "delta", "D": "skip"}
    given = {name: values[own] for name, own in common.items()}
    if kind == "mamba2":
        given |= {"A_log": values["a"], "norm.weight": values["norm.weight"], "conv1d.bias": values["conv_bias"]}
        given["conv1d.weight"] = values["conv.weight"].unsqueeze(1)
    else:
        order = turning(ours.d_state, pairwise=kind == "mamba3").to(values["delta"].device)
        for name in ("B", "C"):
            given[f"{name}_norm.weight"] = values[f"{name}_norm.weight"][order]
            given[f"{name}_bias"] = values[f"{name}_bias"].transpose(0, 1)[..., order]
        start = sum(ours.widths[:2])
        rows = torch.arange(start, start + 2 * ours.widths[2], device=order.device).unflatten(0, (-1, ours.d_state))
        weight = values["proj.weight"].clone()
        weight[rows.flatten()] = values["proj.weight"][rows[:, order].flatten()]
        given["in_proj.weight"] = weight
    if kind == "mamba3_mimo":
        names = {"mimo_x": "rank_in", "mimo_z": "rank_gate", "mimo_o": "rank_out"}
        given |= {name: values[own].transpose(0, 1) for name, own in names.items()}
    parameters = dict(other.named_parameters())
    assert given.keys() == parameters.keys()
    with torch.no_grad():
        for name, value in given.items():
            parameters[name].copy_(value)


def turning(d_state: int, pairwise: bool) -> Tensor:
    """Which of our state channels stands at each place of theirs: we turn i against i + S, they 2i against 2i + 1 with
    rank 1, and i against i + N/2 with more."""
    size = angles(d_state)
    one, other, rest = torch.arange(d_state).split([size, size, d_state - 2 * size])
    if pairwise:
        return torch.cat((torch.stack((one, other), dim=1).flatten(), rest))
    half = d_state // 2 - size
    return torch.cat((one, rest[:half], other, rest[half:]))


@pytest.mark.parametrize("d_state", [12, 64])
def test_channels_that_turn_keep_their_partner(d_state: int) -> None:
    size = angles(d_state)
    pairs, halves = turning(d_state, pairwise=True), turning(d_state, pairwise=False)
    for order in (pairs, halves):
        assert order.sort().values.tolist() == list(range(d_state))
    assert (pairs[1 : 2 * size : 2] - pairs[0 : 2 * size : 2]).eq(size).all()
    assert (halves[d_state // 2 :][:size] - halves[:size]).eq(size).all()


@pytest.mark.gpu
@pytest.mark.parametrize("package", ["mamba_ssm", "fla"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_authors_layer_with_the_same_weights(package: str, kind: str) -> None:
    if reason := missing(package, kind):
        pytest.skip(reason)
    shape = ("model.d_model=256", "model.heads=2", "model.mamba_head_dim=64", "model.d_state=64", "model.norm_eps=1e-5")
    model = trial(f"variant={kind}", *shape).model
    ours = LAYERS[kind](model)
    initialise(ours, model, 0)
    ours = ours.to("cuda")
    other = theirs(package, kind, model).to("cuda").eval()
    copy_weights(ours, other, kind)
    x = torch.randn(2, 192, 256, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        want, got = other(x), ours(x)
    want = want[0] if isinstance(want, tuple) else want
    assert ((got - want).float().norm() / want.float().norm()).item() <= 2e-2
