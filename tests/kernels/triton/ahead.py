"""Compile ahead of time, without a GPU, what the operators would launch: a program, because it must not be interpreted.

    python -m tests.kernels.triton.ahead CAPABILITY SHARED < calls.json

reads calls (the arguments of ``call``, or of what "of" names in ``FORMS``) and prints for each kernel a JSON
line: name, registers, spills (bytes of local memory), shared memory in bytes, rows of a product's largest warp layout,
values of products with their signs flipped, loads that its first loop waits for.
"""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

from deltalab.kernels.triton import activate, decode, passes, plan, short_conv
from deltalab.kernels.triton.api import gated_delta_rule

KERNELS = {
    activate: ("activation", "activation_gradients"),
    passes: (
        *("prologue", "persistent_prologue", "state_forward", "state_backward"),
        *("value_gradients", "key_gradients", "merged_gradients"),
    ),
}
PROCESSORS = 132
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


class Recorder:
    """Stands in a kernel's place and keeps what it is launched with."""

    def __init__(self, kernel: Any, launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]]) -> None:
        self._kernel, self._launches = kernel, launches
        self.arg_names = kernel.arg_names

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **options: self._launches.append((self._kernel, args, options))


def call(dtype: str, shape: tuple[int, ...], kinds: tuple[int, int, int]) -> list[Any]:
    """The launches of a forward and a backward pass of raw inputs; kinds are those of g, b, w: 0 none, 1 a head, 2 a
    channel."""
    batch, time, heads, group, width, values = shape
    kind = getattr(torch, dtype)

    def gate(which: int, heads: int, width: int) -> torch.Tensor | None:
        full = (batch, time, heads, width)
        return None if not which else torch.zeros(full[: which + 2], dtype=kind, requires_grad=True)

    q, k = (torch.zeros(batch, time, heads, width, dtype=kind, requires_grad=True) for _ in range(2))
    v = torch.zeros(batch, time, heads * group, values, dtype=kind, requires_grad=True)
    g, b = gate(kinds[0], heads, width), gate(kinds[1], heads, width)
    w = gate(kinds[2], heads * group, values)
    raw = {"normalize": True, "erase_range": 1.0 if kinds[1] else 0.0, "write_sigmoid": kinds[2] > 0}
    decay = None if g is None else (torch.zeros(heads), torch.zeros(g.shape[2:]))
    launches: list[Any] = []
    with contextlib.ExitStack() as patched:
        for module, names in KERNELS.items():
            recorders = {name: Recorder(getattr(module, name), launches) for name in names}
            patched.enter_context(mock.patch.multiple(module, **recorders))
        o, _ = gated_delta_rule(q, k, v, g, b, w, decay=decay, **raw)
        o.sum().backward()
    return launches


def token(
    dtype: str, shape: tuple[int, ...], kinds: tuple[int, int, int], state: str = "float32", taps: int = 4
) -> list[Any]:
    """The launch of a decode step with everything activated in the kernel; shape (B, H, group, K, V)."""
    batch, heads, group, width, values = shape
    kind = getattr(torch, dtype)
    channels = (2 * width + group * values) * heads

    def gate(which: int, *full: int) -> torch.Tensor | None:
        return torch.zeros(full[: which + 1], dtype=kind) if which else None

    g = gate(kinds[0], batch, heads, width)
    launches: list[Any] = []
    kernels = {name: Recorder(getattr(decode, name), launches) for name in ("step", "shared_step")}
    with mock.patch.multiple(decode, **kernels):
        decode.decode_step(
            torch.zeros(batch, channels, dtype=kind),
            torch.zeros(batch, heads * group, width, values, dtype=getattr(torch, state)),
            heads=heads,
            g=g,
            b=gate(kinds[1], batch, heads, width),
            w=gate(kinds[2], batch, heads * group, values),
            decay=None if g is None else (torch.zeros(heads), torch.zeros(g.shape[1:])),
            erase_range=1.0,
            write_sigmoid=True,
            conv_weight=torch.zeros(channels, taps, dtype=kind) if taps else None,
            conv_state=torch.zeros(batch, channels, taps - 1, dtype=kind) if taps else None,
            arrivals=torch.zeros(batch, heads, dtype=torch.int32),
            silu=True,
            normalize=True,
        )
    return launches


def convolution(dtype: str, shape: tuple[int, int, int], taps: int, bias: bool, packed: bool) -> list[Any]:
    """The launches of a short convolution [B, T, C] and of its backward pass."""
    x = torch.zeros(shape, dtype=getattr(torch, dtype))
    weight, constant = torch.zeros(shape[2], taps), torch.zeros(shape[2]) if bias else None
    past = torch.zeros(shape[1], dtype=torch.int64) if packed else None
    launches: list[Any] = []
    recorders = {name: Recorder(getattr(short_conv, name), launches) for name in ("forward", "backward")}
    with mock.patch.multiple(short_conv, **recorders):
        sizes = [shape[2]]
        parts = short_conv.short_convolution(x, weight, constant, past, sizes)
        short_conv.short_convolution_backward(x, weight, constant, past, parts)
    return launches


FORMS = {"call": call, "token": token, "convolution": convolution}


def compiled(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], capability: int) -> Any:
    """A launch's kernel for a GPU of this compute capability, pointers aligned as torch allocates them."""
    names = [parameter.name for parameter in kernel.params]
    values = dict(zip(names, args, strict=False)) | {n: options[n] for n in names if n in options}
    settings = {name: value for name, value in options.items() if name not in names}
    constants, signature, aligned = {}, {}, {}
    for place, name in enumerate(names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            aligned[(place,)] = [["tt.divisibility", 16]]
        elif kernel.params[place].is_constexpr or value is None:
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    source = GluonASTSource if kernel.is_gluon() else ASTSource
    source = source(kernel, signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)


def resources(kernel: Any) -> dict[str, int]:
    """Registers, bytes of local memory and of shared memory, from the cubin; the rows that a product's warps span; how
    many values of products have their signs flipped as they come; loads in its first loop that are not copied ahead."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found, said
    spans = [16 * int(warps) for warps in re.findall(r"nvidia_mma<.*?warpsPerCTA = \[(\d+)", kernel.asm["ttgir"])]
    flipped = set(re.findall(r"xor\.b32\s+%r\d+, (%r\d+), -2147483648", kernel.asm["ptx"]))
    products = {
        name for line in re.findall(r"wgmma\.mma_async\S+ \{(.*?)\}", kernel.asm["ptx"]) for name in line.split(",")
    }
    loop = re.search(r"^( *)\S+ = scf\.for.*?^\1\}", kernel.asm["ttgir"], re.DOTALL | re.MULTILINE)
    return {
        "registers": int(found[1]),
        "stack": int(found[2]),
        "shared": kernel.metadata.shared,
        "rows": max(spans, default=0),
        "flipped": len(flipped & products),
        "waits": loop[0].count("tt.load") if loop else 0,
    }


def main() -> None:
    """Compile what standard input asks for."""
    capability, shared = int(sys.argv[1]), int(sys.argv[2])
    plan.shared_memory = lambda device: shared
    decode.has_warpgroup_products = plan.has_warpgroup_products = lambda device: capability == 90
    decode.processors = passes.processors = lambda device: PROCESSORS
    seen = set()
    for request in json.load(sys.stdin):
        for kernel, args, options in FORMS[request.pop("of", "call")](**request):
            key = str((kernel.fn.__name__, [getattr(a, "dtype", a) for a in args], options))
            if key not in seen:
                seen.add(key)
                found = resources(compiled(kernel, args, options, capability))
                steep = options.get("STEEP", False)
                print(json.dumps({"kernel": kernel.fn.__name__, "steep": steep, "call": request, **found}), flush=True)


if __name__ == "__main__":
    main()
