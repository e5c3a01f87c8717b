"""The passes with their gradients: the operators ``deltalab::gated_delta_rule`` and ``…_backward`` for torch.compile,
and an autograd function for eager code, which does not pay for the way through the dispatcher.

They take raw inputs: what is kept for the backward pass are these, which activates them again, for it takes little time
and what it makes much memory. Inputs are contiguous, and checked by the function on top (api.py). What a call has not,
is an empty result.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltalab.kernels.activations import DecayParameters
from deltalab.kernels.triton import passes
from deltalab.kernels.triton.activate import Activation, activate, activate_back
from deltalab.kernels.triton.passes import Tensors9
from deltalab.kernels.triton.plan import Inputs, plan_of

INPUTS = 10
"""Leading tensor arguments of the forward pass, cu_seqlens the last."""


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    a: Tensor | None,
    delta: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    scale: float,
    norm: bool,
    erase_range: float,
    write_sigmoid: bool,
    final: bool,
    save: bool,
) -> Tensors9:
    """As ``passes.run_forward``, of raw inputs."""
    raw, how = Inputs(q, k, v, g, b, w), Activation(norm, _decay(a, delta), erase_range, write_sigmoid)
    x = activate(raw, how)
    return passes.run_forward(x, initial, cu_seqlens, scale, final, save)


def run_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    a: Tensor | None,
    delta: Tensor | None,
    initial: Tensor | None,
    cu_seqlens: Tensor | None,
    do: Tensor,
    dfinal: Tensor | None,
    factors: Tensor,
    T: Tensor,
    P: Tensor,
    end: Tensor,
    steep: Tensor,
    states: Tensor,
    R: Tensor,
    scale: float,
    norm: bool,
    erase_range: float,
    write_sigmoid: bool,
) -> Tensors9:
    """The gradients of q, k, v, g, b, w, a, δ and the initial state; empty where there is none."""
    raw, how = Inputs(q, k, v, g, b, w), Activation(norm, _decay(a, delta), erase_range, write_sigmoid)
    kept = factors, T, P, end, steep, states, R
    x = activate(raw, how, passes.chunks_of(raw, cu_seqlens, steep) if any(how) else None)
    dx, dinitial = passes.run_backward(x, initial, cu_seqlens, do, dfinal, kept, scale)
    dx, da, ddelta = activate_back(raw, how, dx)
    grads = (q.new_empty(0) if x is None else x for x in (*dx, da, ddelta, dinitial))
    dq, dk, dv, dg, db, dw, da, ddelta, dinitial = grads
    return dq, dk, dv, dg, db, dw, da, ddelta, dinitial


forward = torch.library.custom_op("deltalab::gated_delta_rule", run_forward, mutates_args=())
backward = torch.library.custom_op("deltalab::gated_delta_rule_backward", run_backward, mutates_args=())


@forward.register_fake
def _(q, k, v, g, b, w, a, delta, initial, cu_seqlens, scale, norm, erase_range, write_sigmoid, final, save):  # type: ignore[no-untyped-def]
    x = Inputs(q, k, v, g, b, w)
    return passes.results(plan_of(x), x, cu_seqlens, final, save)


@backward.register_fake
def _(q, k, v, g, b, w, a, delta, initial, *rest):  # type: ignore[no-untyped-def]
    return tuple(q.new_empty(0) if x is None else torch.empty_like(x) for x in (q, k, v, g, b, w, a, delta, initial))


def _decay(a: Tensor | None, delta: Tensor | None) -> DecayParameters | None:
    return None if a is None or delta is None else (a, delta)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors9) -> None:
    ctx.scale, ctx.norm, ctx.erase_range, ctx.write_sigmoid, ctx.final, _ = inputs[INPUTS:]
    ctx.save_for_backward(*inputs[:INPUTS], *output[2:])
    ctx.set_materialize_grads(False)


def _differentiate(
    run: Callable[..., Tensors9], ctx: Any, do: Tensor | None, dfinal: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of all of the forward pass's arguments."""
    saved = ctx.saved_tensors
    inputs, kept = saved[:INPUTS], saved[INPUTS:]
    do = torch.zeros_like(inputs[2]) if do is None else do.contiguous()
    dfinal = dfinal.contiguous() if ctx.final and dfinal is not None else None
    grads = run(*inputs, do, dfinal, *kept, ctx.scale, ctx.norm, ctx.erase_range, ctx.write_sigmoid)
    present = (None if x is None else grad for x, grad in zip(inputs, (*grads, None), strict=True))
    return (*present, *(None,) * 6)


def _differentiate_operator(
    ctx: Any, do: Tensor | None, dfinal: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    return _differentiate(backward, ctx, do, dfinal)


forward.register_autograd(_differentiate_operator, setup_context=_keep)


class EagerGatedDeltaRule(torch.autograd.Function):
    """The same without the dispatcher: (o, final state)."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = run_forward(*inputs)
        _keep(ctx, inputs, output)
        return output[:2]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _differentiate(run_backward, ctx, do, dfinal)
