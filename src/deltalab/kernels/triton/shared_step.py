"""The decode step of step.py for heads of 128 channels where heads fill the device: the state through shared memory.

A program asks for its head's state before all else. What registers would hold of it bounds how many programs step.py
has on a processor; shared memory holds six states in bf16, and all of them are on their way while the programs filter,
normalise and activate. The state is then read twice: for both products of r and o, with the decay within what it is
multiplied by, and for what is written back.

Four rows of the state lie side by side, so that a thread sums over them alone, and reads their factors at once. The
barriers between parts of the state are for ptxas: of Triton 3.9 it would read all parts at once, in 200 registers a
thread in place of 72, and two programs would be on a processor.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from deltalab.kernels.triton.gluon_parts import D, barrier, copy_async
from deltalab.kernels.triton.parts import NORM_EPS
from deltalab.kernels.triton.step import filtered, gate, keep, load_decay, load_gate, load_window, shift

WARPS = gl.constexpr(4)
WINDOW = gl.constexpr(gl.BlockedLayout([1, 4], [32, 1], [4, 1], [1, 0]))
"""The latest tokens of channels, a channel a thread."""
FACTORS = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))


@gluon.constexpr_function
def state_layout(vector):
    """The state as [fours of rows, 4, channels]: 16 bytes a thread, of so many values, from each of four rows."""
    return gl.BlockedLayout([1, 4, vector], [vector // 4, 1, 128 // vector], [4, 1, 1], [2, 1, 0])


@gluon.jit
def part(tile, PART: gl.constexpr, VECTOR: gl.constexpr, LAYOUT: gl.constexpr):
    """Of a tile of fours of rows, so many that a thread has one."""
    return tile.slice(PART * VECTOR, VECTOR).load(LAYOUT)


@gluon.jit
def shared_step(
    qkv, g, b, w, a, delta, weight, past, arrivals, state, o, scale, qkv_row, g_row, b_row, w_row,
    H: gl.constexpr, HV: gl.constexpr, WIDTH: gl.constexpr, BW: gl.constexpr,
    DECAY: gl.constexpr, ERASE: gl.constexpr, WRITE: gl.constexpr, SOFTPLUS: gl.constexpr,
    RANGE: gl.constexpr, SIGMOID: gl.constexpr, SILU: gl.constexpr, NORM: gl.constexpr,
):  # fmt: skip
    """Args: as ``decode_step``'s, with K and V of D, one program a value head."""
    VECTOR: gl.constexpr = 4 if state.dtype.element_ty == gl.float32 else 8
    STATE: gl.constexpr = state_layout(VECTOR)
    ROWS: gl.constexpr = gl.SliceLayout(2, STATE)
    SUMS: gl.constexpr = gl.SliceLayout(1, STATE)
    COLUMNS: gl.constexpr = gl.SliceLayout(0, SUMS)
    PARTS: gl.constexpr = D // 4 // VECTOR
    head = gl.program_id(0) % HV
    n = (gl.program_id(0) // HV).to(gl.int64)
    key_head = head // (HV // H)

    sS = gl.allocate_shared_memory(
        state.dtype.element_ty, [D // 4, 4, D], gl.SwizzledSharedLayout(VECTOR, 1, 1, [2, 1, 0])
    )
    sF = gl.allocate_shared_memory(gl.float32, [4, D // 4, 4], FACTORS)
    four = gl.arange(0, VECTOR, gl.SliceLayout(1, ROWS))[:, None][:, :, None]
    row = gl.arange(0, 4, gl.SliceLayout(0, ROWS))[None, :][:, :, None]
    value = gl.arange(0, D, COLUMNS)[None, :][:, None, :]
    state += (n * HV + head) * (D * D)
    cells = (four * 4 + row) * D + value
    for turn in gl.static_range(PARTS):
        copy_async(sS.slice(turn * VECTOR, VECTOR), state + turn * VECTOR * 4 * D + cells)
    async_copy.commit_group()

    channels = gl.arange(0, D, gl.SliceLayout(1, WINDOW))
    places = gl.arange(0, BW, gl.SliceLayout(0, WINDOW))[None, :]
    real = channels < D
    x = qkv + n * qkv_row
    if WIDTH > 1:
        past += n * (2 * H + HV) * D * (WIDTH - 1)
    q_channels = key_head * D + channels
    k_channels = H * D + q_channels
    v_channels = 2 * H * D + head * D + channels
    q_window = load_window(x, past, q_channels, places, real, WIDTH)
    k_window = load_window(x, past, k_channels, places, real, WIDTH)
    v_window = load_window(x, past, v_channels, places, real, WIDTH)
    decay = gl.full([D], 1.0, gl.float32, gl.SliceLayout(1, WINDOW))
    if DECAY > 0:
        decay = load_decay(g + n * g_row, a, delta, key_head, channels, real, D, DECAY, SOFTPLUS)
    erase = gl.full([D], 1.0, gl.float32, gl.SliceLayout(1, WINDOW))
    if ERASE > 0:
        erase = gate(load_gate(b + n * b_row, key_head, channels, real, D, ERASE), RANGE)
    q = filtered(q_window, weight, q_channels, places, real, WIDTH, SILU)
    k = filtered(k_window, weight, k_channels, places, real, WIDTH, SILU)
    r = filtered(v_window, weight, v_channels, places, real, WIDTH, SILU)
    if WRITE > 0:
        r *= gate(load_gate(w + n * w_row, head, channels, real, D, WRITE), SIGMOID)
    own = scale * gl.sum(q * k, 0)
    if NORM:
        q_norm = gl.rsqrt(gl.sum(q * q, 0) + NORM_EPS)
        k_norm = gl.rsqrt(gl.sum(k * k, 0) + NORM_EPS)
        own *= q_norm * k_norm
        q *= q_norm
        k *= k_norm
    sF.index(0).store((decay * erase * k).reshape([D // 4, 4]))
    sF.index(1).store((decay * q * scale).reshape([D // 4, 4]))
    sF.index(2).store(decay.reshape([D // 4, 4]))
    sF.index(3).store(k.reshape([D // 4, 4]))
    r = gl.convert_layout(r, COLUMNS)
    if WIDTH > 1:
        shift(past, v_window, v_channels, places, real, WIDTH)
        keep(past, arrivals + n * H + key_head, q_window, k_window, q_channels, k_channels, places, real, WIDTH,
             HV // H)  # fmt: skip

    async_copy.wait_group(0)
    barrier()
    erased = gl.zeros([VECTOR, D], gl.float32, SUMS)
    out = gl.zeros([VECTOR, D], gl.float32, SUMS)
    for turn in gl.static_range(PARTS):
        barrier()
        S = part(sS, turn, VECTOR, STATE).to(gl.float32)
        if ERASE > 0:
            erased += gl.sum(S * part(sF.index(0), turn, VECTOR, ROWS)[:, :, None], 1)
        out += gl.sum(S * part(sF.index(1), turn, VECTOR, ROWS)[:, :, None], 1)
    if ERASE > 0:
        r -= gl.sum(erased, 0)
    out = gl.sum(out, 0) + own * r
    gl.store(o + (n * HV + head) * D + gl.arange(0, D, COLUMNS), out.to(o.dtype.element_ty))
    r = r[None, :][:, None, :]
    for turn in gl.static_range(PARTS):
        barrier()
        S = part(sS, turn, VECTOR, STATE).to(gl.float32) * part(sF.index(2), turn, VECTOR, ROWS)[:, :, None]
        S += part(sF.index(3), turn, VECTOR, ROWS)[:, :, None] * r
        gl.store(state + turn * VECTOR * 4 * D + cells, S.to(state.dtype.element_ty))
