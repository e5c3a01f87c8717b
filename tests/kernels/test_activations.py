"""What is raw becomes what the recurrence takes, whichever form runs; what does not fit is refused by all of them."""

import math

import pytest
import torch

from deltalab.kernels.activations import activate_gates
from deltalab.kernels.dispatch import gated_delta_rule


@pytest.mark.parametrize("channels", [True, False])
def test_gates_by_hand(channels: bool) -> None:
    shape = (1, 1, 2, 3) if channels else (1, 1, 2)
    raw = torch.linspace(-2, 2, math.prod(shape), dtype=torch.float64).view(shape)
    a, delta = torch.tensor([0.5, -1.0]).double(), torch.linspace(-1, 1, raw.numel()).double().view(shape[2:])
    g, b, w = activate_gates(raw, raw, raw.clone(), decay=(a, delta), erase_range=2.0, write_sigmoid=True)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in shape)).tolist():
        x, at = raw[tuple(place)].item(), tuple(place[2:])
        rate = -math.exp(a[place[2]]) * math.log1p(math.exp(x + delta[at].item()))
        sigmoid = 1 / (1 + math.exp(-x))
        for got, want in ((g, rate), (b, 2 * sigmoid), (w, sigmoid)):
            assert got[tuple(place)].item() == pytest.approx(want, rel=1e-12)


def test_a_tied_gate_is_activated_once() -> None:
    raw = torch.randn(1, 2, 3)
    _, b, w = activate_gates(None, raw, raw, erase_range=1.0, write_sigmoid=True)
    assert b is w


def test_what_is_not_raw_stays_as_it_is() -> None:
    gates = tuple(torch.rand(1, 2, 3) for _ in range(3))
    assert all(one is other for one, other in zip(activate_gates(*gates), gates, strict=True))


@pytest.mark.parametrize("form", ["chunk", "reference"])
def test_decay_parameters_that_do_not_fit(form: str) -> None:
    x, a = torch.zeros(1, 4, 2, 16), torch.zeros(2)
    with pytest.raises(ValueError, match="decay: given without g"):
        gated_delta_rule(x, x, x, decay=(a, a), form=form)
    with pytest.raises(ValueError, match=r"decay: δ has shape \[2\]; must be \[2, 16\]"):
        gated_delta_rule(x, x, x, x, decay=(a, a), form=form)
