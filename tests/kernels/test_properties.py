"""Properties of the recurrence that hold for any shape, gate and packing."""

import hypothesis.strategies as st
import torch
from hypothesis import given, settings

from deltalab.kernels.chunk import gated_delta_rule
from deltalab.kernels.reference import gated_delta_rule as reference
from tests.kernels.cases import DECAYS, VARIANTS, Case, assert_close, make_case, run

# The same examples on every machine; a few dozen small ones keep the folder quick.
quick = settings(max_examples=25, deadline=None, derandomize=True)

variants = st.sampled_from(sorted(VARIANTS))
decays = st.sampled_from(["none", "mild", "strong", "mixed tokens"])
sizes = st.integers(1, 4)
chunks = st.sampled_from([1, 2, 8, 16])
seeds = st.integers(0, 1000)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    packed = draw(st.booleans())
    lengths = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))) if packed else None
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 40)), draw(st.integers(1, 2)), draw(sizes), draw(sizes))
    return make_case(
        draw(variants),
        shape=shape,
        group=draw(st.integers(1, 2)),
        decay=draw(decays),
        states=draw(st.booleans()),
        lengths=lengths,
        seed=draw(seeds),
    )


@quick
@given(cases(), chunks)
def test_chunks_of_any_size_agree_with_the_definition(case: Case, chunk: int):
    assert_close(run(gated_delta_rule, case, chunk_size=chunk), run(reference, case), 1e-10)


@quick
@given(variants, st.integers(2, 40), st.data())
def test_cutting_a_sequence_and_carrying_the_state_changes_nothing(variant: str, time: int, data: st.DataObject):
    x = inputs(make_case(variant, shape=(2, time, 1, 4, 3), states=False))
    cut = data.draw(st.integers(1, time - 1))
    whole, last = gated_delta_rule(*x, output_final_state=True, chunk_size=8)
    left, state = gated_delta_rule(*(part(t, 0, cut) for t in x), output_final_state=True, chunk_size=8)
    right, end = gated_delta_rule(
        *(part(t, cut, time) for t in x), initial_state=state, output_final_state=True, chunk_size=8
    )
    torch.testing.assert_close(torch.cat((left, right), dim=1), whole)
    torch.testing.assert_close(end, last)


@quick
@given(variants, st.integers(1, 30), seeds)
def test_the_future_is_not_seen(variant: str, time: int, seed: int):
    x = inputs(make_case(variant, shape=(1, 31, 1, 4, 3), states=False, decay="mixed tokens", seed=seed))
    other = inputs(make_case(variant, shape=(1, 31, 1, 4, 3), states=False, decay="mild", seed=seed + 1))
    mixed = [None if a is None else torch.cat((a[:, :time], b[:, time:]), dim=1) for a, b in zip(x, other, strict=True)]
    seen, _ = gated_delta_rule(*x, chunk_size=16)
    unseen, _ = gated_delta_rule(*mixed, chunk_size=16)
    torch.testing.assert_close(seen[:, :time], unseen[:, :time], rtol=1e-12, atol=1e-13)


@quick
@given(variants, st.integers(1, 20), st.sampled_from(["mild", "mixed tokens"]), seeds)
def test_an_output_gives_no_gradient_to_later_inputs(variant: str, time: int, decay: str, seed: int):
    """Exactly none, not one of rounding."""
    leaves = make_case(variant, shape=(1, 21, 1, 4, 3), decay=decay, seed=seed).leaves
    leaves = {name: x.requires_grad_() for name, x in leaves.items()}
    beta = leaves.get("beta")
    x = [leaves.get(n) for n in "qkvg"] + [leaves.get("b", beta), leaves.get("w", beta)]
    o, _ = gated_delta_rule(*x, initial_state=leaves["S0"], chunk_size=8)
    o[:, :time].square().sum().backward()
    for name, leaf in leaves.items():
        if name != "S0" and leaf.grad is not None:
            assert not leaf.grad[:, time:].any(), name


@quick
@given(variants, st.sampled_from(sorted(DECAYS)), seeds)
def test_linear_in_values_and_state(variant: str, decay: str, seed: int):
    case = make_case(
        variant, shape=(1, 20, 2, 4, 3), decay=decay if variant != "gated_delta_net" else "mild", seed=seed
    )
    x, state = inputs(case), case.leaves["S0"]
    once, end = gated_delta_rule(*x, initial_state=state, output_final_state=True, chunk_size=8)
    x[2] = -3 * x[2]
    thrice, far = gated_delta_rule(*x, initial_state=-3 * state, output_final_state=True, chunk_size=8)
    torch.testing.assert_close((thrice, far), (-3 * once, -3 * end))


def inputs(case: Case) -> list[torch.Tensor | None]:
    """q, k, v, g, b, w, the tied β standing for both gates."""
    leaves = case.leaves
    beta = leaves.get("beta")
    return [leaves.get(n) for n in "qkvg"] + [leaves.get("b", beta), leaves.get("w", beta)]


def part(x: torch.Tensor | None, start: int, stop: int) -> torch.Tensor | None:
    return None if x is None else x[:, start:stop]
