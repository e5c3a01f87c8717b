"""One token of a gated delta-rule layer, for generation: from the raw projections to o in a single kernel (step.py).

    q, k = L2 norm of SiLU(short conv(x));   v = SiLU(short conv(x_v))
    S̄ = Diag(exp g) S;   S ← S̄ + k (w ⊙ v − S̄ᵀ(b ⊙ k))ᵀ;   o = scale · Sᵀ q

The state and the convolution's past are updated in place. The host neither waits for the device nor looks at values, so
a step can be captured in a CUDA graph and replayed: nothing counts the tokens. Without convolution, SiLU and norm it is
the recurrence of one token.
"""

from typing import Any

import torch
from torch import Tensor

from deltalab.kernels.triton.api import DTYPES, WIDEST
from deltalab.kernels.triton.launch import ALIGNED
from deltalab.kernels.triton.plan import GLUON_WIDTH, has_warpgroup_products, power_of_two, processors
from deltalab.kernels.triton.shared_step import shared_step
from deltalab.kernels.triton.step import decode_step as step

STATE_DTYPES = (torch.float32, torch.bfloat16)
PROGRAMS = (2, 7)
"""Programs that a multiprocessor should have: value channels are split until it has so many, down to blocks of a sector
of memory for the first number, down to the widest block for the second."""
SECTOR = 32
"""Bytes of memory that are read together."""
WIDEST_BLOCK, LARGEST_TILE = 32, 4096
"""Value channels of a block, and elements of the state: what registers hold of it with several programs at work."""
WARPS = {torch.float32: 4, torch.bfloat16: 1}
"""Warps of a program by the state's dtype. A bf16 state whose heads are not split is taken in blocks twice as wide, by
twice as many."""


def decode_step(
    qkv: Tensor,
    state: Tensor,
    *,
    heads: int,
    g: Tensor | None = None,
    b: Tensor | None = None,
    w: Tensor | None = None,
    decay: tuple[Tensor, Tensor] | None = None,
    erase_range: float = 0.0,
    write_sigmoid: bool = False,
    conv_weight: Tensor | None = None,
    conv_state: Tensor | None = None,
    arrivals: Tensor | None = None,
    silu: bool = False,
    normalize: bool = False,
    scale: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Advance every sequence of a batch by one token. No gradients.

    Inputs are bf16, fp16 or fp32 (gates each in its own dtype) and computed with in fp32. Each may be a slice of a
    wider row: only what is behind the batch axis must be contiguous.

    Args:
        qkv: [B, 2·H·K + HV·V], q, k and v of the token side by side, before the convolution.
        state: [B, HV, K, V] in fp32 or bf16, contiguous; updated in place.
        heads: H, key heads.
        g: none (no decay), [B, H] or [B, H, K]: natural log-decay, ≤ 0; with ``decay`` the raw rate.
        b: none (no erase), [B, H] or [B, H, K]: erase gate.
        w: none (w = 1), [B, HV] or [B, HV, V]: write gate.
        decay: (a [H], δ [H] or [H, K] as g): the log-decay is −exp(a) ⊙ softplus(g + δ).
        erase_range: r > 0 where b is raw: the gate is r · sigmoid(b).
        write_sigmoid: w is raw: the gate is sigmoid(w).
        conv_weight: [2·H·K + HV·V, width] of the short convolution, its last tap for this token; none without one.
        conv_state: [B, 2·H·K + HV·V, width − 1], contiguous: the tokens before this one, newest last, zero where there
            were none (``kernels.decode.conv_state_of`` makes it from a prompt); updated in place. Goes with a width
            above 1.
        arrivals: [B, H] int32 zeros, zero again after the step: where the kernel's programs say that they have read
            ``conv_state``. Steps that follow each other on one stream, all layers of a model say, may share it. Goes
            with ``conv_state``.
        silu: apply SiLU to q, k and v (after the convolution).
        normalize: then divide q and k by their L2 norms.
        scale: factor of the output; K**-0.5 unless given.
        out: [B, HV, V], contiguous: where to write o; a new tensor in qkv's dtype unless given.

    Returns:
        o [B, HV, V].

    Raises:
        ValueError: a shape, a dtype or a layout does not fit; one line with argument, shape and what is allowed.
    """
    _check_state(qkv, state, heads)
    _check_gates(state.shape, heads, g, b, w, decay)
    _check_convolution(qkv, heads, conv_weight, conv_state, arrivals)
    batch, value_heads, width, values = state.shape
    if out is None:
        out = qkv.new_empty(batch, value_heads, values)
    _expect("out", out, (batch, value_heads, values))
    _expect_layout("out", out, DTYPES)
    a, delta = (None, None) if decay is None else decay
    given = [None if x is None else x.contiguous() for x in (a, delta, conv_weight)]
    scale = width**-0.5 if scale is None else float(scale)
    operator(
        qkv, g, b, w, *given, scale, heads, silu, normalize, float(erase_range), float(write_sigmoid),
        conv_state, arrivals, state, out,
    )  # fmt: skip
    return out


@torch.library.custom_op("deltalab::decode_step", mutates_args=("conv_state", "arrivals", "state", "out"))
def operator(
    qkv: Tensor,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    a: Tensor | None,
    delta: Tensor | None,
    conv_weight: Tensor | None,
    scale: float,
    heads: int,
    silu: bool,
    normalize: bool,
    erase_range: float,
    write_range: float,
    conv_state: Tensor | None,
    arrivals: Tensor | None,
    state: Tensor,
    out: Tensor,
) -> None:
    """Launch the step of arguments that ``decode_step`` has checked."""
    batch, value_heads = state.shape[:2]
    taps = 0 if conv_weight is None else conv_weight.shape[1]
    kernel, programs, blocks = _kernel_of(state)
    kinds = [0 if gate is None else gate.dim() - 1 for gate in (g, b, w)]
    rows = [0 if x is None else x.stride(0) for x in (qkv, g, b, w)]
    _launch(
        kernel, batch * value_heads * programs,
        qkv, g, b, w, a, delta, conv_weight, conv_state, arrivals, state, out, scale, *rows,
        H=heads, HV=value_heads, WIDTH=taps, BW=power_of_two(max(1, taps)),
        DECAY=kinds[0], ERASE=kinds[1], WRITE=kinds[2],
        SOFTPLUS=a is not None, RANGE=erase_range, SIGMOID=write_range, SILU=silu, NORM=normalize, **blocks,
    )  # fmt: skip


@operator.register_fake
def _(*_: Any) -> None:
    return None


def _launch(kernel: Any, programs: int, *args: Any, **constants: Any) -> None:
    """Start so many programs of a kernel on the device of its first argument."""
    device = args[0].device
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        kernel[(programs,)](*args, **constants)
    else:
        with torch.cuda.device(device):
            kernel[(programs,)](*args, **constants)


def _kernel_of(state: Tensor) -> tuple[Any, int, dict[str, int]]:
    """The kernel of a state; programs of a value head; constants of how it goes through the state."""
    width, values = state.shape[2:]
    fits = width == values == GLUON_WIDTH and state.data_ptr() % ALIGNED == 0
    if fits and has_warpgroup_products(state.device):
        return shared_step, 1, {"num_warps": 4}
    block, parts, warps = _split(state)
    return step, parts, {
        "K": width, "V": values, "BK": power_of_two(width), "BV": block,
        "PARTS": parts, "SHARE": -(-values // (parts * block)) * block, "num_warps": warps, "num_stages": 1,
    }  # fmt: skip


def _split(state: Tensor) -> tuple[int, int, int]:
    """Value channels of a block, a power of two; programs of a value head, enough for the whole device; their warps."""
    batch, heads, width, values = state.shape
    least, wanted = (programs * processors(state.device) for programs in PROGRAMS)
    block = min(WIDEST_BLOCK, LARGEST_TILE // power_of_two(width), power_of_two(values))
    narrowest = min(block, SECTOR // state.element_size())
    while block > narrowest and batch * heads * -(-values // block) < least:
        block //= 2
    parts, blocks = 1, power_of_two(-(-values // block))
    while parts < blocks and batch * heads * parts < wanted:
        parts *= 2
    double = 2 if parts == 1 < blocks and state.dtype is torch.bfloat16 else 1
    return block * double, parts, WARPS[state.dtype] * double


def _check_state(qkv: Tensor, state: Tensor, heads: int) -> None:
    if state.dim() != 4 or 0 in state.shape:
        raise ValueError(f"state: shape {list(state.shape)}; must be 4 axes [batch, value heads, K, V], none empty")
    _expect_layout("state", state, STATE_DTYPES)
    batch, value_heads, width, values = state.shape
    if max(width, values) > WIDEST:
        raise ValueError(f"state: K = {width}, V = {values}; the Triton kernels take up to {WIDEST}")
    if heads < 1 or value_heads % heads:
        raise ValueError(f"heads: {heads}; must divide the {value_heads} value heads of state {list(state.shape)}")
    _expect("qkv", qkv, (batch, 2 * heads * width + value_heads * values))
    _expect_rows("qkv", qkv)


def _check_gates(
    state: torch.Size,
    heads: int,
    g: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    decay: tuple[Tensor, Tensor] | None,
) -> None:
    batch, value_heads, width, values = state
    for name, x, count, channels in (("g", g, heads, width), ("b", b, heads, width), ("w", w, value_heads, values)):
        if x is not None:
            _expect(name, x, (batch, count), (batch, count, channels))
            _expect_rows(name, x)
    if decay is not None:
        if g is None:
            raise ValueError("decay: given without g, the rate that it activates")
        _expect("decay: a", decay[0], g.shape[1:2])
        _expect("decay: δ", decay[1], g.shape[1:])


def _check_convolution(
    qkv: Tensor, heads: int, weight: Tensor | None, past: Tensor | None, arrivals: Tensor | None
) -> None:
    batch, channels = qkv.shape
    if weight is not None and (weight.dim() != 2 or weight.shape[0] != channels or not weight.shape[1]):
        raise ValueError(f"conv_weight: shape {list(weight.shape)}; must be [{channels}, width], width 1 or more")
    needed = weight is not None and weight.shape[1] > 1
    for name, x in (("conv_state", past), ("arrivals", arrivals)):
        if needed and x is None:
            raise ValueError(f"{name}: missing; a convolution of more than one tap needs it")
    if weight is None:
        if past is not None:
            raise ValueError("conv_state: given without conv_weight, the convolution that it is the past of")
        return
    if past is not None:
        _expect("conv_state", past, (batch, channels, weight.shape[1] - 1))
        _expect_layout("conv_state", past, DTYPES)
    if arrivals is not None:
        _expect("arrivals", arrivals, (batch, heads))
        _expect_layout("arrivals", arrivals, (torch.int32,))


def _expect(name: str, x: Tensor, *allowed: tuple[int, ...]) -> None:
    if tuple(x.shape) not in allowed:
        raise ValueError(f"{name}: shape {list(x.shape)}; must be {' or '.join(str(list(s)) for s in allowed)}")


def _expect_layout(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Tensors that are written."""
    if x.dtype not in dtypes or not x.is_contiguous():
        raise ValueError(f"{name}: {_layout(x)}; must be {' or '.join(map(str, dtypes))}, contiguous")


def _expect_rows(name: str, x: Tensor) -> None:
    """Tensors that are read: slices of a wider row are fine."""
    if x.dtype not in DTYPES or not x[0].is_contiguous():
        raise ValueError(
            f"{name}: {_layout(x)}; must be {' or '.join(map(str, DTYPES))}, contiguous behind its batch axis"
        )


def _layout(x: Tensor) -> str:
    return f"{x.dtype} of shape {list(x.shape)}, strides {list(x.stride())}"
