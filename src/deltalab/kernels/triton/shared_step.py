"""The decode step of step.py on Hopper for heads of 128 channels: the state comes through shared memory.

A program has a head, and asks for its state before all else. What registers would hold of it bounds how many programs
of step.py a processor has; shared memory holds six states in bf16, all of them on their way while the programs filter,
normalise and activate. The state is read there twice: for S̄ᵀ(b ⊙ k) and S̄ᵀq, with the decay within the factors, and
for what is written back.

The sums over a state in bf16 are products of it as it is and its factors, each in three parts of bf16 that together are
the fp32 one. A state in fp32 is summed by threads, four rows each at a time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2

from deltalab.kernels.triton.gluon_parts import PLAIN, VECTOR, D, barrier, copy_async
from deltalab.kernels.triton.step import filtered, gate, keep, load_decay, load_gate, load_window, normalized, shift

WINDOW = gl.constexpr(gl.BlockedLayout([1, 4], [32, 1], [4, 1], [1, 0]))
"""The latest tokens of channels, a channel a thread."""
CHANNELS = gl.constexpr(gl.SliceLayout(1, WINDOW.value))
SUMS = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [4, 1], [16, 8]))
"""Value channels, and the factors that the state was multiplied by."""
QUARTERS = gl.constexpr(gl.BlockedLayout([1, 4], [1, 32], [4, 1], [1, 0]))
"""Sums of each warp."""
TOGETHER = gl.constexpr(gl.BlockedLayout([4, 1], [1, 32], [1, 4], [1, 0]))
"""The same, a channel a thread."""


@gluon.constexpr_function
def part_layout(vector):
    """Part of the state: 16 bytes a thread, of so many values, in four rows each."""
    return gl.BlockedLayout([4, vector], [vector // 4, 128 // vector], [4, 1], [1, 0])


@gluon.constexpr_function
def state_layout(vector):
    """In bf16 eight rows that a product reads together lie in different banks."""
    return gl.SwizzledSharedLayout(vector, 1, 8 if vector == 8 else 1, [1, 0])


@gluon.jit
def part(tile, PART: gl.constexpr, ROWS: gl.constexpr):
    """Rows of the state, or their factors."""
    return tile.slice(PART * ROWS, ROWS)


@gluon.jit
def factors(tile, WHICH: gl.constexpr, PART: gl.constexpr, ROWS: gl.constexpr, LAYOUT: gl.constexpr):
    """What rows of the state are multiplied by, [ROWS, 1]."""
    return part(tile.index(WHICH), PART, ROWS).load(gl.SliceLayout(1, LAYOUT))[:, None]


@gluon.jit
def three(x):
    """The bf16 whose sum is x, and nothing, [D, 2, 2]."""
    first = x.to(gl.bfloat16)
    x -= first.to(gl.float32)
    second = x.to(gl.bfloat16)
    third = (x - second.to(gl.float32)).to(gl.bfloat16)
    return gl.join(gl.join(first, second), gl.join(third, gl.zeros_like(third)))


@gluon.jit
def products(sS, e, q):
    """Sᵀe and Sᵀq [D] of a state in bf16."""
    sE = gl.allocate_shared_memory(gl.bfloat16, [D, 8], PLAIN)
    sE.store(gl.permute(gl.join(three(e), three(q)), (0, 3, 1, 2)).reshape([D, 8]))
    async_copy.wait_group(0)
    barrier()
    S = sS.permute((1, 0)).load(gl.DotOperandLayout(0, SUMS, 2))
    found = mma_v2(S, sE.load(gl.DotOperandLayout(1, SUMS, 2)), gl.zeros([D, 8], gl.float32, SUMS))
    of_e = gl.arange(0, 8, gl.SliceLayout(0, SUMS))[None, :] < 4
    Se = gl.convert_layout(gl.sum(gl.where(of_e, found, 0.0), 1), CHANNELS)
    Sq = gl.convert_layout(gl.sum(gl.where(of_e, 0.0, found), 1), CHANNELS)
    return Se, Sq


@gluon.jit
def sums(sS, e, q, LAYOUT: gl.constexpr, ROWS: gl.constexpr):
    """Sᵀe and Sᵀq [D] of a state in fp32."""
    sE = gl.allocate_shared_memory(gl.float32, [2, D], VECTOR)
    sE.index(0).store(e)
    sE.index(1).store(q)
    async_copy.wait_group(0)
    barrier()
    Se = gl.zeros([4, D], gl.float32, QUARTERS)
    Sq = gl.zeros([4, D], gl.float32, QUARTERS)
    for turn in gl.static_range(D // ROWS):
        S = part(sS, turn, ROWS).load(LAYOUT)
        Se += in_fours(S * factors(sE, 0, turn, ROWS, LAYOUT))
        Sq += in_fours(S * factors(sE, 1, turn, ROWS, LAYOUT))
    return of_warps(Se), of_warps(Sq)


@gluon.jit
def in_fours(rows):
    return gl.convert_layout(gl.sum(rows.reshape([4, 4, D]), 1), QUARTERS, assert_trivial=True)


@gluon.jit
def of_warps(quarters):
    return gl.convert_layout(gl.sum(gl.convert_layout(quarters, TOGETHER), 0), CHANNELS, assert_trivial=True)


@gluon.jit
def shared_step(
    qkv, g, b, w, a, delta, weight, past, arrivals, state, o, scale, qkv_row, g_row, b_row, w_row,
    H: gl.constexpr, HV: gl.constexpr, WIDTH: gl.constexpr, BW: gl.constexpr,
    DECAY: gl.constexpr, ERASE: gl.constexpr, WRITE: gl.constexpr, SOFTPLUS: gl.constexpr,
    RANGE: gl.constexpr, SIGMOID: gl.constexpr, SILU: gl.constexpr, NORM: gl.constexpr,
):  # fmt: skip
    """Args: as ``decode_step``'s, with K and V of D, the state aligned to 16 bytes; one program a value head."""
    VALUES: gl.constexpr = 4 if state.dtype.element_ty == gl.float32 else 8
    LAYOUT: gl.constexpr = part_layout(VALUES)
    ROWS: gl.constexpr = 4 * VALUES
    head = gl.program_id(0) % HV
    n = (gl.program_id(0) // HV).to(gl.int64)
    key_head = head // (HV // H)

    sS = gl.allocate_shared_memory(state.dtype.element_ty, [D, D], state_layout(VALUES))
    sF = gl.allocate_shared_memory(gl.float32, [2, D], VECTOR)
    row = gl.arange(0, ROWS, gl.SliceLayout(1, LAYOUT))[:, None]
    cells = row * D + gl.arange(0, D, gl.SliceLayout(0, LAYOUT))[None, :]
    state += (n * HV + head) * (D * D)
    for turn in gl.static_range(D // ROWS):
        copy_async(part(sS, turn, ROWS), state + turn * ROWS * D + cells)
    async_copy.commit_group()

    channels = gl.arange(0, D, CHANNELS)
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
    decay = gl.full([D], 1.0, gl.float32, CHANNELS)
    if DECAY > 0:
        decay = load_decay(g + n * g_row, a, delta, key_head, channels, real, D, DECAY, SOFTPLUS)
    erase = gl.full([D], 1.0, gl.float32, CHANNELS)
    if ERASE > 0:
        erase = gate(load_gate(b + n * b_row, key_head, channels, real, D, ERASE), RANGE)
    q = filtered(q_window, weight, q_channels, places, real, WIDTH, SILU)
    k = filtered(k_window, weight, k_channels, places, real, WIDTH, SILU)
    r = filtered(v_window, weight, v_channels, places, real, WIDTH, SILU)
    if WRITE > 0:
        r *= gate(load_gate(w + n * w_row, head, channels, real, D, WRITE), SIGMOID)
    q, k, own = normalized(q, k, NORM)
    if WIDTH > 1:
        shift(past, v_window, v_channels, places, real, WIDTH)
        keep(
            past, arrivals + n * H + key_head, q_window, k_window, q_channels, k_channels, places, real,
            WIDTH, HV // H,
        )  # fmt: skip
    sF.index(0).store(decay)
    sF.index(1).store(k)
    own *= scale
    q *= scale

    if VALUES == 8:
        erased, out = products(sS, decay * erase * k, decay * q)
    else:
        erased, out = sums(sS, decay * erase * k, decay * q, LAYOUT, ROWS)
    if ERASE > 0:
        r -= erased
    out += own * r
    gl.store(o + (n * HV + head) * D + channels, out.to(o.dtype.element_ty))
    r = gl.convert_layout(r, gl.SliceLayout(0, LAYOUT))[None, :]
    for turn in gl.static_range(D // ROWS):
        S = part(sS, turn, ROWS).load(LAYOUT).to(gl.float32)
        S *= factors(sF, 0, turn, ROWS, LAYOUT)
        S += factors(sF, 1, turn, ROWS, LAYOUT) * r
        gl.store(state + turn * ROWS * D + cells, S.to(state.dtype.element_ty))
