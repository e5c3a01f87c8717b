"""Every mixer is causal, packs sequences without leaks, and reads ties and granularity in one place."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from deltalab.mixers.gates import Gates
from deltalab.mixers.short_conv import ShortConvolution
from deltalab.model.block import make_mixer
from deltalab.model.init import initialise
from deltalab.spec.variant import Layer
from tests.specs import LATTICE, VARIANTS, trial

CASES = [(Layer.mixer, variant) for variant in VARIANTS] + [(Layer.swa, "kda"), (Layer.attention, "kda")]


def mixer(layer: Layer, *overrides: str) -> torch.nn.Module:
    spec = trial(*overrides, "model.window=5")
    own, *_ = spec.variant.layers(1)
    module = make_mixer(own if layer is Layer.mixer else layer, spec.variant, spec.model)
    initialise(module, spec.model, 0)
    return module.double()


def inputs(rows: int, length: int) -> Tensor:
    return torch.randn(rows, length, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("layer", "variant"), CASES, ids=str)
def test_no_token_sees_a_later_one(layer: Layer, variant: str) -> None:
    module, x = mixer(layer, f"variant={variant}"), inputs(2, 12).requires_grad_()
    for position in (0, 4, 11):
        (grad,) = torch.autograd.grad(module(x)[:, position].square().sum(), x)
        assert grad[:, position].abs().max() > 0
        assert grad[:, position + 1 :].abs().sum() <= 1e-15 * grad[:, position].abs().sum()  # rounding of fp64 at most


@pytest.mark.parametrize(("layer", "variant"), CASES, ids=str)
def test_packed_sequences_are_as_if_alone(layer: Layer, variant: str) -> None:
    module, x = mixer(layer, f"variant={variant}"), inputs(1, 20)
    cuts = [0, 7, 8, 20]
    packed = module(x, torch.tensor(cuts))
    alone = [module(x[:, start:end]) for start, end in pairwise(cuts)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-9, atol=1e-11)


def test_a_window_hides_what_lies_before_it() -> None:
    x = inputs(1, 12).requires_grad_()
    (grad,) = torch.autograd.grad(mixer(Layer.swa)(x)[:, 10].square().sum(), x)
    seen = grad.abs().amax(-1)[0] > 0
    assert seen.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]


def test_rotary_positions_make_attention_see_distance_alone() -> None:
    module, x = mixer(Layer.swa), inputs(1, 6)
    shifted = torch.cat([inputs(1, 9)[:, :4], x], dim=1)
    torch.testing.assert_close(module(shifted)[:, -1], module(x)[:, -1])  # window 5 of both ends alike


def gates(*overrides: str) -> tuple[Gates, Any]:
    spec = trial(*overrides)
    module = Gates(spec.variant, spec.model)
    initialise(module, spec.model, 0)
    return module, module(inputs(2, 3).float())


SHAPES = {
    "delta_net": (None, 3, 3),
    "gated_delta_net": (3, 3, 3),
    "kda": (4, 3, 3),
    "erase_only": (4, 4, 3),
    "write_only": (4, 3, 4),
    "untied_scalar": (4, 3, 3),
    "gated_delta_net_2": (4, 4, 4),
    "gated_delta_net_2_wide": (4, 4, 4),
    "gated_linear_attention": (4, None, None),
}


@pytest.mark.parametrize("narrowing", ["pool", "project"])
@pytest.mark.parametrize("variant", LATTICE)
def test_granularity_is_as_the_variant_says(variant: str, narrowing: str) -> None:
    _, values = gates(f"variant={variant}", f"variant.narrowing={narrowing}")
    assert tuple(None if gate is None else gate.ndim for gate in values) == SHAPES[variant]
    if values.g is not None:
        assert values.g.max() <= 0
        assert values.g.dtype is torch.float32


def test_tied_gates_are_one_and_the_erase_gate_alone_is_widened() -> None:
    _, tied = gates("variant=kda")
    assert torch.equal(tied.b, tied.w)
    _, wide = gates("variant=kda", "variant.erase_range=2")
    assert torch.equal(wide.b, 2 * wide.w)
    module, untied = gates("variant=untied_scalar")
    assert not torch.equal(untied.b, untied.w)
    assert module.write is not None


def test_tied_gates_serve_every_value_head_of_their_group() -> None:
    _, values = gates("variant=kda", "model.value_heads=6")
    assert values.b.shape[-1] == 2
    assert torch.equal(values.w, values.b[..., [0, 0, 0, 1, 1, 1]])


def test_pooling_is_the_mean_of_the_full_gate() -> None:
    full = gates("variant=gated_delta_net_2")[1]
    pooled = gates("variant=untied_scalar", "variant.narrowing=pool")[1]
    torch.testing.assert_close(pooled.b, full.b.mean(-1))
    torch.testing.assert_close(pooled.w, full.w.mean(-1))
    decay = gates("variant=gated_delta_net", "variant.narrowing=pool")[1].g
    torch.testing.assert_close(decay, full.g.mean(-1))


def test_short_convolution_is_torchs_depthwise_one() -> None:
    conv = ShortConvolution(6, 4)
    torch.nn.init.normal_(conv.weight)
    x = torch.randn(2, 9, 6)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (3, 0))
    expected = torch.nn.functional.silu(torch.nn.functional.conv1d(padded, conv.weight[:, None], groups=6).mT)
    torch.testing.assert_close(torch.cat(conv(x, [4, 2]), dim=-1), expected)
    torch.testing.assert_close(conv(x[:, :2], [6])[0], expected[:, :2])
