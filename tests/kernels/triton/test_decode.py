"""The decode step against the layer written out in fp64 torch (``stepping``).

On a GPU if there is one, else in the interpreter, which runs a kernel's programs one after another: only a GPU shows
whether they disturb each other.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from deltalab.kernels import dispatch
from deltalab.kernels.decode import conv_state_of
from deltalab.kernels.reference import gated_delta_rule as reference
from deltalab.kernels.short_conv import short_convolution
from deltalab.kernels.triton.api import gated_delta_rule
from deltalab.kernels.triton.decode import decode_step, operator
from tests.kernels.cases import rms_error
from tests.kernels.triton.stepping import (
    DEVICE,
    KINDS,
    Problem,
    assert_matches,
    decoded,
    empty_cache,
    on_device,
    rule_inputs,
    step,
    strong_and_missing_decay,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*encountered in.*:RuntimeWarning"
)  # the interpreter's, of what is masked


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("erase", KINDS)
@pytest.mark.parametrize("decay", KINDS)
def test_every_variant(decay: str, erase: str, write: str, raw: bool) -> None:
    assert_matches(Problem(kinds=(decay, erase, write), raw=raw, time=2))


def test_bf16_state() -> None:
    """Rounded once a token, by 2^-9 of itself at most."""
    assert_matches(Problem(), 1e-2, state_dtype=torch.bfloat16)


@pytest.mark.parametrize("taps", [0, 1, 2, 3, 4, 7])
def test_any_width_of_the_convolution(taps: int) -> None:
    assert_matches(Problem(batch=1, heads=1, taps=taps, time=9))


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("taps", [0, 4])
def test_with_and_without_silu_and_norm(taps: int, activate: bool) -> None:
    assert_matches(Problem(batch=1, taps=taps, activate=activate))


@pytest.mark.parametrize(("heads", "group"), [(1, 1), (1, 4), (3, 1), (2, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_grouped_heads_and_batches(batch: int, heads: int, group: int) -> None:
    assert_matches(Problem(batch=batch, heads=heads, group=group, time=2))


@pytest.mark.parametrize(("width", "values"), [(6, 5), (1, 1), (16, 40), (40, 72), (128, 16), (256, 40)])
def test_any_widths_and_several_blocks_of_values(width: int, values: int) -> None:
    assert_matches(Problem(batch=1, time=3, width=width, values=values))


def test_without_anything_around_it_is_the_recurrence_of_one_token() -> None:
    problem = Problem(taps=0, activate=False, raw=False, time=1)
    given = on_device(problem.inputs())
    q, k, v, g, b, w = rule_inputs(problem, given)
    want, state = reference(q, k, v, g, b, w, initial_state=given["state"], output_final_state=True, scale=0.5)  # type: ignore[arg-type]
    cache = empty_cache(problem, given)
    got = step(problem, given, 0, cache, scale=0.5)
    assert state is not None
    assert rms_error(got, want[:, 0]) < 1e-6
    assert rms_error(cache.state, state) < 1e-6


def test_slices_of_one_wide_row() -> None:
    """As one projection for everything of a token would give them."""
    problem = Problem(time=1, heads=1)
    given = on_device(problem.inputs())
    whole = torch.cat([given[name][:, 0].flatten(1) for name in ("qkv", "g", "b", "w")], -1)
    parts = whole.split([given[name][0, 0].numel() for name in ("qkv", "g", "b", "w")], -1)
    sliced = given | {
        name: part.view(given[name][:, 0].shape).unsqueeze(1)
        for name, part in zip(("qkv", "g", "b", "w"), parts, strict=True)
    }
    assert not sliced["g"][:, 0].is_contiguous()
    caches = [empty_cache(problem, given) for _ in range(2)]
    assert torch.equal(decoded(problem, sliced, caches[0]), decoded(problem, given, caches[1]))
    assert torch.equal(caches[0].state, caches[1].state)


def test_writes_where_it_is_told_to() -> None:
    problem = Problem()
    given = on_device(problem.inputs())
    out = given["qkv"].new_full((problem.batch, problem.value_heads, problem.values), torch.nan)
    got = step(problem, given, 0, empty_cache(problem, given), out=out)
    assert got is out
    assert torch.equal(got, step(problem, given, 0, empty_cache(problem, given)))


def test_strong_and_missing_decay_stay_finite() -> None:
    problem = Problem(raw=False)
    assert_matches(problem, inputs=strong_and_missing_decay(problem))


@pytest.mark.parametrize("prompt", [1, 2, 3, 20])
def test_decoding_goes_on_where_a_chunked_prompt_ends(prompt: int) -> None:
    problem = Problem(batch=1, heads=1, time=prompt + 5)
    given = on_device(problem.inputs())
    want, final = prefilled(problem, given, problem.time)
    _, state = prefilled(problem, given, prompt)
    cache = empty_cache(problem, given)
    cache.state, cache.past = state, conv_state_of(given["qkv"][:, :prompt], problem.taps)
    got = decoded(problem, given, cache, prompt)
    assert rms_error(got, want[:, prompt:]) < 1e-5
    assert rms_error(cache.state, final) < 1e-5
    assert torch.equal(cache.past, conv_state_of(given["qkv"], problem.taps))


def prefilled(problem: Problem, x: dict[str, Tensor], length: int) -> tuple[Tensor, Tensor]:
    """The first tokens at once, with the layer's convolution and the chunkwise kernels."""
    keys = problem.heads * problem.width
    sizes = [keys, keys, problem.value_heads * problem.values]
    parts = short_convolution(x["qkv"][:, :length], x["weight"], None, sizes)
    q, k, v = (z.unflatten(-1, (-1, width)) for z, width in zip(
        parts, (problem.width, problem.width, problem.values), strict=True,
    ))  # fmt: skip
    o, state = gated_delta_rule(
        q, k, v, *(x[name][:, :length] for name in "gbw"), initial_state=x["state"], output_final_state=True,
        normalize=True, decay=(x["a"], x["delta"]), erase_range=2.0, write_sigmoid=True,
    )  # fmt: skip
    assert state is not None
    return o, state


@pytest.mark.parametrize("taps", [0, 4])
def test_operator_passes_opcheck(taps: int) -> None:
    problem = Problem(taps=taps)
    given = on_device(problem.inputs())
    cache = empty_cache(problem, given)
    out = torch.empty(problem.batch, problem.value_heads, problem.values, device=DEVICE)
    inputs = (given["qkv"][:, 0], *(given[name][:, 0] for name in "gbw"), given["a"], given["delta"])
    constants = (0.5, problem.heads, True, True, 2.0, 1.0)
    torch.library.opcheck(
        operator, (*inputs, given.get("weight"), *constants, cache.past, cache.arrivals, cache.state, out)
    )


def test_compiles_without_a_graph_break() -> None:
    problem = Problem()
    given = on_device(problem.inputs())

    def model(x: dict[str, Tensor], cache: dict[str, Any]) -> Tensor:
        qkv, g, b, w = (x[name][:, 0] for name in ("qkv", "g", "b", "w"))
        return decode_step(
            2 * qkv, g=g, b=b, w=w, conv_weight=x["weight"], **cache, **problem.options(x)
        ).relu()  # fmt: skip

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    one, other = empty_cache(problem, given), empty_cache(problem, given)
    for _ in range(3):
        assert torch.equal(compiled(given, one.arguments), model(given, other.arguments))
        assert torch.equal(one.state, other.state)
        assert one.past is not None
        assert other.past is not None
        assert torch.equal(one.past, other.past)


def test_a_layer_reaches_the_kernel_and_torch_with_the_same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(raw=False)
    given = on_device(problem.inputs())
    gates = {name: given[name][:, 0] for name in "gbw"}
    results = []
    for form in ("chunk", "triton"):
        monkeypatch.setattr(dispatch, "choose", lambda q, v, form=form: (form, ""))
        cache = empty_cache(problem, given)
        for t in range(2):
            o = dispatch.decode_step(
                given["qkv"][:, t], cache.state, heads=problem.heads, conv_weight=given["weight"],
                conv_state=cache.past, arrivals=cache.arrivals, **gates,
            )  # fmt: skip
        results.append((o, cache.state, cache.past))
    for plain, fused in zip(*results, strict=True):
        assert rms_error(fused, plain) < 1e-5


GOOD: dict[str, Any] = {
    "qkv": torch.zeros(2, 56),
    "state": torch.zeros(2, 4, 6, 8),
    "heads": 2,
    "conv_weight": torch.zeros(56, 4),
    "conv_state": torch.zeros(2, 56, 3),
    "arrivals": torch.zeros(2, 2, dtype=torch.int32),
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": torch.zeros(2, 4, 48)}, r"state: shape \[2, 4, 48\]; must be 4 axes"),
        (
            {"state": torch.zeros(2, 4, 6, 8).half()},
            "state: torch.float16 of shape .*; must be torch.float32 or",
        ),
        ({"state": torch.zeros(2, 4, 8, 6).mT}, "state: .*contiguous"),
        ({"state": torch.zeros(2, 4, 6, 300)}, "state: K = 6, V = 300; the Triton kernels take up to 256"),
        ({"heads": 3}, r"heads: 3; must divide the 4 value heads of state \[2, 4, 6, 8\]"),
        ({"heads": 0}, "heads: 0; must divide"),
        ({"qkv": torch.zeros(2, 57)}, r"qkv: shape \[2, 57\]; must be \[2, 56\]"),
        ({"qkv": torch.zeros(56, 2).mT}, "qkv: torch.float32 of shape .*contiguous behind its batch axis"),
        ({"qkv": torch.zeros(2, 56).double()}, "qkv: torch.float64 .*must be torch.bfloat16 or"),
        ({"g": torch.zeros(2, 4)}, r"g: shape \[2, 4\]; must be \[2, 2\] or \[2, 2, 6\]"),
        ({"b": torch.zeros(2, 2, 8)}, r"b: shape \[2, 2, 8\]; must be \[2, 2\] or \[2, 2, 6\]"),
        ({"w": torch.zeros(2, 2)}, r"w: shape \[2, 2\]; must be \[2, 4\] or \[2, 4, 8\]"),
        ({"decay": (torch.zeros(2), torch.zeros(2))}, "decay: given without g"),
        (
            {"g": torch.zeros(2, 2, 6), "decay": (torch.zeros(2), torch.zeros(2))},
            r"decay: δ: shape \[2\]; must be \[2, 6\]",
        ),
        ({"conv_weight": torch.zeros(55, 4)}, r"conv_weight: shape \[55, 4\]; must be \[56, width\]"),
        ({"conv_state": torch.zeros(2, 56, 4)}, r"conv_state: shape \[2, 56, 4\]; must be \[2, 56, 3\]"),
        ({"conv_state": None}, "conv_state: missing"),
        ({"arrivals": None}, "arrivals: missing"),
        ({"arrivals": torch.zeros(2, 4, dtype=torch.int32)}, r"arrivals: shape \[2, 4\]; must be \[2, 2\]"),
        ({"arrivals": torch.zeros(2, 2)}, "arrivals: torch.float32 of shape .*; must be torch.int32, contiguous"),
        ({"conv_weight": None}, "conv_state: given without conv_weight"),
        ({"out": torch.zeros(2, 4, 6)}, r"out: shape \[2, 4, 6\]; must be \[2, 4, 8\]"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as raised:
        decode_step(**GOOD | change)
    assert "\n" not in str(raised.value)


SHARED_OR_NOT = pytest.mark.parametrize("values", [64, 128])
"""Of 128 key and value channels a Hopper has another kernel."""


def big(values: int) -> Problem:
    """So many programs that a GPU runs them in several waves."""
    return Problem(batch=64, heads=8, group=4, width=128, values=values, time=8)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@SHARED_OR_NOT
def test_gpu_dtypes(values: int, dtype: torch.dtype) -> None:
    assert_matches(Problem(width=128, values=values), 1e-5 if dtype is torch.float32 else 5e-3, dtype)


@pytest.mark.gpu
@SHARED_OR_NOT
def test_gpu_bf16_state(values: int) -> None:
    assert_matches(Problem(width=128, values=values), 1e-2, torch.bfloat16, torch.bfloat16)


@pytest.mark.gpu
@SHARED_OR_NOT
@pytest.mark.parametrize(("state_dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_gpu_more_programs_than_fit_at_once(values: int, state_dtype: torch.dtype, bound: float) -> None:
    assert_matches(big(values), bound, state_dtype=state_dtype)


@pytest.mark.gpu
@SHARED_OR_NOT
def test_gpu_graph_replay(values: int) -> None:
    """A captured step, replayed with the next token's inputs, goes on as separate calls do."""
    problem = big(values)
    given = on_device(problem.inputs())
    want_cache, cache = empty_cache(problem, given), empty_cache(problem, given)
    want = decoded(problem, given, want_cache)
    static = {name: x[:, :1].clone() if name in ("qkv", "g", "b", "w") else x for name, x in given.items()}
    step(problem, static, 0, empty_cache(problem, given))  # compiled before it is captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = step(problem, static, 0, cache)
    for t in range(problem.time):
        for name in ("qkv", "g", "b", "w"):
            static[name].copy_(given[name][:, t : t + 1])
        graph.replay()
        assert torch.equal(o, want[:, t]), t
    assert torch.equal(cache.state, want_cache.state)
    assert cache.past is not None
    assert want_cache.past is not None
    assert torch.equal(cache.past, want_cache.past)
