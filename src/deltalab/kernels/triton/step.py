"""The decode step: all of one token between its projections and o, one program per sequence, value head and part of V.

    x = SiLU(Σ_j weight_j ⊙ x_{t−j});   q, k = x / |x|;   S̄ = Diag(exp g) S
    r = w ⊙ v − S̄ᵀ(b ⊙ k);   S ← S̄ + k rᵀ;   o = scale · (S̄ᵀ q + (k · q) r)

o is Sᵀ q with both products of the state side by side, which reads S̄ once and waits for one reduction.

**The past of q and k is shared** by all programs of a key head, and shifts by a token. So a program that has read it
says so (``arrivals``), and the one that finds that all others have, shifts it: no program waits for another. Every
program's additions release what its threads have read, the last one's acquires that, so no read sees the shifted past.
The past of v is each program's own.
"""

import triton
import triton.language as tl

from deltalab.kernels.triton.parts import NORM_EPS, sigmoid, softplus


@triton.jit
def load_window(x, past, channels, places, real, WIDTH: tl.constexpr):
    """The latest WIDTH tokens of channels, oldest first, [N, BW] in fp32 and zero beyond; the newest alone for none."""
    newest = tl.load(x + channels, mask=real, other=0.0).to(tl.float32)[:, None]
    if WIDTH > 1:
        older = channels[:, None] * (WIDTH - 1) + places
        older = tl.load(past + older, mask=real[:, None] & (places < WIDTH - 1), other=0.0).to(tl.float32)
        return tl.where(places == WIDTH - 1, newest, older)
    else:  # noqa: RET505, Triton needs one branch
        return newest


@triton.jit
def shift(past, window, channels, places, real, WIDTH: tl.constexpr):
    """Keep all tokens of a window but the oldest."""
    kept = real[:, None] & (places > 0) & (places < WIDTH)
    tl.store(past + channels[:, None] * (WIDTH - 1) + places - 1, window.to(past.dtype.element_ty), mask=kept)


@triton.jit
def keep(
    past, arrivals, q_window, k_window, q_channels, k_channels, places, is_key,
    WIDTH: tl.constexpr, READERS: tl.constexpr,
):  # fmt: skip
    """Shift the past of q and k where all other programs of the key head have read it."""
    tl.debug_barrier()  # all threads of this program have read
    last = True
    if READERS > 1:
        last = tl.atomic_add(arrivals, 1, sem="acq_rel", scope="gpu") == READERS - 1
    if last:
        shift(past, q_window, q_channels, places, is_key, WIDTH)
        shift(past, k_window, k_channels, places, is_key, WIDTH)
        if READERS > 1:
            tl.store(arrivals, 0)


@triton.jit
def filtered(window, weight, channels, places, real, WIDTH: tl.constexpr, SILU: tl.constexpr):
    """The short convolution's newest value and its SiLU, where there are such, [N]."""
    if WIDTH > 0:
        taps = channels[:, None] * WIDTH + places
        window *= tl.load(weight + taps, mask=real[:, None] & (places < WIDTH), other=0.0).to(tl.float32)
    y = tl.sum(window, 1)
    if SILU:
        y *= sigmoid(y)
    return y


@triton.jit
def add_three(a, b, c, x, y, z):
    return a + x, b + y, c + z


@triton.jit
def normalized(q, k, NORM: tl.constexpr):
    """q and k by their L2 norms, where they are to be, and q · k; the program waits for one sum."""
    qk, qq, kk = tl.reduce((q * k, q * q, k * k), 0, add_three)
    if NORM:
        of_q = tl.rsqrt(qq + NORM_EPS)
        of_k = tl.rsqrt(kk + NORM_EPS)
        return q * of_q, k * of_k, qk * (of_q * of_k)
    else:  # noqa: RET505, Triton needs one branch
        return q, k, qk


@triton.jit
def load_gate(x, head, channels, real, D: tl.constexpr, KIND: tl.constexpr):
    """A value per channel [N] in fp32, of x [heads, D] (KIND 2), or [heads] (KIND 1) where it is the same for all."""
    place = head * D + channels if KIND == 2 else head + 0 * channels
    return tl.load(x + place, mask=real, other=0.0).to(tl.float32)


@triton.jit
def load_decay(g, a, delta, head, channels, real, K: tl.constexpr, DECAY: tl.constexpr, SOFTPLUS: tl.constexpr):
    """exp g per channel [N]."""
    g_ = load_gate(g, head, channels, real, K, DECAY)
    if SOFTPLUS:
        rate = tl.exp(tl.load(a + head).to(tl.float32))
        g_ = -rate * softplus(g_ + load_gate(delta, head, channels, real, K, DECAY))
    return tl.exp(g_)


@triton.jit
def gate(raw, RANGE: tl.constexpr):
    """RANGE · sigmoid(raw), or raw where RANGE is 0."""
    if RANGE == 0:
        return raw
    return RANGE * sigmoid(raw)


@triton.jit
def decode_step(
    qkv, g, b, w, a, delta, weight, past, arrivals, state, o, scale, qkv_row, g_row, b_row, w_row,
    H: tl.constexpr, HV: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    PARTS: tl.constexpr, SHARE: tl.constexpr,
    WIDTH: tl.constexpr, BW: tl.constexpr, DECAY: tl.constexpr, ERASE: tl.constexpr, WRITE: tl.constexpr,
    SOFTPLUS: tl.constexpr, RANGE: tl.constexpr, SIGMOID: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Args:
    qkv [B, 2·H·K + HV·V]; g, b [B, H(, K)]; w [B, HV(, V)]; each with the stride of its rows, the rest contiguous.
    a [H] and delta [H(, K)] of the decay's activation.
    weight: [channels, WIDTH] of the short convolution; WIDTH 0 without one. BW: WIDTH padded.
    past: [B, channels, WIDTH − 1] tokens before this one, newest last.
    arrivals: [B, H] programs that have read the past of q and k; zero between steps.
    state: [B, HV, K, V]. o: [B, HV, V].
    PARTS, SHARE: programs of a value head, and value channels of each, which it takes BV at a time.
    DECAY, ERASE, WRITE: 0 none, 1 one value per head, 2 one per channel.
    """
    READERS: tl.constexpr = HV // H * PARTS
    part = tl.program_id(0) % PARTS
    head = (tl.program_id(0) // PARTS) % HV
    n = (tl.program_id(0) // PARTS // HV).to(tl.int64)
    key_head = head // (HV // H)
    keys = tl.arange(0, BK)
    is_key = keys < K
    places = tl.arange(0, BW)[None, :]

    x = qkv + n * qkv_row
    if WIDTH > 1:
        past += n * (2 * H * K + HV * V) * (WIDTH - 1)
    q_channels = key_head * K + keys
    k_channels = H * K + q_channels
    q_window = load_window(x, past, q_channels, places, is_key, WIDTH)
    k_window = load_window(x, past, k_channels, places, is_key, WIDTH)
    q = filtered(q_window, weight, q_channels, places, is_key, WIDTH, SILU)
    k = filtered(k_window, weight, k_channels, places, is_key, WIDTH, SILU)
    q, k, own = normalized(q, k, NORM)
    if WIDTH > 1:
        keep(
            past, arrivals + n * H + key_head, q_window, k_window, q_channels, k_channels, places, is_key,
            WIDTH, READERS,
        )  # fmt: skip
    decay = tl.full([BK], 1.0, tl.float32)
    if DECAY > 0:
        decay = load_decay(g + n * g_row, a, delta, key_head, keys, is_key, K, DECAY, SOFTPLUS)
    bk = k
    if ERASE > 0:
        bk = k * gate(load_gate(b + n * b_row, key_head, keys, is_key, K, ERASE), RANGE)
    own *= scale
    q *= scale

    state += (n * HV + head) * K * V
    for first in range(part * SHARE, part * SHARE + SHARE, BV):
        values = first + tl.arange(0, BV)
        is_value = values < V
        cells = state + keys[:, None] * V + values[None, :]
        inside = is_key[:, None] & is_value[None, :]
        S = tl.load(cells, mask=inside, other=0.0).to(tl.float32)
        v_channels = 2 * H * K + head * V + values
        window = load_window(x, past, v_channels, places, is_value, WIDTH)
        r = filtered(window, weight, v_channels, places, is_value, WIDTH, SILU)
        if WRITE > 0:
            r *= gate(load_gate(w + n * w_row, head, values, is_value, V, WRITE), SIGMOID)
        S *= decay[:, None]
        if ERASE > 0:
            r -= tl.sum(S * bk[:, None], 0)
        out = tl.sum(S * q[:, None], 0) + own * r
        S += k[:, None] * r[None, :]
        if WIDTH > 1:
            tl.debug_barrier()  # all threads have read what the shift overwrites
            shift(past, window, v_channels, places, is_value, WIDTH)
        tl.store(o + (n * HV + head) * V + values, out.to(o.dtype.element_ty), mask=is_value)
        tl.store(cells, S.to(state.dtype.element_ty), mask=inside)
