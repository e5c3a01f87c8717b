"""Which form of the gated delta rule runs, and why.

``triton`` are the kernels of this project, for a GPU; ``chunk`` is the fast exact form in plain torch, for everything
else; ``reference`` is the definition, token by token, for tests and for reading; ``fla`` is flash-linear-attention's
form of the variants it has (an optional package), to compare with.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from deltalab.kernels import chunk, decode, reference
from deltalab.kernels.activations import DecayParameters, activate_gates, check_decay, normalize_keys

Form = Literal["triton", "chunk", "reference", "fla"]
Result = tuple[Tensor, Tensor | None]
HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Whether Triton can be imported; looked up here, for compiled code cannot."""
OLDEST = (8, 0)
"""Compute capability that the Triton kernels ask for."""


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
    decay: DecayParameters | None = None,
    erase_range: float = 0.0,
    write_sigmoid: bool = False,
    form: Form | None = None,
) -> Result:
    """Run the form named, or the fastest there is; arguments and results as ``reference.gated_delta_rule``.

    Inputs may come raw: ``triton`` activates them by kernels of its own and keeps nothing of it, the other forms take
    what ``activations`` makes of them.

    Args:
        normalize: divide q and k by their L2 norms first.
        decay: (a [H], δ [H] or [H, K]) where g is the raw rate f: the log-decay is −exp(a) ⊙ softplus(f + δ).
        erase_range: r > 0 where b is raw: the gate is r · sigmoid(b).
        write_sigmoid: w is raw: the gate is sigmoid(w).
        form: none for the fastest (``choose``).

    Raises:
        ValueError: an unknown form, one that cannot do this problem, or a shape that does not fit.
    """
    if form is None:
        form, _ = choose(q, v)
    raw: dict[str, Any] = {"decay": decay, "erase_range": erase_range, "write_sigmoid": write_sigmoid}
    if form == "triton":
        raw["normalize"] = normalize
    else:
        check_decay(g, decay)
        q, k = normalize_keys(q, k) if normalize else (q, k)
        g, b, w = activate_gates(g, b, w, **raw)
        raw = {}
    return _form(form)(
        q,
        k,
        v,
        g,
        b,
        w,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
        **raw,
    )


def decode_step(
    qkv: Tensor,
    state: Tensor,
    *,
    heads: int,
    g: Tensor | None = None,
    b: Tensor | None = None,
    w: Tensor | None = None,
    decay: DecayParameters | None = None,
    erase_range: float = 0.0,
    write_sigmoid: bool = False,
    conv_weight: Tensor | None = None,
    conv_state: Tensor | None = None,
    arrivals: Tensor | None = None,
) -> Tensor:
    """One token of a layer, convolution, SiLU and L2 norm included: in the fused kernel where it runs, else in torch.

    Arguments and result as ``kernels.decode.decode_step``; gates may come raw, as to ``gated_delta_rule``.

    Args:
        arrivals: [N, H] int32 zeros that belong to the kernel (see ``kernels.triton.decode``).
    """
    width, values = state.shape[2:]
    raw: dict[str, Any] = {"decay": decay, "erase_range": erase_range, "write_sigmoid": write_sigmoid}
    past = {"conv_weight": conv_weight, "conv_state": conv_state}
    form, _ = choose(qkv[..., :width], qkv[..., :values])
    if form != "triton":
        g, b, w = activate_gates(g, b, w, **raw)
        return decode.decode_step(qkv, state, heads=heads, g=g, b=b, w=w, **past)
    from deltalab.kernels.triton.decode import decode_step as fused

    gates = {"g": g, "b": b, "w": w, **raw}
    return fused(qkv, state, heads=heads, silu=True, normalize=True, arrivals=arrivals, **past, **gates)


def choose(q: Tensor, v: Tensor) -> tuple[Form, str]:
    """The form for a problem, and why it is this one."""
    if q.device.type != "cuda":
        return "chunk", f"the Triton kernels need a GPU, this runs on {q.device.type}"
    if not HAS_TRITON:
        return "chunk", "Triton is not installed"
    if torch.cuda.get_device_capability(q.device) < OLDEST:
        return "chunk", f"{torch.cuda.get_device_name(q.device)} is older than the Triton kernels take (sm_80)"
    from deltalab.kernels.triton.api import unfit

    if reason := unfit(q, v):
        return "chunk", reason
    return "triton", f"a GPU, {v.dtype}, K = {q.shape[-1]} and V = {v.shape[-1]}"


def runs_triton(device: torch.device) -> bool:
    """Whether a device runs Triton kernels, whatever the problem."""
    return device.type == "cuda" and HAS_TRITON and torch.cuda.get_device_capability(device) >= OLDEST


def _form(form: str) -> Callable[..., Result]:
    if form == "chunk":
        return chunk.gated_delta_rule
    if form == "reference":
        return reference.gated_delta_rule
    if form == "triton":
        if not HAS_TRITON:
            raise ValueError(
                "form: 'triton'; Triton is not installed (pip install triton); allowed is chunk, reference"
            )
        from deltalab.kernels.triton.api import gated_delta_rule as run

        return run
    if form == "fla":
        return _flash_linear_attention
    raise ValueError(f"form: {form!r}; must be one of {', '.join(get_args(Form))}")


def _flash_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor | None, b: Tensor | None, w: Tensor | None, **options: Any
) -> Result:
    if importlib.util.find_spec("fla") is None:
        raise ValueError("form: 'fla'; flash-linear-attention is not installed (pip install 'deltalab[fla]')")
    from fla.ops.delta_rule import chunk_delta_rule  # pyright: ignore[reportMissingImports]
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]
    from fla.ops.gdn2 import chunk_gdn2  # pyright: ignore[reportMissingImports]
    from fla.ops.kda import chunk_kda  # pyright: ignore[reportMissingImports]

    kinds = tuple("none" if x is None else "scalar" if x.dim() == 3 else "channel" for x in (g, b, w))
    tied = b is w
    if kinds == ("channel", "channel", "channel"):
        return chunk_gdn2(q, k, v, g, b, w, **options)
    if tied and kinds == ("channel", "scalar", "scalar"):
        return chunk_kda(q, k, v, g, b, **options)
    if tied and kinds == ("scalar", "scalar", "scalar"):
        return chunk_gated_delta_rule(q, k, v, g, b, **options)
    if tied and kinds == ("none", "scalar", "scalar"):
        return chunk_delta_rule(q, k, v, b, **options)
    found = f"decay {kinds[0]}, erase {kinds[1]}, write {kinds[2]}{', tied' if tied else ''}"
    raise ValueError(f"form: 'fla'; it has no variant with {found}; allowed is triton, chunk, reference")
