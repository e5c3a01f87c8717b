"""Every way to attend gives what a full mask gives, gradients too, and none makes that mask."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from deltalab.mixers import softmax

CASES = [
    (300, 37, None),
    (300, 1, None),
    (520, 256, None),
    (300, None, (0, 5, 130, 131, 300)),
    (420, 50, (0, 128, 256, 300, 420)),
    (256, 70, (0, 200, 256)),
    (90, 16, (0, 40, 90)),
]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def inputs(length: int, dtype: torch.dtype, device: str = "cpu", width: int = 16) -> list[Tensor]:
    random = torch.Generator().manual_seed(length)
    x = torch.randn(3, 1, 2, length, width, dtype=torch.float64, generator=random)
    return [part.to(device, dtype).requires_grad_() for part in x]


def by_definition(window: int | None, cuts: tuple[int, ...] | None) -> Attend:
    """Softmax over all pairs, those that may not be seen at −∞."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = range(q.shape[2])
        whose = [0 if cuts is None else sum(cut <= i for cut in cuts) for i in place]
        seen = [[j <= i and (window is None or i - j < window) and whose[i] == whose[j] for j in place] for i in place]
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~torch.tensor(seen, device=q.device), -math.inf)
        return scores.softmax(-1) @ v

    return attend


def ours(window: int | None, cuts: tuple[int, ...] | None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax.attend(q, k, v, window, None if cuts is None else torch.tensor(cuts, device=q.device))

    return attend


def with_gradients(attend: Attend, x: list[Tensor]) -> list[Tensor]:
    o = attend(*x)
    do = torch.randn(o.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(o)
    return [o.detach(), *torch.autograd.grad(o, x, do)]


@pytest.mark.parametrize(("length", "window", "cuts"), CASES)
def test_blocks_of_queries(length: int, window: int | None, cuts: tuple[int, ...] | None) -> None:
    x = inputs(length, torch.float64)
    for got, want in zip(
        with_gradients(ours(window, cuts), x), with_gradients(by_definition(window, cuts), x), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("length", "window", "cuts"), CASES)
def test_flex_attention(
    length: int, window: int | None, cuts: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncompiled, as it runs on a CPU, where it has no gradients: whole tiles and tiles in part, and none else."""
    monkeypatch.setattr(softmax, "BLOCK", 0)
    monkeypatch.setattr(softmax, "_flex_runs", lambda q: True)
    monkeypatch.setattr(softmax, "_compiled_flex", lambda: flex_attention)
    x = [part.detach() for part in inputs(length, torch.float32)]
    torch.testing.assert_close(ours(window, cuts)(*x), by_definition(window, cuts)(*x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "window", "cuts"), CASES)
def test_tiles_are_those_that_hold_a_visible_pair(
    length: int, window: int | None, cuts: tuple[int, ...] | None
) -> None:
    """As torch finds them by looking at every pair."""
    place = torch.arange(length)
    sequence = torch.zeros_like(place) if cuts is None else torch.searchsorted(torch.tensor(cuts), place, right=True)
    ours = softmax.tiles(length, window, sequence)
    torchs = create_block_mask(ours.mask_mod, None, None, length, length, device="cpu")
    for part in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, part), getattr(torchs, part)), part
    assert torch.equal(ours.to_dense(), torchs.to_dense())


def test_memory_grows_with_the_window_and_not_with_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
        sizes.append(tuple(attn_mask.shape))
        return attention(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    ours(100, None)(*inputs(2000, torch.float32))
    assert len(sizes) == 8
    assert max(columns for _, columns in sizes) == softmax.BLOCK + 99
    sizes.clear()
    ours(None, (0, 600, 1024))(*inputs(1024, torch.float32))
    assert sizes == [(256, 256), (256, 512), (256, 768), (256, 424)]


@pytest.mark.gpu
@pytest.mark.filterwarnings("error:flex_attention called without torch.compile")
def test_gpu_many_kinds_of_call_are_all_compiled() -> None:
    for width in (16, 32, 48, 64, 96, 128):
        for window in (37, None):
            x = inputs(300, torch.bfloat16, "cuda", width)
            with_gradients(ours(window, (0, 100, 300)), x)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "window", "cuts"), CASES)
def test_gpu_compiled_flex_attention(
    length: int, window: int | None, cuts: tuple[int, ...] | None, dtype: torch.dtype
) -> None:
    x = inputs(length, dtype, "cuda", 64)
    exact = [part.detach().double().requires_grad_() for part in x]
    wanted = with_gradients(by_definition(window, cuts), exact)
    least = 1e-2 * max(want.norm() for want in wanted)  # a token that sees itself alone gives q and k no gradient
    for got, want in zip(with_gradients(ours(window, cuts), x), wanted, strict=True):
        assert (got - want).norm() <= (2e-2 if dtype is torch.bfloat16 else 5e-3) * max(want.norm(), least)
