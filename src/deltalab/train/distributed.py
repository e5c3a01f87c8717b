"""The processes that train one trial together: who they are, and the little they say to each other.

Data parallelism: every rank computes the gradient of its rows of the batch, and all take the same step with the sum;
what of the model each holds is ``train.strategy``'s business. Gradients and weights go through NCCL on GPUs. Questions
and answers go through Gloo on the CPU: asking them every step never waits for a GPU, they may wait long for an
evaluation, and a rank that ended is noticed by its closed connection.
"""

import contextlib
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, ProcessGroup, Store
from torch.distributed.rendezvous import rendezvous

from deltalab.errors import ConfigError, DeltalabError, UsageError
from deltalab.spec.launcher import Device

T = TypeVar("T")

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for an answer; the main rank's evaluations and checkpoints have to fit."""

CONNECTION = ("gloo/transport", "ncclRemoteError")
"""Marks of errors that only say that another rank is gone."""


@dataclass(frozen=True)
class World:
    """The processes of a trial as one of them sees it. Alone, nothing is communicated.

    Attributes:
        rank: this process's number among all.
        size: how many there are.
        local_rank: this process's number on its machine.
        local_size: how many there are on a machine.
        control: the connections for questions and answers; None alone.
        store: strings that all ranks can read; None alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    control: ProcessGroup | None = field(default=None, repr=False, compare=False)
    store: Store | None = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this rank writes and decides."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True on every rank if true on one."""
        if self.size == 1:
            return flag
        vote = torch.tensor(int(flag))
        dist.all_reduce(vote, op=dist.ReduceOp.MAX, group=self.control)
        return bool(vote)

    def meet(self) -> None:
        """Wait until every rank is here.

        Raises:
            RuntimeError: one has ended.
        """
        self.any(False)

    def share(self, value: T) -> T:
        """The main rank's picklable value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's picklable value, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        box: list[T | None] = [None] * self.size
        dist.all_gather_object(box, value, group=self.control)
        return cast(list[T], box)

    def first_error(self, error: Exception) -> str:
        """Tell the others why this rank fails; returns what the first one to fail told, "" if a rank went silently.

        Whoever is left fails because its connections close, which is no reason of its own.
        """
        own = traceback.format_exception_only(error)[-1].strip()
        if self.store is None:
            return own
        told = "" if any(mark in own for mark in CONNECTION) else f"rank {self.rank}: {own}"
        with contextlib.suppress(RuntimeError):  # the main rank is gone, and the store with it
            told = self.store.compare_set("error", "", told).decode()
        return told

    def add(self, figures: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""
        if self.size > 1:
            dist.all_reduce(figures)

    def rows(self, batch_size: int) -> slice:
        """This rank's part of a batch; ``batch_size`` is a multiple of ``size``."""
        part = batch_size // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def total(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over all ranks, the same on each; what a rank has no figure of counts nothing there."""
        parts = self.gather(sums)
        return {name: sum(part.get(name, 0.0) for part in parts) for name in dict.fromkeys(n for p in parts for n in p)}

    def channel(self) -> ProcessGroup | None:
        """Connections of all ranks on the CPU beside ``control``, for a thread that talks at its own pace; None alone.

        Every rank asks at the same moment.
        """
        if self.size == 1:
            return None
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, ProcessGroup), "every rank is a member"
        return group


ALONE = World()
"""One process that trains by itself."""


@contextlib.contextmanager
def joined(device: Device) -> Iterator[World]:
    """Join the processes that the environment of ``torchrun`` names, for the length of the block.

    Without WORLD_SIZE, or where it is 1, the process is alone and torch.distributed stays untouched. A process that
    leaves by an exception takes the others with it: their next question fails. Between machines Gloo takes the
    interface of the machine's own name, or the one that GLOO_SOCKET_IFNAME names.

    Args:
        device: where the trial trains; with GPUs each process takes the one of its LOCAL_RANK.

    Raises:
        ConfigError: a variable is missing or wrong.
        UsageError: there is no GPU for this process.
        DeltalabError: the processes did not find each other.
    """
    world = _from_environment()
    if world.size == 1:
        yield world
        return
    on_gpu = pick_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(_gpu(world))
    try:
        store, rank, size = next(rendezvous("env://", world.rank, world.size, timeout=PATIENCE))
        dist.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size)
        control = world.channel()
    except (RuntimeError, ValueError) as error:
        place = " ".join(f"{name}={os.environ[name]}" for name in ("MASTER_ADDR", "MASTER_PORT"))
        cause = str(error).partition("\n")[0]
        raise DeltalabError(f"{place}: rank {world.rank} of {world.size} could not join: {cause}") from error
    try:
        yield replace(world, control=control, store=PrefixStore("deltalab", store))
    except BaseException:
        dist.destroy_process_group(control)  # the others notice
        if dist.group.WORLD is not None:
            dist.group.WORLD.abort()  # a GPU may be waiting for what never comes
        raise
    finally:
        dist.destroy_process_group()


def pick_device(device: Device) -> torch.device:
    """The device to train on.

    Raises:
        UsageError: a GPU was asked for and none is there.
    """
    if device is Device.cuda and not torch.cuda.is_available():
        raise UsageError("hydra.launcher.device=cuda: no GPU is visible here; allowed is auto or cpu")
    if device is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device.value)


def _from_environment() -> World:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    size = _number("WORLD_SIZE", range(1, 2**20))
    if not os.environ.get("MASTER_ADDR"):
        raise ConfigError("MASTER_ADDR", "(unset)", f"the machine of rank 0, as WORLD_SIZE={size}")
    _number("MASTER_PORT", range(1, 2**16))
    local_size = _number("LOCAL_WORLD_SIZE", range(1, size + 1)) if "LOCAL_WORLD_SIZE" in os.environ else size
    return World(_number("RANK", range(size)), size, _number("LOCAL_RANK", range(size)), local_size)


def _number(name: str, allowed: range) -> int:
    text = os.environ.get(name, "(unset)")
    if not text.isdecimal() or int(text) not in allowed:
        raise ConfigError(name, text, f"a whole number from {allowed.start} to {allowed.stop - 1}")
    return int(text)


def _gpu(world: World) -> int:
    """The GPU of this process: the only one it sees, or the one of its number on the machine."""
    count = torch.cuda.device_count()
    if count > 1 and world.local_rank >= count:
        raise UsageError(f"LOCAL_RANK={world.local_rank}: {count} GPUs are visible here; allowed is one process each")
    return world.local_rank if count > 1 else 0
