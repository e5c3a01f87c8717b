"""Raw inputs turned into those of the recurrence, and gradients of these into theirs: a pass of its own each way.

    q, k = x / |x|;   g = −exp(a) ⊙ softplus(f + δ) in fp32;   b = r σ(b̂);   w = σ(ŵ)
    dx = (dy − y (y · dy)) / |x|;   df = −exp(a) ⊙ σ(f + δ) ⊙ dg;   da = Σ g ⊙ dg;   dδ = Σ df;   db̂ = b (1 − b/r) ⊙ db

One program takes TOKENS tokens of a key head and its value heads; it reads each raw input once and writes each result
once. Where a backward pass reads q, k and g of steep chunks alone, for the rest is in what the forward pass kept, a
program takes a chunk. Of the sums over tokens a program keeps its own part; parts are added up afterwards, in an order
that never changes.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from deltalab.kernels.activations import DecayParameters
from deltalab.kernels.triton.inputs import load_rows, store_rows
from deltalab.kernels.triton.launch import launch
from deltalab.kernels.triton.parts import NORM_EPS, sigmoid, softplus
from deltalab.kernels.triton.plan import Inputs, plan_of

TOKENS = tl.constexpr(64)
TILE = tl.constexpr(2048)
"""Most elements that a program has at once."""


class Activation(NamedTuple):
    """What of a call's inputs is raw: nothing if none of it is true.

    Attributes:
        norm: q and k are.
        decay: a [H] and δ [H(, K)] where g is, else none.
        erase_range: r where b is, else 0.
        write_sigmoid: w is.
    """

    norm: bool
    decay: DecayParameters | None
    erase_range: float
    write_sigmoid: bool


def activate(x: Inputs, how: Activation, chunks: tuple[Tensor, Tensor] | None = None) -> Inputs:
    """The inputs of the recurrence: new tensors in place of the raw ones, g in fp32.

    Args:
        chunks: spans [2, chunks], as in ``table.Table``, and which chunks of a head are steep [chunks, H]: q, k and g
            are made of those alone, and are not set elsewhere.
    """
    raw = _raw(x, how)
    if not raw:
        return x
    made = {name: torch.empty_like(y, dtype=torch.float32 if name == "g" else None) for name, y in raw.items()}
    blocks = _blocks(x) if chunks is None else chunks[1].shape[0]
    _launch(activation, "activation", blocks, x, how, made, *(chunks or (None, None)))
    return x._replace(**made)


def activate_back(x: Inputs, how: Activation, grads: Inputs) -> tuple[Inputs, Tensor | None, Tensor | None]:
    """The gradients of x, a and δ from those of what ``activate`` made of x, which they overwrite, but for g's."""
    raw = _raw(x, how)
    if not raw:
        return grads, None, None
    cotangents = {name: getattr(grads, name) for name in raw}
    if how.decay is None:
        _launch(activation_gradients, "activation gradients", _blocks(x), x, how, cotangents, None, None, None)
        return grads, None, None
    df = torch.empty_like(raw["g"])
    parts = [y.new_empty(_blocks(x), *y.shape, dtype=torch.float32) for y in how.decay]
    _launch(activation_gradients, "activation gradients", _blocks(x), x, how, cotangents, df, *parts)
    da, ddelta = (part.sum(0).to(y.dtype) for part, y in zip(parts, how.decay, strict=True))
    return grads._replace(g=df), da, ddelta


def _raw(x: Inputs, how: Activation) -> dict[str, Tensor]:
    """The raw ones by name."""
    if not any(how):
        return {}
    flags = {"q": how.norm, "k": how.norm, "g": how.decay is not None, "b": how.erase_range > 0, "w": how.write_sigmoid}
    return {name: y for name, raw in flags.items() if raw and (y := getattr(x, name)) is not None}


def _blocks(x: Inputs) -> int:
    """Programs of a head, TOKENS tokens each."""
    return -(-x.q.shape[0] * x.q.shape[1] // TOKENS.value)


def _launch(
    kernel: Any, config: str, blocks: int, x: Inputs, how: Activation, results: dict[str, Tensor], *rest: Tensor | None
) -> None:
    args = (x.q, x.k, x.g, x.b, x.w, *(how.decay or (None, None)), *map(results.get, "qkgbw"), *rest)
    count = x.q.shape[0] * x.q.shape[1]
    launch(kernel, config, plan_of(x), blocks * x.q.shape[2], args, (count,), RANGE=how.erase_range)


@triton.constexpr_function
def rows_at_once(BD: int) -> int:
    """Tokens that a program takes at a time of an input with so many channels."""
    return min(TOKENS.value, TILE.value // BD)


@triton.constexpr_function
def channels_of(kind: int, channels: int) -> int:
    """Channels of a gate: one where it has one value per head."""
    return channels if kind == 2 else 1


@triton.jit
def normalize(x, out, begin, count, head, H: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """Rows of x [count, H, K] over their L2 norms."""
    BT: tl.constexpr = rows_at_once(BK)
    for tokens in range(begin, begin + TOKENS, BT):
        rows = tokens + tl.arange(0, BT)
        x_ = load_rows(x, rows, rows < count, head, H, K, BK, 0)
        scale = tl.rsqrt(tl.sum(x_ * x_, 1) + NORM_EPS)
        store_rows(out, x_ * scale[:, None], rows, rows < count, head, H, K, BK, 0)


@triton.jit
def normalize_back(x, grad, begin, count, head, H: tl.constexpr, K: tl.constexpr, BK: tl.constexpr):
    """Their cotangent turned into that of x, in place."""
    BT: tl.constexpr = rows_at_once(BK)
    for tokens in range(begin, begin + TOKENS, BT):
        rows = tokens + tl.arange(0, BT)
        x_ = load_rows(x, rows, rows < count, head, H, K, BK, 0)
        dy = load_rows(grad, rows, rows < count, head, H, K, BK, 0)
        scale = tl.rsqrt(tl.sum(x_ * x_, 1) + NORM_EPS)[:, None]
        y = x_ * scale
        dx = scale * (dy - y * tl.sum(y * dy, 1)[:, None])
        store_rows(grad, dx, rows, rows < count, head, H, K, BK, 0)


@triton.jit
def gate(x, out, begin, count, head, HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, RANGE: tl.constexpr):
    """RANGE · σ(x) of x [count, HEADS, D]."""
    BT: tl.constexpr = rows_at_once(BD)
    for tokens in range(begin, begin + TOKENS, BT):
        rows = tokens + tl.arange(0, BT)
        for first in range(0, D, BD):
            x_ = load_rows(x, rows, rows < count, head, HEADS, D, BD, first)
            store_rows(out, RANGE * sigmoid(x_), rows, rows < count, head, HEADS, D, BD, first)


@triton.jit
def gate_back(x, grad, begin, count, head, HEADS: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, RANGE: tl.constexpr):
    """Its cotangent turned into that of x, in place."""
    BT: tl.constexpr = rows_at_once(BD)
    for tokens in range(begin, begin + TOKENS, BT):
        rows = tokens + tl.arange(0, BT)
        for first in range(0, D, BD):
            dy = load_rows(grad, rows, rows < count, head, HEADS, D, BD, first)
            part = sigmoid(load_rows(x, rows, rows < count, head, HEADS, D, BD, first))
            dx = RANGE * part * (1.0 - part) * dy
            store_rows(grad, dx, rows, rows < count, head, HEADS, D, BD, first)


@triton.jit
def load_bias(delta, head, D: tl.constexpr, BD: tl.constexpr):
    """δ of a head [1, BD]."""
    channels = tl.arange(0, BD)
    return tl.load(delta + head * D + channels, mask=channels < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def decay(f, a, delta, out, begin, count, head, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """The log-decay of f [count, H, D]."""
    BT: tl.constexpr = rows_at_once(BD)
    bias = load_bias(delta, head, D, BD)
    rate = tl.exp(tl.load(a + head).to(tl.float32))
    for tokens in range(begin, begin + TOKENS, BT):
        rows = tokens + tl.arange(0, BT)
        raw = load_rows(f, rows, rows < count, head, H, D, BD, 0) + bias
        store_rows(out, -rate * softplus(raw), rows, rows < count, head, H, D, BD, 0)


@triton.jit
def decay_back(f, a, delta, dg, df, da, ddelta, begin, count, head, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """df of the log-decay's cotangent, and this program's part of da and dδ."""
    BT: tl.constexpr = rows_at_once(BD)
    bias = load_bias(delta, head, D, BD)
    rate = tl.exp(tl.load(a + head).to(tl.float32))
    turned = tl.zeros([BT, BD], tl.float32)
    moved = tl.zeros([BT, BD], tl.float32)
    for tokens in range(begin, begin + TOKENS, BT):
        rows = tokens + tl.arange(0, BT)
        raw = load_rows(f, rows, rows < count, head, H, D, BD, 0) + bias
        rated = -rate * load_rows(dg, rows, rows < count, head, H, D, BD, 0)
        df_ = rated * sigmoid(raw)
        store_rows(df, df_, rows, rows < count, head, H, D, BD, 0)
        turned += rated * softplus(raw)
        moved += df_
    channels = tl.arange(0, BD)
    part = begin // TOKENS * H + head
    tl.store(da + part, tl.sum(tl.sum(turned, 0), 0))
    tl.store(ddelta + part * D + channels, tl.sum(moved, 0), mask=channels < D)


@triton.jit(do_not_specialize=["count"])
def activation(
    q, k, g, b, w, a, delta, q_out, k_out, g_out, b_out, w_out, spans, steep, count,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, RANGE: tl.constexpr,
):  # fmt: skip
    """Args:
    q, k [count, H, K]; g, b [count, H(, K)]; w [count, HV(, V)]; a [H] and delta [H(, K)] of the decay.
    q_out … w_out: shaped as their inputs; none where those are not raw.
    spans, steep: [2, chunks] and [chunks, H], or none: q, k and g of steep chunks alone.
    DECAY, ERASE, WRITE: 0 none, 1 one value per head, 2 one per channel.
    RANGE: of the erase gate.
    """
    head = tl.program_id(0) % H
    begin = (tl.program_id(0) // H).to(tl.int64)
    due = True
    if steep is not None:
        due = tl.load(steep + tl.program_id(0)) != 0
        stop = tl.load(spans + tl.num_programs(0) // H + begin)
        begin = tl.load(spans + begin).to(tl.int64)
        count = tl.minimum(stop, begin + C)
    else:
        begin *= TOKENS
    if due:
        if q_out is not None:
            normalize(q, q_out, begin, count, head, H, K, BK)
            normalize(k, k_out, begin, count, head, H, K, BK)
        if g_out is not None:
            decay(g, a, delta, g_out, begin, count, head, H, channels_of(DECAY, K), channels_of(DECAY, BK))
    if b_out is not None:
        gate(b, b_out, begin, count, head, H, channels_of(ERASE, K), channels_of(ERASE, BK), RANGE)
    if w_out is not None:
        for own in range(head * (HV // H), (head + 1) * (HV // H)):
            gate(w, w_out, begin, count, own, HV, channels_of(WRITE, V), channels_of(WRITE, BV), 1.0)


@triton.jit(do_not_specialize=["count"])
def activation_gradients(
    q, k, g, b, w, a, delta, dq, dk, dg, db, dw, df, da, ddelta, count,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr, RANGE: tl.constexpr,
):  # fmt: skip
    """Args:
    raw inputs as in ``activation``.
    dq … dw: cotangents of what it made, none where it made nothing. They become those of the raw inputs, but for dg.
    df [as g], da [programs of tokens, H], ddelta [programs of tokens, H(, K)]: of the decay.
    """
    head = tl.program_id(0) % H
    begin = (tl.program_id(0) // H).to(tl.int64) * TOKENS
    if dq is not None:
        normalize_back(q, dq, begin, count, head, H, K, BK)
        normalize_back(k, dk, begin, count, head, H, K, BK)
    if dg is not None:
        D: tl.constexpr = channels_of(DECAY, K)
        decay_back(g, a, delta, dg, df, da, ddelta, begin, count, head, H, D, channels_of(DECAY, BK))
    if db is not None:
        gate_back(b, db, begin, count, head, H, channels_of(ERASE, K), channels_of(ERASE, BK), RANGE)
    if dw is not None:
        for own in range(head * (HV // H), (head + 1) * (HV // H)):
            gate_back(w, dw, begin, count, own, HV, channels_of(WRITE, V), channels_of(WRITE, BV), 1.0)
