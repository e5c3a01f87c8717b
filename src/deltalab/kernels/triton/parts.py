"""Device functions that several stages share: products, activations, pair scores, the triangular inverse.

Shapes in capitals are constexpr: C tokens in a chunk, BK and BV padded widths. Logarithms of decays are to base 2.

Scores with a decay per channel split the pair factor exp2(G_i − G_j) at an anchor, exp2(G_i − a) · exp2(a − G_j). Where
a chunk decays by at most 2 SPAN, which is the usual case, a = G_C / 2 serves all of it (for j > i the product may
overflow, and is not used). A chunk beyond that is *steep*: blocks of 2, 4, 8 … tokens have an anchor each, at the last
token of their first half, between their second half (rows) and their first half (columns); no exponent is positive, and
no decay too strong. Blocks of LEAF tokens that decay by at most SPAN take one anchor for all of their pairs.
"""

import triton
import triton.language as tl

from deltalab.kernels import norm

LOG2E = tl.constexpr(1.4426950408889634)
SPAN = tl.constexpr(100.0)
"""Factors stay between 2^-SPAN and 2^SPAN, which leaves what they multiply in fp32's and bf16's range."""
LEAF_LEVEL = tl.constexpr(4)
LEAF = tl.constexpr(16)
NORM_EPS = tl.constexpr(norm.NORM_EPS)
GROUP = tl.constexpr(32)
"""Chunks that a program of a launch for steep ones looks at together."""


@triton.jit
def dot(a, b, PRECISION: tl.constexpr):
    """a @ b in fp32. Precision counts where the operands are fp32 (tf32, tf32x3, ieee)."""
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def in_registers(x):
    """x by way of registers: for an operation stands between where it is loaded and a product.

    Of a product's first operand in a pipelined loop, shared memory is then free a stage earlier. And what is loaded
    before a loop, and used after it, waits for its load there: Triton writes to shared memory right behind a load.
    """
    return x + 0.0


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def half_decay(last):
    """log2 η of a chunk with log2 γ_C: half of it, or −SPAN where that is less and both γ_C and η² are nothing."""
    return tl.maximum(0.5 * last, -SPAN)


@triton.jit
def sums_before(x, C: tl.constexpr, KB: tl.constexpr):
    """Σ_{s < t} x_s [C, KB], exact too where x grows steeply; no product, which Triton would take for a chained one."""
    rows = tl.arange(0, C)[:, None]
    earlier = tl.gather(x, tl.broadcast_to(tl.maximum(rows - 1, 0), [C, KB]), 0)
    return tl.cumsum(tl.where(rows > 0, earlier, 0.0), 0)


@triton.jit
def levels(C: tl.constexpr):
    """One more than log2 C."""
    return 7 if C == 64 else 6 if C == 32 else 5


@triton.jit
def same_block(WIDTH, C: tl.constexpr):
    """Pairs of tokens in one block of WIDTH, [C, C]."""
    block = tl.arange(0, C) // WIDTH
    return block[:, None] == block[None, :]


@triton.jit
def any_steep(steep, base, tiles):
    """Whether any of GROUP chunks from ``base`` on is marked as steep."""
    places = base + tl.arange(0, GROUP)
    return tl.max(tl.load(steep + places, mask=places < tiles, other=0), 0) != 0


@triton.jit
def first_level(G, C: tl.constexpr, KB: tl.constexpr):
    """The level to begin with: LEAF where blocks of LEAF tokens decay by at most SPAN, else 2."""
    blocks = tl.reshape(G, [C // LEAF, LEAF, KB])
    widest = tl.max(tl.max(tl.max(blocks, 1) - tl.min(blocks, 1), 1), 0)
    return tl.where(widest <= SPAN, LEAF_LEVEL, 1)


@triton.jit
def level_factors(G, level, first, C: tl.constexpr, KB: tl.constexpr):
    """Factors of rows and columns [C, KB] and pairs [C, C] of a level: blocks of 2^level tokens.

    With a block's last token of the first half as its anchor, rows of the second half and columns of the first have
    exponents ≤ 0; the others are zero, unless the block is a leaf.
    """
    rows = tl.arange(0, C)
    width = 1 << level
    second = (rows % width >= width // 2)[:, None]
    leaf = (level == first) & (level == LEAF_LEVEL)
    anchor = (rows // width) * width + width // 2 - 1
    chosen = tl.where(rows[None, :] == anchor[:, None], 1.0, 0.0)
    off = G - tl.dot(chosen, G, input_precision="tf32")  # rounded alike for all of a block, which is all it takes
    up = tl.where(second | leaf, tl.exp2(off), 0.0)
    down = tl.where((second == 0) | leaf, tl.exp2(-off), 0.0)
    return up, down, same_block(width, C)


@triton.jit
def anchored_scores(bk, q, k, G, C: tl.constexpr, KB: tl.constexpr, ERASE: tl.constexpr, OP: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """Erase and causal scores [C, C] under any decay, level by level; their upper triangles are arbitrary."""
    P = tl.zeros([C, C], tl.float32)
    first = first_level(G, C, KB)
    if first == 1:
        own = tl.sum(q * k, 1)
        P += tl.where(same_block(1, C), own[:, None], 0.0)
    A = tl.zeros([C, C], tl.float32)
    for level in range(first, levels(C)):
        up, down, mask = level_factors(G, level, first, C, KB)
        columns = tl.trans((k * down).to(OP))
        P += tl.where(mask, dot((q * up).to(OP), columns, PRECISION), 0.0)
        if ERASE:
            A += tl.where(mask, dot((bk * up).to(OP), columns, PRECISION), 0.0)
    return A, P


@triton.jit
def unit_lower_inverse(A, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + A)^-1 of a strictly lower A [C, C] by merging blocks of 1, 2, 4 …: X ← X − X A_level X."""
    rows = tl.arange(0, C)
    eye = rows[:, None] == rows[None, :]
    X = tl.where(eye, 1.0, tl.where(_merges(2, C), -A, 0.0))
    for level in tl.static_range(2, 7):
        if (1 << level) <= C:
            merged = tl.where(_merges(1 << level, C), A, 0.0)
            X -= dot(dot(X, merged, PRECISION), X, PRECISION)
    return X


@triton.jit
def _merges(WIDTH: tl.constexpr, C: tl.constexpr):
    """Pairs of second-half row and first-half column in one block of WIDTH."""
    second = (tl.arange(0, C) % WIDTH) >= WIDTH // 2
    return same_block(WIDTH, C) & second[:, None] & (second[None, :] == 0)
