"""The passes with their gradients: the operators ``deltalab::gated_delta_rule`` and ``…_backward`` for torch.compile,
and an autograd function for eager code, which does not pay for the way through the dispatcher.

Inputs are contiguous, and checked by the function on top (api.py). What a call has not, is an empty result.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltalab.kernels.triton.passes import Tensors9, results, run_backward, run_forward

INPUTS = 10
"""Leading tensor arguments of the forward pass, cu_seqlens the last."""

forward = torch.library.custom_op("deltalab::gated_delta_rule", run_forward, mutates_args=())
backward = torch.library.custom_op("deltalab::gated_delta_rule_backward", run_backward, mutates_args=())


@forward.register_fake
def _(q, k, v, g, b, w, a, delta, initial, cu_seqlens, scale, norm, erase_range, write_range, final, save):  # type: ignore[no-untyped-def]
    return results(q, v, g, b, w, cu_seqlens, final, save)


@backward.register_fake
def _(q, k, v, g, b, w, a, delta, initial, *rest):  # type: ignore[no-untyped-def]
    return tuple(q.new_empty(0) if x is None else torch.empty_like(x) for x in (q, k, v, g, b, w, a, delta, initial))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensors9) -> None:
    ctx.scale, ctx.norm, ctx.erase_range, ctx.write_range, ctx.final, _ = inputs[INPUTS:]
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
    grads = run(*inputs, do, dfinal, *kept, ctx.scale, ctx.norm, ctx.erase_range, ctx.write_range)
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
