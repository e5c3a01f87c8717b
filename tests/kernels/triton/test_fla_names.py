"""flash-linear-attention's names on the Triton kernels, which take norm and decay activation in."""

from typing import Any

import pytest
import torch

from deltalab.kernels import dispatch, fla_names
from tests.kernels.cases import make_case, rms_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUND = 1e-4
"""RMS(error) / RMS(reference) in fp32."""


@pytest.mark.parametrize("name", ["gated_delta_net_2", "kda", "gated_delta_net"])
@pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")
def test_norm_and_decay_inside_are_those_outside(name: str, monkeypatch: pytest.MonkeyPatch):
    leaves = make_case(name, shape=(1, 20, 1, 16, 24), group=2, states=False).leaves
    leaves |= {"A_log": torch.tensor([0.5]), "dt_bias": torch.linspace(-1, 1, leaves["g"].shape[2:].numel())}
    function = {
        "gated_delta_net_2": fla_names.chunk_gdn2,
        "kda": fla_names.chunk_kda,
        "gated_delta_net": fla_names.chunk_gated_delta_rule,
    }[name]

    def run(form: str, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
        monkeypatch.setattr(dispatch, "choose", lambda *_: (form, "a test"))
        arguments: dict[str, Any] = {
            n: x.detach().to(device, dtype).requires_grad_() for n, x in leaves.items() if x is not None
        }
        o, _ = function(**arguments, use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True)
        grads = torch.autograd.grad(o, list(arguments.values()), torch.ones_like(o))
        return [x.detach().cpu() for x in (o, *grads)]

    wanted = run("reference", torch.float64, "cpu")
    for got, want in zip(run("triton", torch.float32, DEVICE), wanted, strict=True):
        assert rms_error(got, want) < BOUND
