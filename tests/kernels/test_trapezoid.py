"""Mamba-3's recurrence through the gated delta rule, against its own definition, token by token."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from deltalab.kernels.ssd import ssd_reference
from deltalab.kernels.trapezoid import rotate, trapezoid, trapezoid_reference, turned
from tests.kernels.cases import assert_close, cotangent, rms_error

Leaves = dict[str, Tensor]


def make_leaves(rank: int, batch: int = 2, time: int = 37, rate: float = 0.3) -> Leaves:
    """C, B of rank R for two heads, x, g, Δ, λ and θ in fp64; four of six state channels turn."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return {
        "C": normal(batch, time, rank, 2, 6),
        "B": normal(batch, time, rank, 2, 6),
        "x": normal(batch, time, rank, 2, 5),
        "g": -rate * normal(batch, time, 2).exp(),
        "dt": normal(batch, time, 2).exp(),
        "mix": normal(batch, time, 2).sigmoid(),
        "theta": normal(batch, time, 2, 2),
    }


def run(function, leaves: Leaves, /, **options) -> Leaves:
    """y, what is left to a next token and the gradient of every leaf, for fixed random cotangents."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    y, memory = function(*leaves.values(), **options)
    results = {"y": y, **memory._asdict()}
    cotangents = [cotangent(x, seed) for seed, x in enumerate(results.values())]
    grads = torch.autograd.grad(list(results.values()), list(leaves.values()), cotangents)
    return results | {f"d{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def test_two_tokens_by_hand() -> None:
    """N = 2, a quarter turn at the second token: what the first wrote on channel 0 is read, backwards, on channel 1."""
    C = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    B = torch.tensor([[3.0, 0.0], [0.0, 5.0]]).double()
    x, g, dt, mix = torch.tensor([[2.0, 7.0], [0.0, -0.5], [0.4, 0.6], [0.25, 0.75]]).double()
    theta = torch.tensor([0.3, math.pi / 2]).double()
    by_head = (part.view(1, 2, 1) for part in (g, dt, mix))
    inputs = (C.view(1, 2, 1, 1, 2), B.view(1, 2, 1, 1, 2), x.view(1, 2, 1, 1, 1), *by_head, theta.view(1, 2, 1, 1))
    y, _ = trapezoid_reference(*inputs)
    first = 0.25 * 0.4 * 3 * 2
    kept = math.exp(-0.5) * (first + (1 - 0.75) * 0.6 * 3 * 2)
    second = -kept + 0.75 * 0.6 * 5 * 7
    torch.testing.assert_close(y.flatten(), torch.tensor([first, second]).double())


def test_whole_steps_without_turning_are_mamba_2() -> None:
    leaves = make_leaves(rank=1)
    leaves["mix"], leaves["theta"] = torch.ones_like(leaves["mix"]), torch.zeros_like(leaves["theta"])
    y, memory = trapezoid_reference(*leaves.values())
    C, B, x = (leaves[name].squeeze(2) for name in ("C", "B", "x"))
    expected, state = ssd_reference(C, B, x, leaves["g"], leaves["dt"])
    torch.testing.assert_close(y.squeeze(2), expected)
    torch.testing.assert_close(memory.state, state)


def test_a_rank_whose_other_inputs_are_zero_is_rank_one() -> None:
    leaves, one = make_leaves(rank=3), make_leaves(rank=1)
    leaves |= {name: one[name] for name in ("g", "dt", "mix", "theta")}
    for name in ("C", "B", "x"):
        leaves[name] = torch.cat((one[name], leaves[name][:, :, 1:]), dim=2)
    leaves["x"][:, :, 1:] = 0
    y, _ = trapezoid(*leaves.values())
    expected, _ = trapezoid_reference(*one.values())
    torch.testing.assert_close(y[:, :, :1], expected)


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("time", [2, 15, 65])
def test_matches_the_definition(rank: int, time: int) -> None:
    leaves = make_leaves(rank, time=time)
    assert_close(run(trapezoid, leaves, output_final_state=True), run(trapezoid_reference, leaves), 1e-10)


@pytest.mark.parametrize("rank", [1, 4])
def test_one_token(rank: int) -> None:
    """Its decay and its angle reach nothing: their gradients are zero up to rounding."""
    leaves = make_leaves(rank, time=1)
    got, want = run(trapezoid, leaves, output_final_state=True), run(trapezoid_reference, leaves)
    for name in got:
        torch.testing.assert_close(got[name], want[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("rate", [0.0, 5.0, 50.0])
def test_any_decay(rank: int, rate: float) -> None:
    leaves = make_leaves(rank, time=40, rate=rate)
    assert_close(run(trapezoid, leaves, output_final_state=True), run(trapezoid_reference, leaves), 1e-10)


@pytest.mark.parametrize("rank", [1, 4])
def test_fp32(rank: int) -> None:
    leaves = make_leaves(rank, time=70)
    got = run(trapezoid, {name: x.float() for name, x in leaves.items()}, output_final_state=True)
    for name, want in run(trapezoid_reference, leaves).items():
        assert rms_error(got[name], want) <= (1e-5 if name in ("y", "state") else 1e-4), name


@pytest.mark.parametrize("rank", [1, 4])
def test_packed_sequences(rank: int) -> None:
    leaves, cuts = make_leaves(rank, batch=1, time=60), [0, 3, 43, 44, 60]
    packed = run(trapezoid, leaves, output_final_state=True, cu_seqlens=torch.tensor(cuts))
    for n, (start, stop) in enumerate(pairwise(cuts)):
        y, memory = trapezoid_reference(*(x[:, start:stop] for x in leaves.values()))
        torch.testing.assert_close(packed["y"][:, start:stop], y, rtol=1e-10, atol=1e-11)
        for name, value in memory._asdict().items():
            torch.testing.assert_close(packed[name][n : n + 1], value, rtol=1e-10, atol=1e-11)


@torch.inference_mode()
def test_boundaries_that_inference_mode_made() -> None:
    """Such tensors have no version, by which others are known again."""
    leaves, bounds = make_leaves(4, batch=1, time=9), torch.tensor([0, 3, 9])
    y, _ = trapezoid(*leaves.values(), cu_seqlens=bounds)
    torch.testing.assert_close(y[:, 3:], trapezoid_reference(*(x[:, 3:] for x in leaves.values()))[0])
    bounds[1] = 4
    y, _ = trapezoid(*leaves.values(), cu_seqlens=bounds)
    torch.testing.assert_close(y[:, 4:], trapezoid_reference(*(x[:, 4:] for x in leaves.values()))[0])


@pytest.mark.parametrize("rank", [1, 4])
def test_no_token_feels_a_later_step_even_in_rounding(rank: int) -> None:
    leaves = {name: x.float() for name, x in make_leaves(rank, time=20).items()}
    y, _ = trapezoid(*leaves.values())
    later = {name: torch.cat((x[:, :11], 1.25 * x[:, 11:]), dim=1) for name, x in leaves.items()}
    changed, _ = trapezoid(*later.values())
    assert torch.equal(changed[:, :11], y[:, :11])
    assert not torch.equal(changed[:, 11], y[:, 11])


def test_angles_keep_their_precision_over_a_long_row() -> None:
    theta = torch.full((1, 60_000, 1, 1), 0.3)
    exact = (theta.double() * torch.arange(1, 60_001).view(1, -1, 1, 1)).remainder(2 * math.pi)
    apart = (turned(theta).double() - exact).abs()
    assert torch.minimum(apart, 2 * math.pi - apart).max() < 1e-6


def test_turning_back_undoes_turning_and_leaves_the_rest() -> None:
    x, angle = torch.randn(3, 7).double(), torch.randn(3, 2).double()
    torch.testing.assert_close(rotate(rotate(x, angle), -angle), x)
    assert torch.equal(rotate(x, angle)[:, 4:], x[:, 4:])
    torch.testing.assert_close(rotate(x, angle)[:, [0, 2]].norm(dim=-1), x[:, [0, 2]].norm(dim=-1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("cuts", [None, [0, 3, 43, 44, 60]])
def test_on_a_gpu(rank: int, dtype: torch.dtype, bound: float, cuts: list[int] | None) -> None:
    """B, C and x in a model's precision, gates and angles in fp32; Triton kernels against the definition in fp64."""
    leaves = make_leaves(rank, batch=1, time=60)
    bounds = None if cuts is None else torch.tensor(cuts)
    want = run(trapezoid, leaves, output_final_state=True, cu_seqlens=bounds)
    narrow = ("C", "B", "x")
    given = {name: x.to("cuda", dtype if name in narrow else torch.float32) for name, x in leaves.items()}
    bounds = None if bounds is None else bounds.cuda()
    got = run(trapezoid, given, output_final_state=True, cu_seqlens=bounds, form="triton")
    for name, reference in want.items():
        assert rms_error(got[name].cpu(), reference) <= bound, name
