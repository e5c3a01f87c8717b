"""The tokenwise definition against the equations written once more by hand, and the errors both forms raise."""

import pytest
import torch
import yaml

from deltalab.kernels import chunk, reference
from deltalab.kernels.dispatch import gated_delta_rule
from deltalab.spec import load
from tests.kernels.cases import VARIANTS, Variant, make_case, run
from tests.specs import LATTICE

FORMS = {"reference": reference.gated_delta_rule, "chunk": chunk.gated_delta_rule}


def test_two_tokens_by_hand():
    """K = V = 1: S₁ = k₁w₁v₁; S₂ = αS₁ + k₂(w₂v₂ − αS₁b₂k₂); o = scale · S q."""
    q, k, v, g, b, w = torch.tensor(
        [[0.5, 2.0], [3.0, 0.7], [1.5, -1.0], [0.0, -0.4], [0.3, 0.9], [0.8, 0.6]], dtype=torch.float64
    ).view(6, 1, 2, 1, 1)
    o, state = reference.gated_delta_rule(q, k, v, g, b, w, scale=0.25, output_final_state=True)
    first = 3.0 * 0.8 * 1.5
    kept = torch.tensor(-0.4, dtype=torch.float64).exp().item() * first
    second = kept + 0.7 * (0.6 * -1.0 - kept * 0.9 * 0.7)
    torch.testing.assert_close(o.flatten(), 0.25 * torch.tensor([first * 0.5, second * 2.0], dtype=torch.float64))
    assert state is not None
    assert state.item() == pytest.approx(second)


def test_erase_then_write_replaces_what_a_key_holds():
    """With b = w = 1, no decay and one unit key, reading the key gives the last value written."""
    k = torch.zeros(1, 3, 1, 4)
    k[..., 2] = 1
    v, ones = torch.randn(1, 3, 1, 5), torch.ones(1, 3, 1)
    o, _ = reference.gated_delta_rule(k, k, v, b=ones, w=ones, scale=1.0)
    torch.testing.assert_close(o, v)


@pytest.mark.parametrize("form", FORMS)
def test_value_heads_read_their_key_head(form: str):
    case = make_case("erase_only", group=2)
    grouped = run(FORMS[form], case)
    leaves = {n: x.repeat_interleave(2, dim=2) if n in ("q", "k", "g", "b") else x for n, x in case.leaves.items()}
    alone, _ = reference.gated_delta_rule(*(leaves[n] for n in "qkvgbw"), initial_state=leaves["S0"])
    torch.testing.assert_close(grouped["o"], alone)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_of_results(form: str, dtype: torch.dtype):
    case = make_case(shape=(1, 3, 1, 4, 4)).to(dtype)
    results = run(FORMS[form], case)
    assert results["state"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert {n: x.dtype for n, x in results.items() if n != "state"} == dict.fromkeys(results.keys() - {"state"}, dtype)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_does_not_lower_the_precision(form: str):
    case = make_case(shape=(2, 40, 2, 6, 5)).to(torch.float32)
    wanted = run(FORMS[form], case)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(FORMS[form], case)
    # The reference's backward is autograd's own, and follows the setting it is called under.
    names = wanted if form == "chunk" else ("o", "state")
    assert all(torch.equal(got[name], wanted[name]) for name in names)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 7, 4)}, r"q: shape \[2, 7, 4\]; must be 4 axes"),
        ({"q": torch.zeros(2, 0, 2, 4)}, "q: .* none empty"),
        ({"k": torch.zeros(2, 7, 2, 5)}, r"k: shape \[2, 7, 2, 5\]; must be \[2, 7, 2, 4\]"),
        ({"v": torch.zeros(2, 7, 3, 5)}, "v: .* a multiple of 2"),
        ({"v": torch.zeros(2, 6, 2, 5)}, r"v: .* must be \[2, 7"),
        ({"g": torch.zeros(2, 7, 2, 1)}, r"g: .* must be \[2, 7, 2\] or \[2, 7, 2, 4\]"),
        ({"b": torch.zeros(2, 7, 4)}, r"b: .* must be \[2, 7, 2\] or"),
        ({"w": torch.zeros(2, 7, 2, 4)}, r"w: .* must be \[2, 7, 4\] or \[2, 7, 4, 5\]"),
        ({"initial_state": torch.zeros(2, 2, 4, 5)}, r"initial_state: .* must be \[2, 4, 4, 5\]"),
        ({"cu_seqlens": torch.tensor([0, 7])}, "cu_seqlens: batch is 2"),
    ],
)
def test_shapes_that_do_not_fit(form: str, change: dict[str, torch.Tensor], message: str):
    fitting = {"q": torch.zeros(2, 7, 2, 4), "k": torch.zeros(2, 7, 2, 4), "v": torch.zeros(2, 7, 4, 5)}
    with pytest.raises(ValueError, match=message) as caught:
        FORMS[form](**fitting | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bounds", [[0, 3], [1, 7], [0, 5, 3, 7], [0, 3, 3, 7], [7], [[0, 7]], [0.0, 7.0]])
def test_boundaries_that_do_not_fit(bounds: list):
    q = torch.zeros(1, 7, 2, 4)
    with pytest.raises(ValueError, match="cu_seqlens: "):
        gated_delta_rule(q, q, q, cu_seqlens=torch.tensor(bounds))


def test_dispatch_picks_by_name():
    case = make_case("kda", shape=(1, 5, 1, 3, 3))
    wanted = run(reference.gated_delta_rule, case)
    for form in (None, "chunk", "reference"):
        torch.testing.assert_close(run(gated_delta_rule, case, form=form), wanted)
    with pytest.raises(ValueError, match="form: 'quick'; must be one of triton, chunk, reference, fla"):
        run(gated_delta_rule, case, form="quick")
    with pytest.raises(ValueError, match="chunk_size: 48; must be a power of two"):
        run(chunk.gated_delta_rule, case, chunk_size=48)


@pytest.mark.parametrize("name", LATTICE)
def test_every_shipped_variant_is_tested_as_it_is_shipped(name: str):
    shipped = yaml.safe_load((load.CONF / "variant" / f"{name}.yaml").read_text())
    assert VARIANTS[name] == Variant(**{name: shipped[name] for name in Variant._fields})


def test_no_variant_is_tested_twice():
    assert len(VARIANTS) == len(set(VARIANTS.values()))
