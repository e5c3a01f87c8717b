"""The pass that activates raw inputs, and the one back, against plain torch in fp64 with its gradients.

On a GPU, and where there is none in the interpreter.
"""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deltalab.kernels.activations import activate_gates, normalize_keys
from deltalab.kernels.triton.activate import Activation, activate, activate_back
from deltalab.kernels.triton.plan import Inputs
from tests.kernels.cases import between_nans, cotangent, poisoned_memory, rms_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # as in test_kernels
NAMES = ("q", "k", "g", "b", "w")
Shape = tuple[int, int, int, int, int, int]
SMALL: Shape = (2, 70, 2, 2, 16, 24)
"""B, T, H, value heads of a key head, K, V."""
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 5e-3, torch.float16: 1e-3}
EVERYTHING = Activation(True, (torch.empty(0), torch.empty(0)), 2.0, True)
NOTHING = Activation(False, None, 0.0, False)


def make_inputs(
    kinds: tuple[int, int, int],
    shape: Shape = SMALL,
    dtype: torch.dtype = torch.float32,
    which: Activation = EVERYTHING,
) -> tuple[Inputs, Activation]:
    """Raw inputs, whose gates are of the kinds 0 none, 1 a value per head, 2 one per channel; and what is raw."""
    batch, time, heads, group, width, values = shape
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(DEVICE, dtype)

    def gate(kind: int, *full: int) -> Tensor | None:
        return 2 * normal(*full[: kind + 2]) if kind else None

    keys, rows = (batch, time, heads, width), (batch, time, heads * group, values)
    q, k, v = normal(*keys), 3 * normal(*keys), normal(*rows)
    x = Inputs(q, k, v, gate(kinds[0], *keys), gate(kinds[1], *keys), gate(kinds[2], *rows))
    if which.decay is None or x.g is None:
        return x, which._replace(decay=None)
    return x, which._replace(decay=(normal(heads).float(), normal(*x.g.shape[2:]).float()))


def expected(x: Inputs, how: Activation) -> dict[str, Tensor]:
    """Results and gradients in fp64, for fixed random cotangents."""
    leaves = {name: y.double().requires_grad_() for name, y in zip(x._fields, x, strict=True) if y is not None}
    decay = None
    if how.decay is not None:
        decay = tuple(y.double().requires_grad_() for y in how.decay)
        leaves |= {"a": decay[0], "delta": decay[1]}
    q, k = normalize_keys(leaves["q"], leaves["k"]) if how.norm else (leaves["q"], leaves["k"])
    gates = activate_gates(
        *map(leaves.get, "gbw"), decay=decay, erase_range=how.erase_range, write_sigmoid=how.write_sigmoid
    )
    made = {name: y for name, y in zip(NAMES, (q, k, *gates), strict=True) if y is not None}
    dy = [cotangent(y, seed) for seed, y in enumerate(made.values())]
    del leaves["v"]
    grads = torch.autograd.grad(list(made.values()), list(leaves.values()), dy)
    return made | {"d" + name: y for name, y in zip(leaves, grads, strict=True)}


def computed(x: Inputs, how: Activation, place: Callable[[Tensor], Tensor] = torch.clone) -> dict[str, Tensor]:
    """The same by the kernels."""
    x = Inputs(*(None if y is None else place(y) for y in x))  # type: ignore[arg-type]
    y = activate(x, how)
    made = {name: getattr(y, name) for name in NAMES if getattr(y, name) is not None}
    dy = {name: place(cotangent(one, seed)) for seed, (name, one) in enumerate(made.items())}
    dx, da, ddelta = activate_back(x, how, Inputs(v=x.v, **{name: dy.get(name) for name in NAMES}))  # type: ignore[arg-type]
    grads = {name: getattr(dx, name) for name in NAMES} | {"a": da, "delta": ddelta}
    return made | {"d" + name: grad for name, grad in grads.items() if grad is not None}


def assert_matches(x: Inputs, how: Activation) -> None:
    want, got = expected(x, how), computed(x, how)
    assert got.keys() == want.keys()
    for name, y in want.items():
        exact = name in ("da", "ddelta") or (name == "g" and how.decay is not None)
        bound = BOUNDS[torch.float32 if exact else x.q.dtype]
        assert rms_error(got[name], y) <= bound, name
        if name[0] == "d":
            assert got[name].shape == y.shape
            assert got[name].dtype is (torch.float32 if exact else x.q.dtype)
    if how.decay is not None:
        assert got["g"].dtype is torch.float32


@pytest.mark.parametrize("kinds", [*itertools.product(range(3), repeat=3)])
def test_every_kind_of_gates(kinds: tuple[int, int, int]) -> None:
    assert_matches(*make_inputs(kinds))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kinds", [(2, 2, 2), (1, 1, 1)])
def test_half_precision(kinds: tuple[int, int, int], dtype: torch.dtype) -> None:
    assert_matches(*make_inputs(kinds, dtype=dtype))


@pytest.mark.parametrize("widths", [(6, 5), (80, 72), (128, 128), (256, 200)])
@pytest.mark.parametrize("time", [1, 63, 64, 65])
def test_any_shape(widths: tuple[int, int], time: int) -> None:
    assert_matches(*make_inputs((2, 2, 2), (1, time, 2, 1, *widths)))


@pytest.mark.parametrize(
    "which",
    [
        NOTHING._replace(norm=True),
        NOTHING._replace(decay=EVERYTHING.decay),
        NOTHING._replace(erase_range=1.0),
        NOTHING._replace(write_sigmoid=True),
        NOTHING,
    ],
)
@pytest.mark.parametrize("kinds", [(2, 2, 2), (1, 1, 1)])
def test_what_is_not_raw_stays_as_it_is(which: Activation, kinds: tuple[int, int, int]) -> None:
    x, how = make_inputs(kinds, which=which)
    assert_matches(x, how)
    raw = {"q": how.norm, "k": how.norm, "g": how.decay is not None, "b": how.erase_range > 0, "w": how.write_sigmoid}
    y = activate(x, how)
    assert all((getattr(y, name) is not getattr(x, name)) is made for name, made in raw.items())
    assert y.v is x.v


@pytest.mark.parametrize("kinds", [(2, 2, 2), (1, 1, 1)])
def test_memory_that_nobody_wrote_is_not_read(kinds: tuple[int, int, int]) -> None:
    x, how = make_inputs(kinds)
    clean = computed(x, how)
    with poisoned_memory():
        poisoned = computed(x, how, between_nans)
    assert all(torch.equal(poisoned[name], y) for name, y in clean.items())


def test_raw_values_far_out() -> None:
    """Gates at either end, a rate that lets nothing pass, a key that is zero."""
    x, how = make_inputs((2, 2, 2))
    x = x._replace(g=50 * x.g, b=50 * x.b, w=50 * x.w)  # type: ignore[operator]
    x.k[:, 3] = 0
    assert all(y.isfinite().all() for y in computed(x, how).values())
    assert_matches(x, how)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("widths", [(16, 16), (64, 128), (80, 72), (256, 256)])
def test_gpu_many_tokens(widths: tuple[int, int], dtype: torch.dtype) -> None:
    assert_matches(*make_inputs((2, 2, 2), (2, 1000, 4, 2, *widths), dtype))
