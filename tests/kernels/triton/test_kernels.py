"""The Triton kernels against the tokenwise definition in fp64: results, states and every gradient.

On a GPU in fp32, bf16 and fp16, where there is none in the interpreter in fp32 and fp16 (it cannot do bf16).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deltalab.kernels import chunk, dispatch
from deltalab.kernels.reference import gated_delta_rule as reference
from deltalab.kernels.triton import ops
from deltalab.kernels.triton.api import gated_delta_rule
from tests.kernels.cases import CHANNEL_DECAY, VARIANTS, Case, make_case, poisoned_memory, rms_error, run

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*encountered in.*:RuntimeWarning"
)  # the interpreter's, of what is masked
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = (1, 70, 1, 16, 24)
BOUNDS = {
    torch.float32: dict.fromkeys(("o", "state"), 1e-4),
    torch.float16: dict.fromkeys(("o", "state"), 5e-3),
    torch.bfloat16: dict.fromkeys(("o", "state"), 5e-3),
}
LEAST = 1e-30
"""Below this fp32 has not enough of its digits left."""
GATES = ("dg", "db", "dw", "dbeta")


def bound_of(name: str, dtype: torch.dtype) -> float:
    """RMS(error) / RMS(reference) that a result may have."""
    if name in BOUNDS[dtype]:
        return BOUNDS[dtype][name]
    if dtype is torch.float32:
        return 1e-3 if name in GATES else 1e-4
    return 2e-2 if name in GATES else 1e-2


def on_device(case: Case, dtype: torch.dtype) -> Case:
    """The case as the kernels take it: the log-decay in fp32, the initial state too."""
    leaves = {name: x.to(DEVICE, torch.float32 if name in ("g", "S0") else dtype) for name, x in case.leaves.items()}
    cu_seqlens = None if case.cu_seqlens is None else case.cu_seqlens.to(DEVICE)
    return replace(case, leaves=leaves, cu_seqlens=cu_seqlens)


def assert_matches(
    case: Case,
    dtype: torch.dtype = torch.float32,
    form: Callable[..., Any] = gated_delta_rule,
    bounds: torch.dtype | None = None,
    **options: Any,
) -> None:
    """Every result of the kernels is within its bound (of ``dtype`` or another) of the definition's on the same rounded
    inputs."""
    case = on_device(case, dtype)
    want = run(reference, case.to(torch.float64))
    got = run(form, case, **options)
    assert got.keys() == want.keys()
    for name, x in want.items():
        if x.norm() < LEAST:
            assert got[name].norm() < LEAST, name
            continue
        error = rms_error(got[name], x)
        bound = bound_of(name, bounds or dtype)
        assert error <= bound, f"{name}: {error:.1e} > {bound:.0e}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_matches_the_definition(variant: str) -> None:
    assert_matches(make_case(variant, shape=SMALL, group=2))


@pytest.mark.parametrize("time", [1, 15, 63, 64, 65, 130])
def test_any_length(time: int) -> None:
    assert_matches(make_case(shape=(2, time, 1, 16, 16)))


@pytest.mark.parametrize("variant", ["gated_delta_net", "gated_delta_net_2", "gated_linear_attention"])
@pytest.mark.parametrize("decay", ["none", "strong", "mixed tokens"])
def test_any_decay(variant: str, decay: str) -> None:
    assert_matches(make_case(variant, shape=SMALL, decay=decay))


@pytest.mark.parametrize("decay", ["mixed channels", "extreme"])
def test_channels_that_decay_apart(decay: str) -> None:
    assert_matches(make_case(shape=SMALL, decay=decay))


@pytest.mark.parametrize("widths", [(6, 5), (16, 256), (256, 16), (128, 32)])
def test_any_widths(widths: tuple[int, int]) -> None:
    assert_matches(make_case(shape=(1, 70, 1, *widths)))


@pytest.mark.parametrize("variant", ["gated_delta_net", "gated_delta_net_2"])
@pytest.mark.parametrize("states", [True, False])
def test_packed_sequences(variant: str, states: bool) -> None:
    assert_matches(make_case(variant, shape=SMALL, lengths=(3, 64, 1, 65), states=states, group=2))


def test_packed_sequences_give_what_each_gives_alone_bit_for_bit() -> None:
    case = on_device(make_case(shape=SMALL, lengths=(40, 70)), torch.float32)
    packed = run(gated_delta_rule, case)
    for n, (start, stop) in enumerate(((0, 40), (40, 110))):
        parts = {name: x[n : n + 1] if name == "S0" else x[:, start:stop] for name, x in case.leaves.items()}
        inputs = (parts.get(name) for name in "qkvgbw")
        alone, state = gated_delta_rule(*inputs, initial_state=parts["S0"], output_final_state=True)  # type: ignore[misc]
        assert state is not None
        assert torch.equal(packed["o"][:, start:stop], alone)
        assert torch.equal(packed["state"][n : n + 1], state)


@pytest.mark.parametrize("variant", ["delta_net", "gated_delta_net_2_wide"])
def test_one_key_repeated(variant: str) -> None:
    """I + A is then as far from the identity as it gets."""
    case = make_case(variant, shape=(1, 64, 1, 16, 16), decay="none")
    case.leaves["k"][:] = case.leaves["k"][:, :1]
    gate = case.leaves["b" if "b" in case.leaves else "beta"]
    gate[:] = VARIANTS[variant].erase_range
    assert_matches(case)


def test_repeats_itself_bit_for_bit() -> None:
    case = on_device(make_case(shape=SMALL, group=2), torch.float32)
    first, second = run(gated_delta_rule, case), run(gated_delta_rule, case)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("variant", ["gated_delta_net", "gated_delta_net_2"])
def test_recomputed_gradients_are_the_same(variant: str) -> None:
    case = on_device(make_case(variant, shape=SMALL), torch.float32)
    kept, again = run(gated_delta_rule, case), run(gated_delta_rule, case, recompute=True)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_half_precision() -> None:
    assert_matches(make_case(shape=SMALL), torch.float16)


@pytest.mark.parametrize(
    ("tied", "narrow"),
    [
        ("gated_delta_net_2 with one β", "kda"),
        ("kda with one decay", "gated_delta_net"),
        ("gated_delta_net without decay", "delta_net"),
    ],
)
def test_ties_of_the_lattice(tied: str, narrow: str) -> None:
    """The wide kernel on a gate that repeats one value is the narrow one, which never sees it repeated."""
    case = on_device(make_case(narrow, shape=SMALL), torch.float32)
    x = case.leaves
    b, g = x["beta"], x.get("g")
    spread = {"kda": (g, *(b[..., None].expand(*b.shape, n) for n in (16, 24)))}
    spread["gated_delta_net"] = (None if g is None else g[..., None].expand(*g.shape, 16), b, b)
    spread["delta_net"] = (torch.zeros_like(b), b, b)
    options = {"initial_state": x["S0"], "output_final_state": True}
    got = gated_delta_rule(x["q"], x["k"], x["v"], *spread[narrow], **options)
    want = gated_delta_rule(x["q"], x["k"], x["v"], g, b, b, **options)
    for one, other in zip(got, want, strict=True):
        assert one is not None
        assert other is not None
        assert rms_error(one, other) < 1e-6


def raw(
    variant: str, dtype: torch.dtype = torch.float32, shape: Any = SMALL, steep: bool = False
) -> tuple[dict[str, Tensor], Any]:
    """Raw inputs of a variant, and a recurrence of them that activates all; "a" and "delta" come last.

    Steep: the first chunk of a head decays by 40 nats a token in one channel.
    """
    narrow = variant == "scalar decay"
    case = on_device(make_case("untied_scalar" if narrow else variant, shape=shape, states=False), dtype)
    leaves = {name: 3 * (x if name in "qkv" else x - 0.3) for name, x in case.leaves.items()}
    if narrow:
        leaves["g"] = leaves["g"][..., 0].contiguous()
    if steep:
        leaves["g"][0, :64, -1, 3] = 40.0
    heads = leaves["g"].shape[2:]
    leaves["a"] = torch.linspace(0.0, 1.0, heads[0], device=DEVICE)
    leaves["delta"] = torch.linspace(-1.0, 1.0, heads.numel(), device=DEVICE).view(heads)

    def of(rule: Any, x: dict[str, Tensor], **options: Any) -> Tensor:
        options |= {"normalize": True, "erase_range": 2.0, "write_sigmoid": True, "decay": (x["a"], x["delta"])}
        return rule(*(x[name] for name in "qkvgbw"), **options)[0]

    return leaves, of


def assert_activates(
    variant: str, dtype: torch.dtype = torch.float32, shape: Any = SMALL, *, steep: bool = False
) -> None:
    leaves, of = raw(variant, dtype, shape, steep)
    inside = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    outside = {name: x.double().requires_grad_() for name, x in leaves.items()}
    o, want = of(gated_delta_rule, inside), of(dispatch.gated_delta_rule, outside, form="reference")
    exact = dtype is torch.float32
    assert rms_error(o, want) < (1e-4 if exact else 1e-2)
    do = torch.randn(o.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype)
    got = torch.autograd.grad(o, list(inside.values()), do)
    wants = torch.autograd.grad(want, list(outside.values()), do.double())
    dg = wants[list(leaves).index("g")]
    for name, one, other in zip(leaves, got, wants, strict=True):
        assert one.dtype is leaves[name].dtype
        # a's and δ's are sums of terms that all but cancel over tokens and channels; δ's terms are dg's
        bound = (1e-3 if exact else 0.1 if name == "a" else 2e-2) * other.norm()
        least = 3e-2 * dg.norm() if name == "delta" and not exact else 0.0
        assert (one - other).norm() < max(bound, least), name


@pytest.mark.parametrize("variant", ["scalar decay", "untied_scalar", "gated_delta_net_2"])
def test_activations_inside(variant: str) -> None:
    """L2 norm, sigmoid gates and the softplus decay, with the gradients of a and δ too."""
    assert_activates(variant)


def test_activations_inside_in_half_precision() -> None:
    assert_activates("gated_delta_net_2", torch.float16)


def test_activations_inside_of_some_steep_chunks() -> None:
    """The backward pass activates q, k and g of steep chunks alone."""
    assert_activates("gated_delta_net_2", steep=True)
    assert_activates("untied_scalar", steep=True)


def test_activated_inputs_are_not_kept() -> None:
    """For the backward pass as much is kept of raw inputs as of activated ones: these are made again."""
    leaves, of = raw("gated_delta_net_2")
    inputs = {name: x.requires_grad_() for name, x in leaves.items()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        of(gated_delta_rule, inputs)
        count = sum(x.numel() for x in kept)
        kept.clear()
        gated_delta_rule(*(inputs[name] for name in "qkvgbw"))
    assert count == sum(x.numel() for x in kept) + inputs["a"].numel() + inputs["delta"].numel()


@pytest.mark.parametrize("steep", [False, True])
def test_gradients_of_raw_inputs_recomputed(steep: bool) -> None:
    """And what the backward pass does not activate again, it does not read."""
    leaves, of = raw("gated_delta_net_2", steep=steep)
    inputs = {name: x.requires_grad_() for name, x in leaves.items()}

    def grads(recompute: bool) -> tuple[Tensor, ...]:
        o = of(gated_delta_rule, inputs, recompute=recompute)
        return torch.autograd.grad(o.square().sum(), list(inputs.values()))

    again = grads(recompute=True)
    with poisoned_memory():
        kept = grads(recompute=False)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


@pytest.mark.parametrize("is_raw", [False, True])
def test_operators_pass_opcheck(is_raw: bool) -> None:
    case = on_device(make_case(shape=(1, 20, 1, 16, 16)), torch.float32)
    x = {name: leaf.requires_grad_() for name, leaf in case.leaves.items()}
    a, delta = (torch.zeros(n, device=DEVICE, requires_grad=True) for n in ((1,), (1, 16)))
    decay, how = ((a, delta), (True, 2.0, True)) if is_raw else ((None, None), (False, 0.0, False))
    inputs = (x["q"], x["k"], x["v"], x["g"], x["b"], x["w"], *decay, x["S0"], None)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(ops.forward, (*inputs, 0.25, *how, True, True), test_utils=tests)


def test_compiles_without_a_graph_break() -> None:
    case = on_device(make_case(shape=(1, 20, 1, 16, 16)), torch.float32)

    def layer(q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, w: Tensor, *decay: Tensor) -> Tensor:
        options: Any = {"normalize": True, "erase_range": 1.0, "write_sigmoid": True, "decay": decay}
        return gated_delta_rule(2 * q, k, v, g, b, w, **options)[0].relu()

    inputs = [*(case.leaves[name] for name in "qkvgbw"), *(torch.ones(n, device=DEVICE) for n in ((1,), (1, 16)))]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    leaves = [x.clone().requires_grad_() for x in inputs]
    others = [x.clone().requires_grad_() for x in inputs]
    got, want = compiled(*leaves), layer(*others)
    assert torch.equal(got, want)
    for one, other in zip(torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), others), strict=True):
        assert torch.equal(one, other)


def test_activation_checkpointing() -> None:
    case = on_device(make_case(shape=(1, 20, 1, 16, 16)), torch.float32)
    plain, again = ([case.leaves[name].clone().requires_grad_() for name in "qkvgbw"] for _ in range(2))
    want = gated_delta_rule(*plain)[0].sum()
    got = checkpoint(lambda *x: gated_delta_rule(*x)[0].sum(), *again, use_reentrant=False)
    for one, other in zip(torch.autograd.grad(got, again), torch.autograd.grad(want, plain), strict=True):  # type: ignore[arg-type]
        assert torch.equal(one, other)


@pytest.mark.parametrize("absent", ["do", "dstate"])
def test_only_one_result_is_used(absent: str) -> None:
    case = on_device(make_case(shape=(1, 20, 1, 16, 16)), torch.float32)
    x = [case.leaves[name].requires_grad_() for name in ("q", "k", "v", "g", "b", "w", "S0")]
    exact = [leaf.detach().double().requires_grad_() for leaf in x]

    def loss(form: Any, leaves: list[Tensor]) -> Tensor:
        o, state = form(*leaves[:6], initial_state=leaves[6], output_final_state=True)
        return (state if absent == "do" else o).square().sum()

    grads = torch.autograd.grad(loss(gated_delta_rule, x), x, allow_unused=True)
    wants = torch.autograd.grad(loss(reference, exact), exact, allow_unused=True)
    for got, want in zip(grads, wants, strict=True):
        if want is not None and want.norm() > 0:
            assert got is not None
            assert rms_error(got, want) < 1e-4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"v": lambda v: v.double()}, "v: torch.float64; the Triton kernels take"),
        ({"q": lambda q: F.pad(q, (0, 300)), "k": lambda k: F.pad(k, (0, 300))}, "K = 316, V = 16; the Triton"),
    ],
)
def test_what_it_cannot_do_is_said(change: dict[str, Callable[[Tensor], Tensor]], said: str) -> None:
    x = {name: torch.zeros(1, 4, 1, 16, device=DEVICE) for name in "qkv"}
    x |= {name: turn(x[name]) for name, turn in change.items()}
    with pytest.raises(ValueError, match=said):
        gated_delta_rule(**x)


def test_decay_parameters_that_do_not_fit() -> None:
    x, a = torch.zeros(1, 4, 2, 16, device=DEVICE), torch.zeros(2, device=DEVICE)
    with pytest.raises(ValueError, match="decay: given without g"):
        gated_delta_rule(x, x, x, decay=(a, a))
    with pytest.raises(ValueError, match=r"decay: δ has shape \[2\]; must be \[2, 16\]"):
        gated_delta_rule(x, x, x, x, decay=(a, a))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gpu_in_half_precision(variant: str, dtype: torch.dtype) -> None:
    assert_matches(make_case(variant, shape=(2, 130, 2, 64, 128), group=2), dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["scalar decay", "untied_scalar", "gated_delta_net_2"])
def test_gpu_activations_inside(variant: str, dtype: torch.dtype) -> None:
    for widths in ((64, 64), (80, 72), (128, 128)):
        for steep in (False, True) if variant != "scalar decay" else (False,):
            assert_activates(variant, dtype, (2, 130, 2, *widths), steep=steep)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["gated_delta_net_2", "gated_delta_net"])
@pytest.mark.parametrize("decay", ["none", "strong", "mixed channels", "mixed tokens"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_any_decay(decay: str, dtype: torch.dtype, variant: str) -> None:
    for width in (64, 128):
        assert_matches(make_case(variant, shape=(2, 130, 2, width, width), decay=decay), dtype)


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("variant", CHANNEL_DECAY)
def test_gpu_gradients_of_one_kernel(variant: str, launched: list[str]) -> None:
    for options in ({"decay": "none"}, {"decay": "mixed tokens"}, {"lengths": (1, 63, 200, 64, 70)}):
        assert_matches(make_case(variant, shape=(2, 190, 3, 128, 128), **options), torch.bfloat16)  # type: ignore[arg-type]
    assert launched.count("merged gradients") == 3
    assert launched.count("steep key gradients") == 3
    assert "key gradients" not in launched


@pytest.mark.gpu
@pytest.mark.usefixtures("hopper")
def test_gpu_gradients_of_one_kernel_with_many_chunks_a_program(launched: list[str]) -> None:
    case = on_device(make_case(shape=(2, 4000, 8, 128, 128), states=False), torch.bfloat16)
    case.leaves["g"] = case.leaves["g"].to(torch.bfloat16)  # whose gradient goes another way out than one in fp32
    got = run(gated_delta_rule, case)
    assert "merged gradients" in launched
    want = run(chunk.gated_delta_rule, case.to(torch.float32))
    for name, x in want.items():
        assert rms_error(got[name], x) <= bound_of(name, torch.bfloat16), name


@pytest.mark.gpu
@pytest.mark.parametrize("widths", [(16, 16), (32, 32), (64, 64), (128, 128), (256, 256), (256, 64), (32, 256)])
def test_gpu_any_widths(widths: tuple[int, int]) -> None:
    assert_matches(make_case(shape=(2, 130, 2, *widths)), torch.bfloat16)


@pytest.mark.gpu
def test_gpu_short_and_long_sequences_and_packed_ones() -> None:
    for time in (9, 20, 4096):
        assert_matches(make_case(shape=(1, time, 2, 128, 128), states=False), torch.bfloat16)
    assert_matches(make_case(shape=SMALL, lengths=(1000, 1, 63, 64, 2000), group=2), torch.bfloat16)


def beside(x: Tensor) -> Tensor:
    """A contiguous copy that begins an element behind what is aligned."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


@pytest.mark.gpu
@pytest.mark.parametrize("moved", [torch.float32, torch.bfloat16])
def test_gpu_inputs_that_are_not_aligned(moved: torch.dtype) -> None:
    case = make_case(shape=(2, 190, 2, 128, 128))
    assert_matches(case, torch.bfloat16, place=lambda x: beside(x) if x.dtype is moved else x.clone())


@pytest.mark.gpu
def test_gpu_under_autocast() -> None:
    case = on_device(make_case(shape=(1, 130, 1, 64, 64)), torch.float32)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        o, _ = gated_delta_rule(*(case.leaves[name] for name in "qkvgbw"))
    want, _ = reference(*(case.leaves[name].double() for name in "qkvgbw"))
    assert o.dtype is torch.float32
    assert rms_error(o, want) < 1e-2
