"""The short convolution's kernels against torch in fp64, gradients too; interpreted where there is no GPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.kernels.packing import tokens_before
from deltalab.kernels.short_conv import convolution
from deltalab.kernels.triton import short_conv
from tests.kernels.cases import rms_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16] + [torch.bfloat16] * (DEVICE == "cuda")
Given = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


@pytest.fixture(autouse=True)
def small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs for few tokens, which the interpreter does one after the other."""
    if DEVICE == "cpu":
        monkeypatch.setattr(short_conv, "TOKENS", 8)


def given(taps: int, biased: bool, lengths: list[int] | None, dtype: torch.dtype, sizes: list[int]) -> Given:
    """x as a slice of wider rows, weight, bias, offsets of packed sequences."""
    torch.manual_seed(0)
    channels, shape = sum(sizes), (2, 9) if lengths is None else (1, sum(lengths))
    x = torch.randn(*shape, channels + 5, device=DEVICE).to(dtype)[..., 3 : channels + 3]
    bias = torch.randn(channels, device=DEVICE) if biased else None
    ends = None if lengths is None else torch.tensor([0, *lengths], device=DEVICE).cumsum(0)
    return x, torch.randn(channels, taps, device=DEVICE), bias, ends


def run(form: Any, x: Tensor, weight: Tensor, bias: Tensor | None, sizes: list[int], dy: list[Tensor]) -> list[Tensor]:
    """Parts and the gradients of x, weight and bias."""
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias) if leaf is not None]
    parts = form(*leaves[:2], leaves[2] if bias is not None else None, sizes)
    return [*parts, *torch.autograd.grad(parts, leaves, [d.to(parts[0].dtype) for d in dy])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("taps", "biased", "lengths"),
    [(4, False, None), (4, True, [1, 2, 9, 0, 3, 4]), (1, True, None), (2, False, [9, 1])],
)
def test_parts_and_gradients(taps: int, biased: bool, lengths: list[int] | None, dtype: torch.dtype) -> None:
    sizes = [7, 300]
    x, weight, bias, ends = given(taps, biased, lengths, dtype, sizes)
    dy = [torch.randn(*x.shape[:2], size, device=DEVICE).to(dtype) for size in sizes]
    past = None if ends is None else tokens_before(ends, x.shape[1])

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: list[int]) -> list[Tensor]:
        z = convolution(x, weight, ends)
        return list(F.silu(z if bias is None else z + bias).split(sizes, dim=-1))

    def fused(x: Tensor, weight: Tensor, bias: Tensor | None, sizes: list[int]) -> list[Tensor]:
        return short_conv.short_convolution(x, weight, bias, past, sizes)

    wide = (leaf if leaf is None else leaf.double() for leaf in (x, weight, bias))
    want = run(plain, *wide, sizes, dy)
    got = run(fused, x, weight, bias, sizes, dy)
    bound = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape
        assert rms_error(one, other) < bound
    assert all(part.is_contiguous() for part in got[: len(sizes)])


def test_operators_pass_opcheck() -> None:
    x, weight, bias, ends = given(4, True, [3, 8], torch.float32, [8, 3])
    assert ends is not None
    x, weight = x.detach().requires_grad_(), weight.requires_grad_()
    inputs = (x, weight, bias, tokens_before(ends, x.shape[1]), [8, 3])
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(short_conv.short_convolution, inputs, test_utils=tests)


def test_a_compiled_layer_is_one_graph() -> None:
    x, weight, _, _ = given(4, False, None, torch.float32, [8, 3])

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        first, second = short_conv.short_convolution(2 * x, weight, None, None, [8, 3])
        return first.sum() + second.square().sum()

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    grads = []
    for form in (compiled, layer):
        leaves = [leaf.detach().requires_grad_() for leaf in (x, weight)]
        grads.append(torch.autograd.grad(form(*leaves), leaves))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
