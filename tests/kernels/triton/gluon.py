"""Kernels in Gluon on the CPU, for Triton's interpreter knows none: ``OnCpu`` stands in a kernel's place.

A kernel's own functions run as Python, one program after another, on blocks that are torch tensors. Layouts mean
nothing here, and a program's threads do not race: a missing barrier or fence does not show. What shows is the algebra,
and

    memory that is read or written outside of a tensor
    shared memory read before what was asked for is waited for: until then it is NaN
    an operand in shared memory that changes before the product that reads it is waited for, or a result used before
"""

import itertools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import ConstexprFunction

Value = Any
"""A block, a number, or a tuple of these."""


class Block(Tensor):
    """A block of values, as a kernel sees it: nothing changes in place."""

    def to(self, dtype: torch.dtype, bitcast: bool = False) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.view(dtype) if bitcast else super().to(dtype)

    def split(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.unbind(-1)

    def __iadd__(self, other: Value) -> Any:
        return self + other

    def __isub__(self, other: Value) -> Any:
        return self - other

    def __imul__(self, other: Value) -> Any:
        return self * other

    def __itruediv__(self, other: Value) -> Any:
        return self / other


def block(x: Value) -> Block:
    return torch.as_tensor(x).as_subclass(Block)


@dataclass(frozen=True)
class Pointer:
    """Places in a tensor's memory."""

    memory: Tensor
    places: Value = 0

    @property
    def dtype(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(element_ty=self.memory.dtype)

    def __add__(self, places: Value) -> "Pointer":
        return Pointer(self.memory, self.places + places)

    def __sub__(self, places: Value) -> "Pointer":
        return self + -places

    def chosen(self, mask: Value) -> tuple[Tensor, Tensor]:
        """Places and which of them are meant, broadcast; those are within the tensor."""
        places, mask = torch.broadcast_tensors(torch.as_tensor(self.places), torch.as_tensor(mask))
        meant = places[mask]
        outside = meant[(meant < 0) | (meant >= self.memory.numel())]
        assert not outside.numel(), f"places {outside[:4].tolist()} of a tensor of {self.memory.numel()}"
        return places, mask

    def read(self, mask: Value = True, other: Value = 0) -> Block:
        places, mask = self.chosen(mask)
        found = torch.full(places.shape, float(other)).to(self.memory.dtype)
        found[mask] = self.memory[places[mask]]
        return block(found)

    def write(self, value: Value, mask: Value = True) -> None:
        places, mask = self.chosen(mask)
        self.memory[places[mask]] = torch.as_tensor(value).broadcast_to(places.shape)[mask].to(self.memory.dtype)


@dataclass(frozen=True)
class Shared:
    """A tile of shared memory, or a view of one."""

    memory: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.memory.shape)

    def load(self, layout: object) -> Block:
        return block(self.memory.clone())

    def store(self, value: Value) -> None:
        assert tuple(value.shape) == self.shape
        self.memory.copy_(value)

    def permute(self, order: tuple[int, ...]) -> "Shared":
        return Shared(self.memory.permute(order))

    def slice(self, start: int, length: int, dim: int = 0) -> "Shared":
        return Shared(self.memory.narrow(dim, start, length))

    def index(self, place: int) -> "Shared":
        return Shared(self.memory[place])


@dataclass
class Product:
    """One that was begun: of what its operands were then, which must not change before it is waited for."""

    result: Block
    operands: list[tuple[Tensor, Tensor]]
    done: bool = False

    def finish(self) -> None:
        for now, then in self.operands:
            assert torch.equal(now.nan_to_num(), then.nan_to_num()), (
                "an operand changed before its product was waited for"
            )
        self.done = True


@dataclass
class Program:
    """What a program has begun and not waited for."""

    number: int
    count: int
    products: list[Product] = field(default_factory=list)
    asked: list[tuple[Shared, Pointer, Value]] = field(default_factory=list)
    groups: list[list[tuple[Shared, Pointer, Value]]] = field(default_factory=list)

    def ask(self, slot: Shared, source: Pointer, mask: Value = True) -> None:
        slot.memory.fill_(torch.nan)
        self.asked.append((slot, source, mask))

    def commit(self) -> None:
        self.groups.append(self.asked)
        self.asked = []

    def wait(self, left: int) -> None:
        while len(self.groups) > left:
            for slot, source, mask in self.groups.pop(0):
                slot.memory.copy_(source.read(mask))

    def multiply(self, a: Value, b: Shared, acc: Value, use_acc: bool = True, is_async: bool = False) -> Value:
        one, two = (x.memory if isinstance(x, Shared) else x for x in (a, b))
        result = one.float() @ two.float()
        if use_acc:
            result = result + (acc.result if isinstance(acc, Product) else acc)
        product = Product(block(result), [(x.memory, x.memory.clone()) for x in (a, b) if isinstance(x, Shared)])
        if not is_async:
            return product.result
        self.products.append(product)
        return product

    def wait_products(self, left: int, deps: tuple[Value, ...]) -> Value:
        while len(self.products) > left:
            self.products.pop(0).finish()
        for dep in deps:
            assert not isinstance(dep, Product) or dep.done, "a product is used that was not waited for"
        results = tuple(dep.result if isinstance(dep, Product) else dep for dep in deps)
        return results if len(results) > 1 else results[0]


def counting(x: Value) -> Value:
    """An argument that is no tensor: one that counts is a block of its own."""
    return block(torch.tensor(x, dtype=torch.int32)) if isinstance(x, int) else x


def memory_of(x: Tensor) -> Tensor:
    """All from a tensor's first element to its last; of a slice also what lies between."""
    last = sum((count - 1) * stride for count, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((last + 1 if x.numel() else 0,), (1,))


def nothing(*_: object, **__: object) -> None:
    """Of what has no meaning here: layouts, fences, barriers."""


def as_it_is(x: Value, *_: object, **__: object) -> Value:
    return x


def reduced(x: Value, axis: int, combine: Callable[..., Value]) -> Value:
    """Of a block, or of several at once."""
    several = isinstance(x, tuple)
    xs = x if several else (x,)
    while xs[0].shape[axis] > 1:
        firsts, seconds = zip(*(one.chunk(2, axis) for one in xs), strict=True)
        xs = combine(*firsts, *seconds)
        xs = xs if several else (xs,)
    xs = tuple(one.squeeze(axis) for one in xs)
    return xs if several else xs[0]


def scanned(x: Block, axis: int, combine: Callable[..., Value]) -> Block:
    return block(torch.stack(list(itertools.accumulate(x.unbind(axis), combine)), axis))


def added(pointer: Pointer, value: Value, **_: object) -> Block:
    """What was there before: no other program is under way."""
    before = pointer.read()
    pointer.write(before + value)
    return before


def language(program: Program) -> types.SimpleNamespace:
    """What kernels use of ``gluon.language``, and what they share with others of ``triton.language``."""
    return types.SimpleNamespace(
        **{name: getattr(torch, name) for name in ("float32", "bfloat16", "int32", "int64")},
        **{name: getattr(torch, name) for name in ("abs", "exp", "exp2", "log", "permute", "rsqrt", "where")},
        **dict.fromkeys(
            (
                *("BlockedLayout", "SliceLayout", "DotOperandLayout", "NVMMADistributedLayout"),
                *("NVMMASharedLayout", "SwizzledSharedLayout", "debug_barrier"),
            ),
            nothing,
        ),
        **dict.fromkeys(("convert_layout", "multiple_of", "max_contiguous"), as_it_is),
        allocate_shared_memory=lambda dtype, shape, layout: Shared(torch.full(shape, torch.nan, dtype=dtype)),
        arange=lambda start, stop, layout: block(torch.arange(start, stop, dtype=torch.int32)),
        associative_scan=scanned,
        atomic_add=added,
        full=lambda shape, value, dtype, layout=None: block(torch.full(shape, value, dtype=dtype)),
        join=lambda one, two: torch.stack((one, two), -1),
        load=lambda pointer, mask=True, other=0: pointer.read(mask, other),
        map_elementwise=lambda function, *xs: function(*torch.broadcast_tensors(*map(block, xs))),
        max=lambda x, axis: x.amax(axis),
        maximum=lambda one, two: torch.maximum(block(one), block(two)),
        min=lambda x, axis: x.amin(axis),
        minimum=lambda one, two: torch.minimum(block(one), block(two)),
        num_warps=lambda: 4,
        num_programs=lambda axis: block(program.count),
        program_id=lambda axis: block(program.number),
        range=turns,
        reduce=reduced,
        static_range=range,
        store=lambda pointer, value, mask=True: pointer.write(value, mask),
        sum=lambda x, axis: x.sum(axis),
        zeros_like=torch.zeros_like,
        zeros=lambda shape, dtype, layout: block(torch.zeros(shape, dtype=dtype)),
    )


def turns(start: Value, stop: int, step: Value = 1, **_: object) -> Iterator[Block]:
    return (block(turn) for turn in range(int(start), int(stop), int(step)))


class OnCpu:
    """A kernel in Gluon that runs on CPU tensors.

    Args:
        kernel: a ``gluon.jit`` function.
        by_hand: its functions in assembler, in Python.
    """

    def __init__(self, kernel: Any, by_hand: dict[str, Callable[..., Value]]) -> None:
        self.kernel, self.by_hand = kernel, by_hand
        self.arg_names = kernel.arg_names

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        def run(*args: Any, **constants: Any) -> None:
            given = [Pointer(memory_of(x)) if isinstance(x, Tensor) else counting(x) for x in args]
            values = dict(zip(self.arg_names, given, strict=False))
            values |= {name: value for name, value in constants.items() if name in self.arg_names}
            for number in range(grid[0]):
                self.function(Program(number, grid[0]))(**values)

        return run

    def function(self, program: Program) -> types.FunctionType:
        """The kernel as a Python function of a program."""
        within = {
            **dict.fromkeys(("gl", "tl"), language(program)),
            "copy_async": program.ask,
            "async_copy": types.SimpleNamespace(commit_group=program.commit, wait_group=program.wait),
            "mma_v2": lambda a, b, acc: a.float() @ b.float() + acc,
            "warpgroup_mma": program.multiply,
            "warpgroup_mma_wait": program.wait_products,
            **dict.fromkeys(("fence_async_shared", "barrier"), nothing),
        }
        return self.translated(self.kernel, within, {})

    def translated(self, function: Any, within: dict[str, Any], known: dict[str, Any]) -> types.FunctionType:
        """A Gluon function as a Python one, with all that it calls."""
        globals_ = function.fn.__globals__
        scope: dict[str, Any] = {"__builtins__": globals_["__builtins__"]}
        result = known[function.fn.__qualname__] = types.FunctionType(
            function.fn.__code__, scope, function.fn.__name__, function.fn.__defaults__
        )
        for name in function.fn.__code__.co_names:
            value = globals_.get(name)
            if name in within or name in self.by_hand:
                scope[name] = within.get(name) or self.by_hand[name]
            elif isinstance(value, gluon.language.constexpr):
                scope[name] = value.value
            elif isinstance(value, ConstexprFunction):  # they make layouts
                scope[name] = nothing
            elif hasattr(value, "is_gluon") or isinstance(value, InterpretedFunction):
                scope[name] = known.get(value.fn.__qualname__) or self.translated(value, within, known)
        return result
