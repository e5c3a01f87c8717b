"""What torch and Triton can do on this machine: ``python -m deltalab.kernels.probe`` prints a JSON line per finding.

Run by ``deltalab doctor`` in a process of its own, with a time limit; each finding appears as soon as it is there.
"""

import json
from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl

    @triton.jit
    def _add_one(x, n: tl.constexpr):  # type: ignore[no-untyped-def]
        place = tl.arange(0, n)
        tl.store(x + place, tl.load(x + place) + 1)
except ImportError:
    triton = None


def cuda() -> dict[str, Any]:
    """Whether each GPU adds up."""
    for place in range(torch.cuda.device_count()):
        assert torch.ones(8, device=f"cuda:{place}").sum().item() == 8
    return {"torch": torch.__version__, "built": torch.version.cuda, "devices": torch.cuda.device_count()}


def kernel_runs() -> dict[str, Any]:
    """Whether a small Triton kernel compiles and runs on a GPU, where there is one."""
    if triton is None or not torch.cuda.is_available():
        return {"triton": triton and triton.__version__, "ran": False}
    x = torch.zeros(16, device="cuda")
    _add_one[(1,)](x, 16)  # pyright: ignore[reportIndexIssue, reportArgumentType]
    assert x.sum().item() == 16, "a Triton kernel computed something wrong"
    return {"triton": triton.__version__, "ran": True}


def recurrence() -> dict[str, Any]:
    """How far the form that is picked is from the reference, as a share of its norm."""
    from deltalab.kernels import dispatch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    q, k, v, b = (torch.randn(1, 70, 1, 16, device=device) / 4 for _ in range(4))
    fast = dispatch.gated_delta_rule(q, k, v, b=b)[0]
    exact = dispatch.gated_delta_rule(q, k, v, b=b, form="reference")[0]
    off = ((fast - exact).norm() / exact.norm()).item()
    form, why = dispatch.choose(q, v)
    return {"form": form, "why": why, "device": device, "off": off}


def main() -> None:
    """Print every finding, or the error in its place."""
    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "cuda": cuda,
        "triton": kernel_runs,
        "recurrence": recurrence,
    }
    for stage, step in steps.items():
        try:
            facts = step()
        except Exception as error:  # a finding, whatever it is
            facts = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps({stage: facts}), flush=True)


if __name__ == "__main__":
    main()
