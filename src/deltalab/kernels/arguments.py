"""The arguments of the gated delta rule, checked once for every form: shapes, sequence boundaries, precision.

q, k [B, T, H, K]; v [B, T, HV, V], HV a multiple of H; g, b none, [B, T, H] or [B, T, H, K]; w none, [B, T, HV] or
[B, T, HV, V]; state [N, HV, K, V], where N = B, or the number of packed sequences if ``cu_seqlens`` is given (then
B = 1).
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

_In = ParamSpec("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Checked arguments: gates have a last axis of 1 or full width, all in the compute dtype, defaults filled in.

    Attributes:
        bounds: sequence boundaries of a packed batch (0 first, T last), or None.
        out_dtype: dtype of the output (that of v as given).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    b: Tensor | None
    w: Tensor | None
    scale: float
    initial_state: Tensor | None
    bounds: tuple[int, ...] | None
    out_dtype: torch.dtype


def check_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    *,
    scale: float | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Arguments:
    """Return the arguments ready to compute with: fp32, or fp64 where an input of the recurrence is fp64.

    Raises:
        ValueError: a shape or a boundary does not fit; the message names the argument, its shape and what is allowed.
    """
    check_shapes(q, k, v, g, b, w, initial_state=initial_state, cu_seqlens=cu_seqlens)
    dtype = compute_dtype(q, k, v)
    return Arguments(
        q=q.to(dtype),
        k=k.to(dtype),
        v=v.to(dtype),
        g=_gate(g, dtype),
        b=_gate(b, dtype),
        w=_gate(w, dtype),
        scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        initial_state=None if initial_state is None else initial_state.to(dtype),
        bounds=None if cu_seqlens is None else check_bounds(tuple(cu_seqlens.tolist()), q.shape[1]),
        out_dtype=v.dtype,
    )


def check_shapes(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    *,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    """Refuse arguments that do not fit each other; what is in ``cu_seqlens`` is not looked at.

    Raises:
        ValueError: a shape does not fit.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4 or 0 in x.shape:
            raise ValueError(f"{name}: shape {list(x.shape)}; must be 4 axes [batch, time, heads, width], none empty")
    batch, time, heads, width = q.shape
    _expect("k", k, (q.shape,))
    value_heads, value_width = v.shape[2:]
    if v.shape[:2] != q.shape[:2] or value_heads % heads:
        fitting = f"[{batch}, {time}, a multiple of {heads}, V]"
        raise ValueError(f"v: shape {list(v.shape)}; must be {fitting} to go with q {list(q.shape)}")
    if cu_seqlens is not None:
        _check_packing(cu_seqlens, batch)
    sequences = batch if cu_seqlens is None else len(cu_seqlens) - 1
    for name, gate, full in (("g", g, q.shape), ("b", b, q.shape), ("w", w, v.shape)):
        if gate is not None:
            _expect(name, gate, (full[:3], full))
    if initial_state is not None:
        _expect("initial_state", initial_state, (torch.Size((sequences, value_heads, width, value_width)),))


def compute_dtype(*inputs: Tensor) -> torch.dtype:
    """fp64 if any input is fp64, else fp32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32


def full_precision(function: Callable[_In, _Out]) -> Callable[_In, _Out]:
    """Decay sums, triangular inverses and states do not survive bf16: inside ``function`` autocast is off."""

    @functools.wraps(function)
    def run(*args: _In.args, **kwargs: _In.kwargs) -> _Out:
        device = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return run


def _gate(gate: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if gate is None:
        return None
    return (gate if gate.dim() == 4 else gate.unsqueeze(-1)).to(dtype)


def _expect(name: str, x: Tensor, allowed: tuple[torch.Size, ...]) -> None:
    if x.shape not in allowed:
        raise ValueError(f"{name}: shape {list(x.shape)}; must be {' or '.join(str(list(s)) for s in allowed)}")


def check_bounds(bounds: tuple[int, ...], time: int) -> tuple[int, ...]:
    """The boundaries of packed sequences, as they are.

    Raises:
        ValueError: they do not rise from 0 to T.
    """
    if bounds[0] != 0 or bounds[-1] != time or any(a >= b for a, b in itertools.pairwise(bounds)):
        raise ValueError(f"cu_seqlens: {list(bounds)}; must rise strictly from 0 to T = {time}")
    return bounds


def _check_packing(cu_seqlens: Tensor, batch: int) -> None:
    if batch != 1:
        raise ValueError(f"cu_seqlens: batch is {batch}; packed sequences need a batch of 1")
    if cu_seqlens.dim() != 1 or cu_seqlens.is_floating_point() or len(cu_seqlens) < 2:
        found = f"{cu_seqlens.dtype} of shape {list(cu_seqlens.shape)}"
        raise ValueError(f"cu_seqlens: {found}; must be at least two integers on one axis")
