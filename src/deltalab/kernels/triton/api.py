"""``gated_delta_rule`` in Triton kernels: the arguments checked and laid out for the operators (ops.py)."""

import torch
from torch import Tensor

from deltalab.kernels.activations import check_decay
from deltalab.kernels.arguments import check_shapes
from deltalab.kernels.triton import ops

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 256


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    b: Tensor | None = None,
    w: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    normalize: bool = False,
    decay: tuple[Tensor, Tensor] | None = None,
    erase_range: float = 0.0,
    write_sigmoid: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Run the recurrence in Triton kernels, fast in bf16. Arguments and results as ``reference.gated_delta_rule``.

    Products have v's dtype (under autocast, its dtype); fp16 is computed in tf32, for its range is too small. Gates may
    have a dtype of their own; the log-decay should be fp32.

    Args:
        normalize: divide q and k by their L2 norms first.
        decay: (a [H], δ [H] or [H, K]) where g is the raw rate f: the log-decay is −exp(a) ⊙ softplus(f + δ).
        erase_range: r > 0 where b is raw: the gate is r · sigmoid(b).
        write_sigmoid: w is raw: the gate is sigmoid(w).
        recompute: keep only the inputs for the backward pass, which then runs the forward pass again.

    Raises:
        ValueError: a shape or a dtype does not fit.
    """
    check_shapes(q, k, v, g, b, w, initial_state=initial_state, cu_seqlens=cu_seqlens)
    if reason := unfit(q, v):
        raise ValueError(reason)
    check_decay(g, decay)
    dtype = torch.get_autocast_dtype(q.device.type) if torch.is_autocast_enabled(q.device.type) else v.dtype
    given = (q.to(dtype), k.to(dtype), v.to(dtype), g, b, w, *(decay or (None, None)), initial_state)
    inputs = [None if x is None else x.contiguous() for x in given]
    save = torch.is_grad_enabled() and not recompute and any(x is not None and x.requires_grad for x in inputs)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    options = (scale, normalize, float(erase_range), write_sigmoid, output_final_state, save)
    run = ops.forward if torch.compiler.is_compiling() else ops.EagerGatedDeltaRule.apply
    o, state, *_ = run(*inputs, cu_seqlens, *options)
    return o.to(v.dtype), state if output_final_state else None


def unfit(q: Tensor, v: Tensor) -> str:
    """Why the kernels cannot do a problem, or ""."""
    if v.dtype not in DTYPES:
        return f"v: {v.dtype}; the Triton kernels take {', '.join(str(dtype) for dtype in DTYPES)}"
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return f"K = {q.shape[-1]}, V = {v.shape[-1]}; the Triton kernels take up to {WIDEST}"
    return ""
