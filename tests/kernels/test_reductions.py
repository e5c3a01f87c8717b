"""The exact reductions of the lattice, in both forms: outputs and every gradient, fp64."""

import pytest
import torch
from torch import Tensor

from deltalab.kernels import chunk, reference
from tests.kernels.cases import Case, Form, assert_close, make_case, run

FORMS = {"reference": reference.gated_delta_rule, "chunk": chunk.gated_delta_rule}


def widen(form: Form, **full: int) -> Form:
    """The form with scalar gates spread over that many channels before it sees them; the leaves stay narrow."""

    def widened(q: Tensor, k: Tensor, v: Tensor, g=None, b=None, w=None, **options):
        gates = dict(zip("gbw", (g, b, w), strict=True))
        for name, width in full.items():
            gates[name] = gates[name].unsqueeze(-1).expand(*gates[name].shape, width)
        return form(q, k, v, *gates.values(), **options)

    return widened


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


@pytest.mark.parametrize("decay", ["mild", "strong", "mixed tokens"])
def test_gdn2_with_one_beta_is_kda(form: Form, decay: str):
    case = make_case("kda", shape=(2, 70, 2, 6, 5), decay=decay)
    assert_close(run(widen(form, b=6, w=5), case), run(form, case), 1e-12)


@pytest.mark.parametrize("decay", ["none", "mild", "mixed tokens", "strong"])
def test_kda_with_one_decay_is_gated_delta_net(form: Form, decay: str):
    case = make_case("gated_delta_net", shape=(2, 70, 2, 6, 5), decay=decay)
    assert_close(run(widen(form, g=6), case), run(form, case), 1e-12)


def test_gated_delta_net_without_decay_is_delta_net(form: Form):
    case = make_case("gated_delta_net", shape=(2, 70, 2, 6, 5), decay="none")
    gated = run(form, case)
    del gated["dg"]
    plain = Case(leaves={name: x for name, x in case.leaves.items() if name != "g"})
    assert_close(gated, run(form, plain), 1e-12)


@pytest.mark.parametrize(
    "variant",
    ["gated_linear_attention", "gated_linear_attention_scalar", "gated_linear_attention_write", "linear_attention"],
)
def test_no_erase_is_linear_attention(form: Form, variant: str):
    case = make_case(variant, shape=(2, 70, 2, 6, 5))
    zero = Case(leaves=case.leaves | {"b": torch.zeros_like(case.leaves["k"])})
    erased = run(form, zero)
    del erased["db"]
    assert_close(erased, run(form, case), 1e-12)


def test_linear_attention_is_a_masked_product(form: Form):
    leaves = make_case("linear_attention", shape=(2, 70, 2, 6, 5), states=False).leaves
    o, _ = form(*leaves.values(), scale=0.5)
    q, k, v = (x.transpose(1, 2) for x in leaves.values())
    wanted = (0.5 * (q @ k.mT).tril() @ v).transpose(1, 2)
    torch.testing.assert_close(o, wanted, rtol=1e-12, atol=1e-13)


def test_write_gate_of_one_is_no_write_gate(form: Form):
    case = make_case("gated_delta_net_2", shape=(2, 70, 2, 6, 5))
    case.leaves["w"][:] = 1
    ones = run(form, case)
    del ones["dw"]
    plain = Case(leaves={name: x for name, x in case.leaves.items() if name != "w"})
    assert_close(ones, run(form, plain), 1e-12)
