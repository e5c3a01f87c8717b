"""Launching kernels with little work on the host: a compiled kernel is looked up by what it was compiled for.

Triton binds and specialises every argument anew at each launch, which takes longer than small problems do on the GPU.
"""

from typing import Any

import torch
from torch import Tensor

from deltalab.kernels.triton.plan import INTERPRETED, Plan

ALIGNED = 16
"""Bytes: Triton compiles for pointers that are so aligned, and others apart."""
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def launch(kernel: Any, config: str, plan: Plan, programs: int, args: tuple[Any, ...], **constants: Any) -> None:
    """Start programs of a kernel on the device of its first argument.

    Args:
        kernel: a ``triton.jit`` function whose constexpr parameters come last.
        config: name of its launch configuration.
        plan: of the call; gives the constants that are not named here.
        programs: how many.
        args: its arguments that are no constants.
    """
    device = args[0].device
    if INTERPRETED or device.type != "cuda":
        kernel[(programs,)](*args, **plan.constants(kernel, config), **constants)
    elif device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            _launch(kernel, config, plan, programs, args, constants)
    else:
        _launch(kernel, config, plan, programs, args, constants)


def _launch(
    kernel: Any, config: str, plan: Plan, programs: int, args: tuple[Any, ...], constants: dict[str, Any]
) -> None:
    key = (config, plan, args[0].device.index, *constants.values(), *map(_kind, args))
    known = _compiled.get(key)
    if known is None:
        values = {**plan.constants(kernel, config), **constants}
        compiled = kernel[(programs,)](*args, **values)
        _compiled[key] = compiled, tuple(values[name] for name in kernel.arg_names[len(args) :])
    else:
        compiled, rest = known
        compiled[(programs, 1, 1)](*args, *rest)


def _kind(x: Any) -> Any:
    """What Triton specialises an argument on; whole numbers are kept out of that by the kernels."""
    if isinstance(x, Tensor):
        return x.dtype if x.data_ptr() % ALIGNED == 0 else (x.dtype, "unaligned")
    return None if x is None else type(x)
