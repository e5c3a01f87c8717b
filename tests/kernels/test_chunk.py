"""The chunkwise form against the tokenwise definition: outputs, states and every gradient."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from deltalab.kernels.chunk import gated_delta_rule
from deltalab.kernels.reference import gated_delta_rule as reference
from tests.kernels.cases import (
    DECAYING,
    VARIANTS,
    assert_close,
    between_nans,
    make_case,
    poisoned_memory,
    rms_error,
    run,
)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("time", [1, 15, 63, 64, 65, 130])
def test_matches_the_definition(variant: str, time: int):
    """In chunks of 32, and of 64 where that makes a difference."""
    case = make_case(variant, shape=(2, time, 2, 6, 5))
    want = run(reference, case)
    for options in ({}, {"chunk_size": 64})[: 2 if time > 32 else 1]:
        assert_close(run(gated_delta_rule, case, **options), want, 1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("time", [31, 65])
def test_without_states(variant: str, time: int):
    case = make_case(variant, shape=(2, time, 2, 6, 5), states=False)
    assert_close(run(gated_delta_rule, case, chunk_size=32), run(reference, case), 1e-10)


@pytest.mark.parametrize(
    ("variant", "decay"),
    [
        (variant, decay)
        for variant in DECAYING
        for decay in ("none", "strong", "mixed channels", "mixed tokens", "extreme")
        if VARIANTS[variant].decay == "channel" or decay != "mixed channels"
    ],
)
def test_any_decay(variant: str, decay: str):
    case = make_case(variant, shape=(1, 70, 2, 6, 5), decay=decay)
    want = run(reference, case)
    for chunk_size in (32, 64):
        assert_close(run(gated_delta_rule, case, chunk_size=chunk_size), want, 1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_grouped_value_heads(variant: str):
    case = make_case(variant, shape=(2, 37, 2, 6, 3), group=3)
    assert_close(run(gated_delta_rule, case, chunk_size=16), run(reference, case), 1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("states", [True, False])
def test_packed_sequences(variant: str, states: bool):
    case = make_case(variant, lengths=(3, 40, 1, 16, 33), states=states, group=2)
    packed = run(gated_delta_rule, case, chunk_size=16)
    assert_close(packed, run(reference, case), 1e-10)
    for n, (start, stop) in enumerate(zip(case.cu_seqlens[:-1], case.cu_seqlens[1:], strict=True)):
        leaves = {name: x[n : n + 1] if name == "S0" else x[:, start:stop] for name, x in case.leaves.items()}
        if "beta" in leaves:
            leaves["b"], leaves["w"] = leaves["beta"], leaves["beta"].repeat_interleave(2, dim=2)
        inputs = (leaves.get(name) for name in "qkvgbw")
        alone, _ = reference(*inputs, initial_state=leaves.get("S0"))
        torch.testing.assert_close(packed["o"][:, start:stop], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", ["delta_net", "gated_delta_net_2_wide"])
def test_one_key_repeated(variant: str):
    """I + A is then as far from the identity as it gets."""
    case = make_case(variant, shape=(1, 64, 1, 6, 5), decay="none")
    case.leaves["k"][:] = case.leaves["k"][:, :1]
    gate = case.leaves["b" if "b" in case.leaves else "beta"]
    gate[:] = VARIANTS[variant].erase_range
    assert_close(run(gated_delta_rule, case), run(reference, case), 1e-10)


@pytest.mark.parametrize("absent", ["do", "dstate"])
def test_only_one_result_is_used(absent: str):
    leaves = make_case(shape=(2, 40, 2, 6, 5)).leaves

    def grads(form):
        inputs = [x.clone().requires_grad_() for x in leaves.values()]
        o, state = form(*inputs[:6], initial_state=inputs[6], output_final_state=True)
        return torch.autograd.grad((state if absent == "do" else o).square().sum(), inputs, materialize_grads=True)

    for got, want in zip(
        grads(lambda *a, **o: gated_delta_rule(*a, **o, chunk_size=16)), grads(reference), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wanted", ["q", "v", "g", "b", "S0"])
def test_gradient_of_one_input_alone(wanted: str):
    case = make_case(shape=(2, 40, 2, 6, 5))
    leaves = {n: x.clone().requires_grad_(n == wanted) for n, x in case.leaves.items()}
    o, _ = gated_delta_rule(*(leaves[n] for n in "qkvgbw"), initial_state=leaves["S0"], chunk_size=16)
    o.square().sum().backward()
    assert [n for n, x in leaves.items() if x.grad is not None] == [wanted]


def test_nothing_is_recorded_without_gradients():
    leaves = make_case().leaves
    with torch.no_grad():
        o, _ = gated_delta_rule(*(leaves[n].requires_grad_() for n in "qkvgbw"))
    assert o.grad_fn is None


@pytest.mark.parametrize(
    ("variant", "decay"),
    [("delta_net", "none"), ("gated_delta_net_2_wide", "mild")]
    + [("gated_delta_net", decay) for decay in ("mild", "strong", "mixed tokens")]
    + [("kda", decay) for decay in ("none", "mild", "strong", "mixed channels", "mixed tokens")],
)
def test_fp32(variant: str, decay: str):
    case = make_case(variant, shape=(2, 130, 2, 16, 16), decay=decay)
    got, want = run(gated_delta_rule, case.to(torch.float32)), run(reference, case)
    for name in got:
        assert rms_error(got[name], want[name]) <= (1e-5 if name in ("o", "state") else 1e-4), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["gated_delta_net", "gated_delta_net_2"])
def test_half_precision_inputs(variant: str, dtype: torch.dtype):
    """Computed in fp32: all that is lost is the rounding of the inputs, which both sides share, and of the results."""
    case = make_case(variant, shape=(2, 65, 2, 16, 16)).to(dtype)
    got, want = run(gated_delta_rule, case), run(reference, case.to(torch.float64))
    for name in got:
        assert rms_error(got[name], want[name]) <= (5e-3 if name in ("o", "state") else 1e-2), name


@pytest.mark.parametrize("variant", DECAYING)
@pytest.mark.parametrize("decay", ["strong", "extreme"])
def test_finite_in_fp32_at_any_decay(variant: str, decay: str):
    case = make_case(variant, shape=(1, 130, 1, 8, 8), decay=decay).to(torch.float32)
    assert all(x.isfinite().all() for x in run(gated_delta_rule, case).values())


def test_recomputed_under_checkpointing():
    leaves = [x.requires_grad_() for x in make_case(states=False).leaves.values()]
    plain = torch.autograd.grad(gated_delta_rule(*leaves)[0].square().sum(), leaves)
    o, _ = checkpoint(gated_delta_rule, *leaves, use_reentrant=False)
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(o.square().sum(), leaves), plain, strict=True))


def test_bitwise_repeatable():
    case = make_case(shape=(2, 130, 2, 16, 16)).to(torch.float32)
    first, second = run(gated_delta_rule, case), run(gated_delta_rule, case)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "variant", ["delta_net", "gated_delta_net", "gated_delta_net_2", "gated_linear_attention_write"]
)
@pytest.mark.parametrize("lengths", [None, (3, 40, 1, 16, 33)])
@pytest.mark.parametrize("states", [True, False])
def test_unwritten_memory_never_leaks(variant: str, lengths: tuple[int, ...] | None, states: bool):
    case = make_case(variant, shape=(2, 45, 2, 6, 5), lengths=lengths, states=states, decay="mixed tokens")
    clean = run(gated_delta_rule, case, chunk_size=16)
    with poisoned_memory():
        poisoned = run(gated_delta_rule, case, chunk_size=16, place=between_nans)
    assert all(torch.equal(x, clean[name]) for name, x in poisoned.items())


def test_a_broken_sequence_does_not_touch_its_neighbours():
    case = make_case(lengths=(20, 5, 30))
    clean = run(gated_delta_rule, case, chunk_size=16)
    case.leaves["v"][:, 20:25] = float("nan")
    broken = run(gated_delta_rule, case, chunk_size=16)
    for name in ("o", "dq", "dk", "dv", "dg", "db", "dw"):
        assert torch.equal(clean[name][:, :20], broken[name][:, :20])
        assert torch.equal(clean[name][:, 25:], broken[name][:, 25:])


@pytest.mark.parametrize("variant", ["linear_attention", "gated_delta_net_2"])
def test_inputs_are_left_as_they_were(variant: str):
    """One sequence, one head, whole chunks: here the chunks are the tokens' own memory."""
    leaves = [x.requires_grad_() for x in make_case(variant, shape=(1, 32, 1, 6, 5)).leaves.values()]
    before = [x.detach().clone() for x in leaves]
    names = make_case(variant).leaves
    inputs = dict(zip(names, leaves, strict=True))
    o, state = gated_delta_rule(
        *(inputs.get(n) for n in "qkvgbw"), initial_state=inputs["S0"], output_final_state=True, chunk_size=16
    )
    do, dstate = torch.randn_like(o), torch.randn_like(state)
    given = do.clone(), dstate.clone()
    torch.autograd.backward((o, state), (do, dstate))
    assert all(torch.equal(x, y) for x, y in zip([*leaves, do, dstate], [*before, *given], strict=True))


def test_inputs_that_are_views():
    """Projections are often split from one tensor, heads first."""
    case = make_case("gated_delta_net_2", shape=(2, 40, 2, 6, 6))
    wanted = run(gated_delta_rule, case)["o"]
    strided = [case.leaves[n].transpose(1, 2).contiguous().transpose(1, 2) for n in "qkvgbw"]
    got, _ = gated_delta_rule(*strided, initial_state=case.leaves["S0"])
    torch.testing.assert_close(got, wanted)
