"""Launching kernels with little work on the host: a compiled kernel is looked up by what it was compiled for.

Triton binds and specialises every argument anew at each launch, which takes longer than small problems do on the GPU.
"""

import functools
import operator
from typing import Any

import torch
from torch import Tensor

from deltalab.kernels.triton.plan import INTERPRETED, Plan

ALIGNED = 16
"""Bytes: Triton compiles for pointers that are so aligned, and others apart."""
_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def launch(
    kernel: Any,
    config: str,
    plan: Plan,
    programs: int,
    tensors: tuple[Tensor | None, ...],
    numbers: tuple[float, ...],
    **constants: Any,
) -> None:
    """Start programs of a kernel on the device of its first argument.

    Args:
        kernel: a ``triton.jit`` function of tensors, numbers and constants, in this order.
        config: name of its launch configuration.
        plan: of the call; gives the constants that are not named here.
        programs: how many.
        tensors: the first is not none.
        numbers: the kernel keeps whole ones out of what it is compiled for.
    """
    device = tensors[0].device  # type: ignore[union-attr]
    if INTERPRETED or device.type != "cuda":
        kernel[(programs,)](*tensors, *numbers, **plan.constants(kernel, config), **constants)
        return
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(kernel, config, plan, programs, tensors, numbers, **constants)
        return
    # Tensors go to what is compiled already as addresses, of which nobody asks what they are.
    addresses = [0 if x is None else x.data_ptr() for x in tensors]
    kinds = [None if x is None else x.dtype for x in tensors]
    key = (config, plan, *constants.values(), *kinds, _unaligned(addresses))
    known = _compiled.get(key)
    if known is None:
        values = {**plan.constants(kernel, config), **constants}
        compiled = kernel[(programs,)](*tensors, *numbers, **values)
        _compiled[key] = compiled, tuple(values[name] for name in kernel.arg_names[len(tensors) + len(numbers) :])
    else:
        compiled, rest = known
        compiled[(programs, 1, 1)](*addresses, *numbers, *rest)


def _unaligned(addresses: list[int]) -> tuple[int, ...]:
    """Which of them are."""
    bits = functools.reduce(operator.or_, addresses)
    return tuple(place for place, x in enumerate(addresses) if x % ALIGNED) if bits % ALIGNED else ()
