"""How a call runs: widths, chunk length, operand dtype and launch configuration, from shapes and dtypes alone."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from triton import knobs

INTERPRETED = knobs.runtime.interpret
"""Kernels run in Triton's interpreter, on CPU tensors; there a product of bf16 operands comes out wrong."""


NARROWEST = 64
"""Least width of a block: on Hopper, Triton 3.6 to 3.8 read shared memory out of bounds in products of blocks of 32
bf16 (triton-lang/triton issues 10486 and 11366)."""
VALUE_BLOCK = NARROWEST
"""Value channels in a block."""
LONGEST_CHUNK = 64
"""Most tokens in a chunk."""
GLUON_WIDTH, GLUON_CHUNK = 128, 64
"""Channels of keys (and values), and tokens in a chunk, that the kernels in Gluon are written for."""
CONFIGS: dict[str, dict[str, int]] = {
    "activation": {"num_warps": 4, "num_stages": 1},
    "activation gradients": {"num_warps": 8, "num_stages": 1},
    "prologue": {"KB": 64, "num_warps": 4, "num_stages": 1},
    "persistent prologue": {"num_warps": 4, "num_stages": 1},
    "steep prologue": {"KB": 64, "num_warps": 8, "num_stages": 1},
    "forward": {"num_warps": 4, "num_stages": 3},
    "backward": {"num_warps": 4, "num_stages": 3},
    "value gradients": {"num_warps": 4, "num_stages": 1},
    "key gradients": {"KB": 64, "num_warps": 8, "num_stages": 3},
    "steep key gradients": {"KB": 64, "num_warps": 8, "num_stages": 1},
    "merged gradients": {"num_warps": 8, "num_stages": 1},
}
"""Key channels in a block, warps, and stages of the software pipeline where shared memory has room for them."""


class Inputs(NamedTuple):
    """What has a row for each token: q, k [B, T, H, K]; v [B, T, HV, V]; g, b none or [B, T, H(, K)]; w none or
    [B, T, HV(, V)]. Or the gradients of these."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor | None
    b: Tensor | None
    w: Tensor | None


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program may take."""
    if device.type != "cuda":
        return 227 * 1024
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


@lru_cache(maxsize=64)
def has_warpgroup_products(device: torch.device) -> bool:
    """Whether a GPU is a Hopper, which alone has the products that a kernel in Gluon is written for."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9


@lru_cache(maxsize=64)
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@dataclass(frozen=True, eq=False)
class Plan:
    """Constants of one call's kernels. ``plan_of`` gives equal calls the same one, which is quickly looked up by.

    Attributes:
        heads, value_heads, width, values: H, HV, K, V.
        decay, erase, write: 0 none, 1 one value per head, 2 one per channel.
        chunk: tokens in a chunk.
        narrow: storage of what lies between kernels.
        shared: bytes of shared memory that a program may take.
        precision: of fp32 products.
        hopper: whether it has warpgroup products.
    """

    heads: int
    value_heads: int
    width: int
    values: int
    decay: int
    erase: int
    write: int
    chunk: int
    narrow: torch.dtype
    shared: int
    precision: str
    hopper: bool

    @property
    def merges(self) -> bool:
        """Whether the gradients but for those of steep chunks may be one kernel's (merged_gradients.py), in bf16."""
        return self.persists and self.value_heads == self.heads and self.values == GLUON_WIDTH

    @property
    def persists(self) -> bool:
        """Whether the prologue may be the one of programs that stay (persistent_prologue.py), in bf16."""
        return self.hopper and self.decay == 2 and (self.width, self.chunk) == (GLUON_WIDTH, GLUON_CHUNK)

    @property
    def rows(self) -> bool:
        """Whether E, Qγ and Kt are q and k with scaled rows."""
        return self.decay != 2 and self.erase != 2

    @property
    def through_registers(self) -> bool:
        """Whether the passes over the state take factors to their products through registers, which leaves room for a
        third stage of the pipeline. There is room where q and k are the factors; with wide ones registers are what is
        short."""
        return not self.rows and self.padded_width <= 128

    @property
    def padded_width(self) -> int:
        return max(NARROWEST, power_of_two(self.width))

    @property
    def state_programs(self) -> int:
        """Programs of a kernel over the state for each sequence."""
        return self.value_heads * -(-self.values // VALUE_BLOCK)

    def constants(self, kernel: Any, config: str) -> dict[str, Any]:
        """A kernel's constants that follow from the plan, and its launch configuration."""
        constants = {
            "H": self.heads,
            "HV": self.value_heads,
            "K": self.width,
            "V": self.values,
            "C": self.chunk,
            "BK": self.padded_width,
            "BV": VALUE_BLOCK,
            "DECAY": self.decay,
            "ERASE": self.erase,
            "WRITE": self.write,
            "ROWS": self.rows,
            "REGISTERS": self.through_registers,
            "OP": tl.bfloat16 if self.narrow is torch.bfloat16 else tl.float32,
            "PRECISION": self.precision,
        }
        return {name: value for name, value in constants.items() if name in kernel.arg_names} | self.launch(config)

    def launch(self, kernel: str) -> dict[str, Any]:
        """Block of key channels, warps and stages of a kernel."""
        config = dict(CONFIGS[kernel])
        if kernel in ("forward", "backward") and self.padded_width > 128:
            config |= {"num_warps": 8, "num_stages": 2}
        if kernel == "prologue" and self.decay != 2:
            config["maxnreg"] = 168
        while config["num_stages"] > 1 and self.pipeline_bytes(kernel, config["num_stages"]) > self.shared:
            config["num_stages"] -= 1
        return config

    def pipeline_bytes(self, kernel: str, stages: int) -> int:
        """Bytes of shared memory that a kernel takes on Hopper with so many stages of its pipeline: what products read
        there has a buffer a stage, what goes through registers one less."""
        factor, square = self.chunk * self.padded_width, self.chunk**2
        values, state = self.chunk * VALUE_BLOCK, self.padded_width * VALUE_BLOCK
        fewer = stages - self.through_registers
        keys = 1 if self.rows else 2  # E and Kt, which in rows both are k
        held = (7, 5, 0)[self.decay]
        elements = {
            "forward": fewer * (keys * factor + 2 * square)
            + stages * factor
            + (stages - 1) * 2 * values
            + state
            + 2 * values,
            "backward": fewer * factor + stages * (keys * factor + 2 * square + values) + state + values,
            "key gradients": ((stages - 1) * 2 + stages * 3 + held) * NARROWEST * VALUE_BLOCK,
        }
        return elements.get(kernel, 0) * self.narrow.itemsize + 2048


def plan_of(x: Inputs) -> Plan:
    """The plan of a call."""
    kinds = tuple(0 if gate is None else gate.dim() - 2 for gate in (x.g, x.b, x.w))
    _, time, heads, width = x.q.shape
    return _plan(min(time, LONGEST_CHUNK), heads, width, x.v.shape[2:], kinds, x.q.dtype, x.q.device)


@lru_cache(maxsize=256)
def _plan(
    time: int,
    heads: int,
    width: int,
    values: torch.Size,
    kinds: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    return Plan(
        heads,
        *(values[0], width, values[1]),
        *kinds,
        chunk=min(LONGEST_CHUNK if width <= 128 else LONGEST_CHUNK // 2, max(16, power_of_two(time))),
        narrow=torch.bfloat16 if dtype is torch.bfloat16 and not INTERPRETED else torch.float32,
        shared=shared_memory(device),
        precision="tf32x3" if dtype is torch.float32 else "tf32",
        hopper=has_warpgroup_products(device),
    )


def power_of_two(n: int) -> int:
    """The least one that is not under n."""
    return 1 << (n - 1).bit_length()
