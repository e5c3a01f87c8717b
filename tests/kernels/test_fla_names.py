"""The kernels under flash-linear-attention's names, against the tokenwise definition in fp64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.kernels import dispatch, fla_names, norm
from deltalab.kernels.reference import gated_delta_rule as reference
from tests.kernels.cases import Case, assert_close, make_case, run

BOUND = 1e-10
FUNCTIONS: dict[str, Callable[..., tuple[Tensor, Tensor | None]]] = {
    "gated_delta_net_2": fla_names.chunk_gdn2,
    "kda": fla_names.chunk_kda,
    "gated_delta_net": fla_names.chunk_gated_delta_rule,
    "delta_net": fla_names.chunk_delta_rule,
}
Prepare = Callable[[dict[str, Tensor]], dict[str, Any]]


def named_as_fla(case: Case, leaves: dict[str, Tensor]) -> dict[str, Any]:
    """A case's leaves under flash-linear-attention's names."""
    names = {"S0": "initial_state"}
    arguments: dict[str, Any] = {names.get(name, name): x for name, x in leaves.items()}
    return arguments | {"output_final_state": case.final, "cu_seqlens": case.cu_seqlens}


def compare(name: str, case: Case, prepare: Prepare | None = None, **options: Any) -> None:
    """Results and gradients of one of FUNCTIONS, and of the definition on what ``prepare`` makes of the leaves."""
    prepare = prepare or (lambda leaves: leaves)

    def flattened(call: Callable[[dict[str, Tensor]], tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
        leaves = {name: x.detach().clone().requires_grad_() for name, x in case.leaves.items()}
        results = [x for x in call(leaves) if x is not None]
        weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) for x in results]
        grads = torch.autograd.grad(results, list(leaves.values()), weights)
        return dict(enumerate(results)) | dict(zip(leaves, grads, strict=True))  # type: ignore[operator]

    def definition(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        x = prepare(leaves)
        b, w = (x["beta"],) * 2 if "beta" in x else (x["b"], x["w"])
        return reference(
            x["q"],
            x["k"],
            x["v"],
            x.get("g"),
            b,
            w,
            scale=options.get("scale"),
            initial_state=x.get("S0"),
            output_final_state=case.final,
            cu_seqlens=case.cu_seqlens,
        )

    got = flattened(lambda leaves: FUNCTIONS[name](**named_as_fla(case, leaves), **options))
    assert_close(got, flattened(definition), BOUND)


def normalized(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("lengths", [None, (1, 40, 33)])
def test_each_function_is_its_variant(name: str, lengths: tuple[int, ...] | None):
    compare(name, make_case(name, lengths=lengths), scale=0.7)


def test_the_tokenwise_name_runs_the_same_form():
    case = make_case()
    arguments = named_as_fla(case, case.leaves)
    for got, want in zip(fla_names.fused_recurrent_gdn2(**arguments), fla_names.chunk_gdn2(**arguments), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_queries_and_keys_are_normalized(name: str):
    case = make_case(name)
    case.leaves["k"] *= 3
    compare(
        name,
        case,
        lambda x: x | {"q": normalized(x["q"]), "k": normalized(x["k"])},
        use_qk_l2norm_in_kernel=True,
    )


def test_the_norm_is_that_of_the_triton_kernels():
    parts = pytest.importorskip("deltalab.kernels.triton.parts")
    assert parts.NORM_EPS.value == norm.NORM_EPS


@pytest.mark.parametrize("name", ["gated_delta_net_2", "kda", "gated_delta_net"])
@pytest.mark.parametrize("bias", [False, True])
def test_decay_from_its_raw_rate(name: str, bias: bool):
    case = make_case(name)
    heads = case.leaves["g"].shape[2:]
    case.leaves["A_log"] = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    if bias:
        case.leaves["dt_bias"] = torch.linspace(-2, 2, heads.numel(), dtype=torch.float64)

    def activated(x: dict[str, Tensor]) -> dict[str, Tensor]:
        delta = x["dt_bias"].view(heads) if bias else torch.zeros(())
        a = x["A_log"] if len(heads) == 1 else x["A_log"][:, None]
        return x | {"g": -a.exp() * F.softplus(x["g"] + delta)}

    compare(name, case, activated, use_gate_in_kernel=True)


@pytest.mark.parametrize("name", ["kda", "gated_delta_net"])
@pytest.mark.parametrize("twice", [False, True])
def test_beta_from_its_raw_value(name: str, twice: bool):
    compare(
        name,
        make_case(name),
        lambda x: x | {"beta": (2 if twice else 1) * x["beta"].sigmoid()},
        use_beta_sigmoid_in_kernel=True,
        allow_neg_eigval=twice,
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_grouped_value_heads_with_gates_for_each_key_head(name: str):
    case = make_case(name, group=3)
    leaves = case.leaves
    o, state = FUNCTIONS[name](**named_as_fla(case, leaves))
    assert state is not None
    want = run(reference, case)
    assert_close({"o": o, "state": state}, {"o": want["o"], "state": want["state"]}, BOUND)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_grouped_value_heads_with_gates_for_each_value_head(name: str):
    """What flash-linear-attention takes: the definition has it on repeated queries and keys."""
    case, wide = make_case(name, group=3), make_case(name, shape=(2, 65, 6, 6, 5), seed=1)
    for gate in {"g", "b", "beta"} & wide.leaves.keys():
        case.leaves[gate] = wide.leaves[gate]
    compare(name, case, lambda x: x | {n: x[n].repeat_interleave(3, 2) for n in ("q", "k")})


def test_raw_decay_for_each_value_head():
    case, wide = make_case("kda", group=3), make_case("kda", shape=(2, 65, 6, 6, 5), seed=1)
    case.leaves.update({name: wide.leaves[name] for name in ("g", "beta")})
    case.leaves["A_log"] = torch.linspace(-1, 1, 6, dtype=torch.float64)

    def activated(x: dict[str, Tensor]) -> dict[str, Tensor]:
        g = -x["A_log"].exp()[:, None] * F.softplus(x["g"])
        return x | {"g": g} | {n: x[n].repeat_interleave(3, 2) for n in ("q", "k")}

    compare("kda", case, activated, use_gate_in_kernel=True)


def test_where_the_triton_kernels_run_they_do_norm_and_activation(monkeypatch: pytest.MonkeyPatch):
    api = pytest.importorskip("deltalab.kernels.triton.api")
    seen: dict[str, Any] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, *gates: Tensor | None, **options: Any) -> tuple[Tensor, None]:
        seen.update(options, q=q, g=gates[0])
        return v, None

    monkeypatch.setattr(dispatch, "choose", lambda *_: ("triton", "a test"))
    monkeypatch.setattr(api, "gated_delta_rule", kernel)
    case = make_case("kda")
    a, delta = torch.zeros(1, 1, 2, 1), torch.zeros(12)
    arguments = named_as_fla(case, case.leaves)
    fla_names.chunk_kda(**arguments, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, A_log=a, dt_bias=delta)
    assert seen["q"] is arguments["q"]
    assert seen["g"] is arguments["g"]
    assert seen["normalize"] is True
    assert [x.shape for x in seen["decay"]] == [(2,), (2, 6)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"safe_gate": True}, "safe_gate: True; allowed is False"),
        ({"lower_bound": -5.0}, "lower_bound: -5.0; allowed is None"),
        ({"state_v_first": True}, "state_v_first: True; allowed is False"),
        ({"transpose_state_layout": True}, "transpose_state_layout: True; allowed is False"),
        ({"return_intermediate_states": True}, "return_intermediate_states: True; allowed is False"),
        ({"cp_context": object()}, "cp_context: object; allowed is None"),
        ({"use_graph": True}, "use_graph: True; allowed is False"),
        ({"head_first": False}, "head_first: False; no such argument; further ones are safe_gate, "),
        ({"A_log": torch.zeros(2)}, r"A_log: shape \[2\]; allowed is None unless use_gate_in_kernel=True"),
        ({"use_gate_in_kernel": True}, "A_log: None; use_gate_in_kernel=True needs one value for each head of g"),
        (
            {"use_gate_in_kernel": True, "A_log": torch.zeros(3)},
            r"A_log: shape \[3\]; allowed is \[2\], for g is \[2, 65, 2, 6\]",
        ),
        (
            {"use_gate_in_kernel": True, "A_log": torch.zeros(2), "dt_bias": torch.zeros(2)},
            r"dt_bias: shape \[2\]; allowed is \[2, 6\], for g is \[2, 65, 2, 6\]",
        ),
        ({"allow_neg_eigval": True}, "allow_neg_eigval: True; allowed is False unless use_beta_sigmoid_in_kernel=True"),
    ],
)
def test_what_the_kernels_do_not_have_is_refused_in_a_line(options: dict[str, Any], said: str):
    case = make_case("kda")
    with pytest.raises(ValueError, match=f"^{said}") as refused:
        fla_names.chunk_kda(**named_as_fla(case, case.leaves), **options)
    assert "\n" not in str(refused.value)


def test_defaults_and_hints_of_fla_are_taken():
    case = make_case("kda")
    hints = {"chunk_size": 32, "disable_recompute": True, "cu_seqlens_cpu": None, "chunk_indices": None}
    compare("kda", case, **fla_names.FIXED, **hints)
