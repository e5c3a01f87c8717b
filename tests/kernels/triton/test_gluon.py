"""The kernels in Gluon on a CPU, within the passes that launch them on a Hopper.

What lies between kernels is in fp32 in the interpreter and in bf16 there: a stand-in rounds what the kernel is given.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import warpgroup_mma, warpgroup_mma_wait

from deltalab.kernels.triton import passes, plan
from deltalab.kernels.triton.gluon_parts import async_copy, copy_async
from tests.kernels.cases import CHANNEL_DECAY, Case, make_case
from tests.kernels.triton.gluon import OnCpu
from tests.kernels.triton.test_kernels import assert_matches

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # as in test_kernels
PROGRAMS = 2
BY_HAND: dict[str, Callable[..., Any]] = {
    "fresh": lambda x: x,
    "reciprocal": lambda x: 1 / x,
    "column_of": lambda X, column: X[:, column, None].expand(X.shape),
}
RESULTS = ("dv", "dw", "dq", "dk", "db", "factors", "T", "P")
WIDE = ("g", "dg", "writes", "end")
"""In fp32 on a GPU too."""
SHAPE = (1, 190, 1, 128, 128)
READY = passes._ready


class Rounded(OnCpu):
    """Given bf16 in place of fp32 where a GPU has that."""

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        run = super().__getitem__(grid)

        def rounded(*args: Any, **constants: Any) -> None:
            names = dict(zip(self.arg_names, args, strict=False))
            given = {name: x if name in WIDE else narrow(x) for name, x in names.items()}
            run(*given.values(), **constants)
            for name in RESULTS:
                if names.get(name) is not None:
                    names[name].copy_(given[name])

        return rounded


def narrow(x: Any) -> Any:
    return x.to(torch.bfloat16) if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The passes launch what they would on a Hopper, with few programs."""
    for name in ("persistent_prologue", "merged_gradients"):
        monkeypatch.setattr(passes, name, Rounded(getattr(passes, name), BY_HAND))
    monkeypatch.setattr(passes, "processors", lambda device: PROGRAMS)
    monkeypatch.setattr(passes, "PERSISTENT", 1)
    monkeypatch.setattr(passes, "_ready", lambda *given: True)
    monkeypatch.setattr(plan, "has_warpgroup_products", lambda device: True)
    plan._plan.cache_clear()
    yield
    plan._plan.cache_clear()


def assert_matches_rounded(case: Case) -> None:
    """Within the bounds of bf16, of inputs that are in bf16."""
    leaves = {name: x if name == "g" else x.to(torch.bfloat16).to(x.dtype) for name, x in case.leaves.items()}
    assert_matches(replace(case, leaves=leaves), bounds=torch.bfloat16)


@pytest.mark.parametrize("variant", CHANNEL_DECAY)
def test_every_variant(variant: str, launched: list[str]) -> None:
    assert_matches_rounded(make_case(variant, shape=SHAPE))
    assert "persistent prologue" in launched
    assert "merged gradients" in launched
    assert not {"prologue", "key gradients"} & set(launched)


@pytest.mark.parametrize("decay", ["none", "mixed tokens", "mixed channels", "strong"])
def test_any_decay(decay: str, launched: list[str]) -> None:
    assert_matches_rounded(make_case(shape=SHAPE, decay=decay))
    assert launched.count("steep prologue") == 1
    assert launched.count("steep key gradients") == 1


def test_packed_sequences(launched: list[str]) -> None:
    assert_matches_rounded(make_case(shape=SHAPE, lengths=(1, 63, 70, 64)))
    assert {"persistent prologue", "merged gradients"} <= set(launched)


@pytest.mark.parametrize("shape", [(1, 20, 2, 128, 128), (1, 70, 1, 64, 128)])
def test_what_does_not_fit_goes_the_other_way(shape: tuple[int, int, int, int, int], launched: list[str]) -> None:
    assert_matches_rounded(make_case(shape=shape))
    assert {"prologue", "key gradients"} <= set(launched)


@pytest.mark.parametrize("variant", ["kda", "gated_delta_net_2"])
@pytest.mark.parametrize(("values", "group"), [(64, 1), (128, 2)])
def test_the_prologue_asks_nothing_of_the_values(variant: str, values: int, group: int, launched: list[str]) -> None:
    assert_matches_rounded(make_case(variant, shape=(1, 70, 1, 128, values), group=group))
    assert {"persistent prologue", "key gradients"} <= set(launched)


def test_only_aligned_rows_in_the_dtypes_they_take_are_copied_ahead() -> None:
    memory = torch.zeros(129, dtype=torch.bfloat16)
    rows, beside = (memory[start : start + 128].view(1, 2, 1, 64) for start in (0, 1))
    assert READY((rows, None, beside[..., 0]))  # of a value per head nothing is copied ahead
    assert not READY((rows, beside))
    assert not READY((rows.float(),))
    assert READY((rows.float(),), passes.LOG_DECAYS)
    assert not READY((rows.half(),), passes.LOG_DECAYS)


@gluon.jit
def copied(x, y, SIZE: gl.constexpr, EARLY: gl.constexpr):  # type: ignore[no-untyped-def]
    """y = x through shared memory."""
    places = gl.arange(0, SIZE, None)
    slot = gl.allocate_shared_memory(gl.float32, [SIZE], None)
    copy_async(slot, x + places)
    async_copy.commit_group()
    if not EARLY:
        async_copy.wait_group(0)
    gl.store(y + places, slot.load(None))


@gluon.jit
def squared(x, y, SIZE: gl.constexpr, CHANGES: gl.constexpr, EARLY: gl.constexpr):  # type: ignore[no-untyped-def]
    """y = x x."""
    places = gl.arange(0, SIZE, None)[:, None] * SIZE + gl.arange(0, SIZE, None)[None, :]
    slot = gl.allocate_shared_memory(gl.bfloat16, [SIZE, SIZE], None)
    slot.store(gl.load(x + places))
    zero = gl.zeros([SIZE, SIZE], gl.float32, None)
    product = warpgroup_mma(slot, slot, zero, is_async=True)
    if CHANGES:
        slot.store(zero)
    if EARLY:
        gl.store(y + places, product)
    product = warpgroup_mma_wait(0, deps=(product,))
    gl.store(y + places, product)


def test_the_stand_in_copies_and_multiplies() -> None:
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16).float()
    y = torch.empty_like(x)
    OnCpu(copied, {})[(1,)](x, y, SIZE=64, EARLY=False)
    assert torch.equal(y, x)
    OnCpu(squared, {})[(1,)](x, y, SIZE=8, CHANGES=False, EARLY=False)
    torch.testing.assert_close(y, x @ x)


def test_the_stand_in_shows_what_is_used_too_early_or_outside() -> None:
    x, y = torch.ones(8, 8), torch.empty(8, 8)
    OnCpu(copied, {})[(1,)](x, y, SIZE=64, EARLY=True)
    assert y.isnan().all()
    with pytest.raises(AssertionError, match="an operand changed"):
        OnCpu(squared, {})[(1,)](x, y, SIZE=8, CHANGES=True, EARLY=False)
    with pytest.raises(RuntimeError, match="Product"):
        OnCpu(squared, {})[(1,)](x, y, SIZE=8, CHANGES=False, EARLY=True)
    with pytest.raises(AssertionError, match="of a tensor of 64"):
        OnCpu(copied, {})[(1,)](x, y, SIZE=65, EARLY=False)
