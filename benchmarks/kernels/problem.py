"""The inputs of one problem, and the calls that are timed on them: ours and flash-linear-attention's."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.kernels.rows import Shape, Variant, input_bytes, leaves
from deltalab.kernels import dispatch

SETS = (2, 16)
"""Least and most sets of inputs; in between, so many that they are four times the L2 cache."""
Call = Callable[[dict[str, Tensor], Tensor | None], Tensor]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One variant at one shape with its sets of inputs.

    Attributes:
        sets: q, k, v and the gates the variant has, by name.
        cotangent: dO.
        cu_seqlens: [N + 1] boundaries of packed sequences, or None.
    """

    sets: list[dict[str, Tensor]]
    cotangent: Tensor
    cu_seqlens: Tensor | None

    def forward(self, call: Call, turn: int) -> Tensor:
        """o of the set whose turn it is, without gradients."""
        with torch.no_grad():
            return call(self.sets[turn % len(self.sets)], self.cu_seqlens)

    def both(self, call: Call, turn: int) -> object:
        """o and the gradients of the set whose turn it is."""
        inputs = self.sets[turn % len(self.sets)]
        o = call(inputs, self.cu_seqlens)
        return torch.autograd.grad(o, list(inputs.values()), self.cotangent)


def problem_of(variant: Variant, shape: Shape, device: str, sets: int) -> Problem:
    """Random inputs: unit queries and keys, gates in (0, 1), decay as of a trained model (log-sigmoid about 3)."""
    torch.manual_seed(0)
    bounds = shape.boundaries()
    return Problem(
        sets=[
            {name: _random(name, size, device).requires_grad_() for name, (size, _) in leaves(variant, shape).items()}
            for _ in range(sets)
        ],
        cotangent=torch.randn(shape.size("channel"), device=device, dtype=torch.bfloat16),
        cu_seqlens=None if bounds is None else torch.tensor(bounds, device=device),
    )


def _random(name: str, size: tuple[int, ...], device: str) -> Tensor:
    if name == "g":
        return F.logsigmoid(torch.randn(size, device=device) + 3)
    if name in ("q", "k"):
        return F.normalize(torch.randn(size, device=device), dim=-1).to(torch.bfloat16)
    if name == "v":
        return torch.randn(size, device=device, dtype=torch.bfloat16)
    return torch.rand(size, device=device).to(torch.bfloat16)


def sets_of(variant: Variant, shape: Shape, cache: int) -> int:
    """How many sets of inputs are used in turn on a GPU with so many bytes of L2 cache."""
    return min(max(math.ceil(4 * cache / input_bytes(variant, shape)), SETS[0]), SETS[1])


def ours(inputs: dict[str, Tensor], cu_seqlens: Tensor | None) -> Tensor:
    """Our o, in the form that ``dispatch`` chooses."""
    x = inputs
    b, w = (x["beta"], x["beta"]) if "beta" in x else (x.get("b"), x.get("w"))
    return dispatch.gated_delta_rule(x["q"], x["k"], x["v"], x.get("g"), b, w, cu_seqlens=cu_seqlens)[0]


def peer_of(variant: Variant) -> Call:
    """flash-linear-attention's function for a variant; importing it may raise whatever its packages raise."""
    module, name = variant.peer.split(":")
    function = getattr(importlib.import_module(module), name)
    return lambda inputs, cu_seqlens: function(*inputs.values(), cu_seqlens=cu_seqlens)[0]
