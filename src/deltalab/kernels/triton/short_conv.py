"""The short convolution with its SiLU in one pass each way (kernels/short_conv.py has the equations).

A program takes BC channels and walks along BT tokens, with the last three inputs at hand, so that each is read once.
Backward it computes z again, and with dz = dy ⊙ σ(z) (1 + z (1 − σ(z)))

    dx_t = Σ_j weight_j ⊙ dz_{t+j};   dweight_j = Σ_t dz_t ⊙ x_{t−j};   dc = Σ_t dz_t

so dx follows three tokens behind, and a program goes three tokens beyond its own. Of the sums over t it keeps its
own tokens' part; parts are added up afterwards, in an order that never changes. One launch serves one part of the
channels: parts are contiguous, and their gradients need no joining.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS, CHANNELS, WARPS = 64, 256, 2
"""BT, BC and warps of a program."""
UNROLL = tl.constexpr(4)
"""Tokens whose loads are under way together."""


@triton.jit
def load_tap(weight, channels, inside, lag: tl.constexpr, W: tl.constexpr):
    """weight_lag [BC] in fp32, zero where there are fewer taps."""
    return tl.load(weight + channels * W + W - 1 - lag, mask=inside & (lag < W), other=0.0).to(tl.float32)


@triton.jit
def load_row(x, token, exists, row, channels, inside):
    """x of a token [BC] in fp32, zero where it does not exist."""
    return tl.load(x + token * row + channels, mask=inside & exists, other=0.0).to(tl.float32)


@triton.jit
def count_before(past, token, exists, length, PACKED: tl.constexpr):
    """How many tokens of its sequence are before it."""
    if PACKED:
        return tl.load(past + token, mask=exists, other=0)
    return token % length


@triton.jit
def load_taps(weight, bias, channels, inside, W: tl.constexpr, BIAS: tl.constexpr):
    """The taps, the newest token's first, and c, [BC] each."""
    w0 = load_tap(weight, channels, inside, 0, W)
    w1 = load_tap(weight, channels, inside, 1, W)
    w2 = load_tap(weight, channels, inside, 2, W)
    w3 = load_tap(weight, channels, inside, 3, W)
    c = tl.zeros_like(w0)
    if BIAS:
        c = tl.load(bias + channels, mask=inside, other=0.0).to(tl.float32)
    return w0, w1, w2, w3, c


@triton.jit
def load_past(x, past, first, tokens_in_all, length, row, channels, inside, PACKED: tl.constexpr):
    """The three tokens before a program's first, zero where they are of another sequence."""
    before = count_before(past, first, first < tokens_in_all, length, PACKED)
    x1 = load_row(x, first - 1, before >= 1, row, channels, inside)
    x2 = load_row(x, first - 2, before >= 2, row, channels, inside)
    x3 = load_row(x, first - 3, before >= 3, row, channels, inside)
    return x1, x2, x3


@triton.jit(do_not_specialize=["tokens_in_all", "length"])
def forward(
    x, weight, bias, past, y, tokens_in_all, length, offset, size, row,
    W: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Args:
    x: rows of channels, ``row`` apart; weight [C, W]; bias [C].
    past: int64 tokens of the same sequence before each, where PACKED.
    y: [tokens_in_all, size], the channels from ``offset`` on.
    length: tokens of a sequence, where not PACKED.
    """
    first = tl.program_id(0).to(tl.int64) * BT
    local = tl.program_id(1) * BC + tl.arange(0, BC)
    channels, inside = offset + local, local < size
    w0, w1, w2, w3, c = load_taps(weight, bias, channels, inside, W, BIAS)  # pyright: ignore[reportGeneralTypeIssues]
    x1, x2, x3 = load_past(x, past, first, tokens_in_all, length, row, channels, inside, PACKED)  # pyright: ignore[reportGeneralTypeIssues]
    for step in tl.range(0, BT, loop_unroll_factor=UNROLL):
        token = first + step
        exists = token < tokens_in_all
        goes_on = count_before(past, token, exists, length, PACKED) > 0
        x1 = tl.where(goes_on, x1, 0.0)
        x2 = tl.where(goes_on, x2, 0.0)
        x3 = tl.where(goes_on, x3, 0.0)
        x0 = load_row(x, token, exists, row, channels, inside)
        z = c + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        tl.store(y + token * size + local, z / (1.0 + tl.exp(-z)), mask=inside & exists)
        x3 = x2
        x2 = x1
        x1 = x0


@triton.jit(do_not_specialize=["tokens_in_all", "length"])
def backward(
    x, weight, bias, past, dy, dx, sums, tokens_in_all, length, offset, size, row, channels_in_all,
    W: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Args:
    as ``forward``; dy [tokens_in_all, size]; dx [tokens_in_all, channels_in_all].
    sums: [programs of tokens, W + BIAS, channels_in_all], of dweight (newest tap last) and dc.
    """
    first = tl.program_id(0).to(tl.int64) * BT
    local = tl.program_id(1) * BC + tl.arange(0, BC)
    channels, inside = offset + local, local < size
    w0, w1, w2, w3, c = load_taps(weight, bias, channels, inside, W, BIAS)  # pyright: ignore[reportGeneralTypeIssues]
    x1, x2, x3 = load_past(x, past, first, tokens_in_all, length, row, channels, inside, PACKED)  # pyright: ignore[reportGeneralTypeIssues]
    zero = tl.zeros_like(w0)
    dx1, dx2, dx3 = zero, zero, zero
    dw0, dw1, dw2, dw3, dc = zero, zero, zero, zero, zero
    for step in tl.range(0, BT + 3, loop_unroll_factor=UNROLL):
        token = first + step
        exists = token < tokens_in_all
        before = count_before(past, token, exists, length, PACKED)
        x1 = tl.where(before > 0, x1, 0.0)
        x2 = tl.where(before > 0, x2, 0.0)
        x3 = tl.where(before > 0, x3, 0.0)
        x0 = load_row(x, token, exists, row, channels, inside)
        dy_ = load_row(dy, token, exists, size, local, inside)
        z = c + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        part = 1.0 / (1.0 + tl.exp(-z))
        dz = dy_ * part * (1.0 + z * (1.0 - part))
        dx3 += tl.where(before >= 3, w3 * dz, 0.0)
        oldest = token - 3
        tl.store(dx + oldest * channels_in_all + channels, dx3, mask=inside & (step >= 3) & (oldest < tokens_in_all))
        dx3 = dx2 + tl.where(before >= 2, w2 * dz, 0.0)
        dx2 = dx1 + tl.where(before >= 1, w1 * dz, 0.0)
        dx1 = w0 * dz
        own = tl.where(step < BT, dz, 0.0)
        dw0 += own * x0
        dw1 += own * x1
        dw2 += own * x2
        dw3 += own * x3
        dc += own
        x3 = x2
        x2 = x1
        x1 = x0
    newest = sums + (tl.program_id(0).to(tl.int64) * (W + BIAS) + W - 1) * channels_in_all + channels
    tl.store(newest, dw0, mask=inside)
    tl.store(newest - channels_in_all, dw1, mask=inside & (W > 1))
    tl.store(newest - 2 * channels_in_all, dw2, mask=inside & (W > 2))
    tl.store(newest - 3 * channels_in_all, dw3, mask=inside & (W > 3))
    if BIAS:
        tl.store(newest + channels_in_all, dc, mask=inside)


@torch.library.custom_op("deltalab::short_convolution", mutates_args=())
def short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, sizes: list[int]
) -> list[Tensor]:
    """``kernels.short_conv.short_convolution``, with ``past`` [T] int64 as ``tokens_before`` counts, none unpacked."""
    x = _rows(x)
    parts = [x.new_empty(*x.shape[:2], size) for size in sizes]
    for part, offset in zip(parts, _offsets(sizes), strict=True):
        args = (x, weight.contiguous(), bias, past, part, x.shape[0] * x.shape[1], x.shape[1], offset, part.shape[-1])
        _launch(forward, (*args, x.stride(1)), weight, bias, past)
    return parts


@short_convolution.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, sizes: list[int]) -> list[Tensor]:
    return [x.new_empty(*x.shape[:2], size) for size in sizes]


@torch.library.custom_op("deltalab::short_convolution_backward", mutates_args=())
def short_convolution_backward(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, grads: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """dx [B, T, C] and the sums of dweight and dc, fp32 [width (+ 1), C]."""
    x = _rows(x)
    tokens, channels, taps = x.shape[0] * x.shape[1], x.shape[2], weight.shape[1]
    dx = x.new_empty(x.shape)
    sums = x.new_empty(-(-tokens // TOKENS), taps + (bias is not None), channels, dtype=torch.float32)
    for grad, offset in zip(grads, _offsets([grad.shape[-1] for grad in grads]), strict=True):
        args = (x, weight.contiguous(), bias, past, grad.contiguous(), dx, sums, tokens, x.shape[1], offset)
        _launch(backward, (*args, grad.shape[-1], x.stride(1), channels), weight, bias, past)
    return dx, sums.sum(0)


@short_convolution_backward.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, grads: list[Tensor]
) -> tuple[Tensor, Tensor]:
    rows = weight.shape[1] + (bias is not None)
    return x.new_empty(x.shape), x.new_empty(rows, x.shape[2], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4])


def _differentiate(ctx: Any, grads: list[Tensor]) -> tuple[Tensor | None, ...]:
    x, weight, bias, past = ctx.saved_tensors
    dx, sums = short_convolution_backward(x, weight, bias, past, grads)
    taps = weight.shape[1]
    return dx, sums[:taps].T.to(weight.dtype), None if bias is None else sums[taps].to(bias.dtype), None, None


short_convolution.register_autograd(_differentiate, setup_context=_keep)


def _rows(x: Tensor) -> Tensor:
    """x as rows of channels at one distance; a slice of the channels stays where it is."""
    return x if x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1) else x.contiguous()


def _offsets(sizes: list[int]) -> list[int]:
    return [sum(sizes[:index]) for index in range(len(sizes))]


def _launch(kernel: Any, args: tuple[Any, ...], weight: Tensor, bias: Tensor | None, past: Tensor | None) -> None:
    """One part: programs of tokens × programs of channels."""
    tokens, size = (args[5], args[8]) if kernel is forward else (args[7], args[10])
    constants = {"W": weight.shape[1], "BIAS": bias is not None, "PACKED": past is not None}
    grid = (-(-tokens // TOKENS), -(-size // CHANNELS))
    kernel[grid](*args, **constants, BT=TOKENS, BC=CHANNELS, num_warps=WARPS)
