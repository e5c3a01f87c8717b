"""Mamba-2's recurrence through the gated delta rule, against its own definition, token by token."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deltalab.kernels.ssd import ssd, ssd_reference
from tests.kernels.cases import assert_close, cotangent, rms_error

Leaves = dict[str, Tensor]


def make_leaves(batch: int = 2, time: int = 37, groups: int = 1, rate: float = 0.3) -> Leaves:
    """C, B of three heads in groups, x, g and Δ in fp64."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return {
        "C": normal(batch, time, groups, 6),
        "B": normal(batch, time, groups, 6),
        "x": normal(batch, time, 3, 5),
        "g": -rate * normal(batch, time, 3).exp(),
        "dt": normal(batch, time, 3).exp(),
    }


def run(function, leaves: Leaves, /, **options) -> Leaves:
    """y, the final state and the gradient of every leaf, for fixed random cotangents."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    y, state = function(*leaves.values(), **options)
    grads = torch.autograd.grad((y, state), list(leaves.values()), (cotangent(y, 0), cotangent(state, 1)))
    return {"y": y, "state": state} | {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def test_two_tokens_by_hand() -> None:
    C, B, x, g, dt = torch.tensor([[2, 3], [5, 7], [0.5, -1], [0, -0.7], [0.2, 0.4]]).double().view(5, 1, 2, 1, 1)
    y, state = ssd_reference(C, B, x, g[..., 0], dt[..., 0])
    first = 0.2 * 5 * 0.5
    second = torch.tensor(-0.7).double().exp().item() * first - 0.4 * 7
    torch.testing.assert_close(y.flatten(), torch.tensor([2 * first, 3 * second]).double())
    assert state.item() == pytest.approx(second)


@pytest.mark.parametrize("time", [1, 15, 64, 65])
@pytest.mark.parametrize("groups", [1, 3])
def test_matches_the_definition(time: int, groups: int) -> None:
    leaves = make_leaves(time=time, groups=groups)
    assert_close(run(ssd, leaves, output_final_state=True), run(ssd_reference, leaves), 1e-10)


@pytest.mark.parametrize("rate", [0.0, 5.0, 50.0])
def test_any_decay(rate: float) -> None:
    leaves = make_leaves(time=70, rate=rate)
    assert_close(run(ssd, leaves, output_final_state=True), run(ssd_reference, leaves), 1e-10)


def test_fp32() -> None:
    leaves = make_leaves(time=130)
    got = run(ssd, {name: x.float() for name, x in leaves.items()}, output_final_state=True)
    for name, want in run(ssd_reference, leaves).items():
        assert rms_error(got[name], want) <= (1e-5 if name in ("y", "state") else 1e-4), name


def test_packed_sequences() -> None:
    leaves, cuts = make_leaves(batch=1, time=60), [0, 3, 43, 44, 60]
    packed = run(ssd, leaves, output_final_state=True, cu_seqlens=torch.tensor(cuts))
    for n, (start, stop) in enumerate(pairwise(cuts)):
        y, state = ssd_reference(*(x[:, start:stop] for x in leaves.values()))
        torch.testing.assert_close(packed["y"][:, start:stop], y, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(packed["state"][n : n + 1], state, rtol=1e-10, atol=1e-12)
