"""Checkpoints: weights, optimiser, RNG and position, written whole or not at all, beside the training.

checkpoints/step-00000200/position.json  and, where every process holds the whole model, as safetensors
                          model.safetensors  optimizer.safetensors
                          or, where processes hold shares, of each process its own (torch.distributed.checkpoint)
                          .metadata  __0_0.distcp  __1_0.distcp …

Either form is read by any number of processes under any strategy. The step loop waits for a copy in the CPU's memory
and no longer: a thread writes it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deltalab.train import shares
from deltalab.train.distributed import ALONE, World
from deltalab.train.strategy import has_shares, share_of, whole

WEIGHTS = "model.safetensors"
"""File of a model's weights, in a checkpoint of a whole model and, of a completed trial, in its run directory."""
OPTIMIZER = "optimizer.safetensors"
POSITION = "position.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Checkpoints:
    """Writes the checkpoints of a trial, one after another; a context at whose end the last one is written, or gone.

    Every rank has one. Where each holds the whole model the main one writes, else all do.

    Args:
        run_dir: the trial's run directory.
        module: the model, as it is trained.
        optimizer: its optimiser.
        keep: how many of the newest stay.
        check: called on the main rank before a checkpoint gets its name; raises where it has no right to any more.
        world: the ranks.
    """

    def __init__(
        self,
        run_dir: Path,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        keep: int = 1,
        check: Callable[[], None] = lambda: None,
        world: World = ALONE,
    ) -> None:
        self._root, self._module, self._optimizer = run_dir / "checkpoints", module, optimizer
        self._keep, self._check, self._world = keep, check, world
        self._together = has_shares(module)
        self._writer = shares.Writer(module, world) if self._together else _Whole()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with contextlib.suppress(Exception) if error else contextlib.nullcontext():
            self.wait()
        self._thread.shutdown()

    def begin(self, step: int, position: dict[str, Any]) -> None:
        """Copy the state after ``step`` steps and leave it to be written; waits for the checkpoint before.

        A folder appears under its name only when every file in it is on disk, so a reader never meets a half.

        Args:
            step: finished optimiser steps.
            position: JSON values to come back with ``load_checkpoint``.

        Raises:
            Exception: whatever the checkpoint before failed of.
        """
        self.wait()
        if not self._together and not self._world.main:
            return
        part = self._make_part(step) if self._world.main else None
        state = state_of(self._module, self._optimizer)
        write = self._writer.copier(state, self._world.share(part) if self._together else part)
        self._pending = self._thread.submit(self._write, write, part, {"step": step, **position})

    def wait(self) -> None:
        """Wait until the checkpoint that was begun is there.

        Raises:
            Exception: whatever it failed of; nothing is left of it.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _make_part(self, step: int) -> Path:
        for left in self._root.glob(".part-*"):  # by a killed process; the disk may be full of it
            shutil.rmtree(left, ignore_errors=True)
        self._root.mkdir(exist_ok=True)  # never the run directory: one that was deleted is not to come back
        part = self._root / f".part-{step:08d}-{os.getpid()}"
        part.mkdir()
        return part

    def _write(self, write: Callable[[Path | None], None], part: Path | None, position: dict[str, Any]) -> None:
        """In the thread: the files, then on the main rank the name."""
        if part is None:
            return write(None)
        with _part(part):
            write(part)
            (part / POSITION).write_text(json.dumps(position))
            _sync(part)
            self._check()
            final = self._root / f"step-{position['step']:08d}"
            if final.exists():
                shutil.rmtree(final)
            part.rename(final)
        _sync_folder(self._root)
        kept = complete_checkpoints(self._root.parent)[-self._keep :]
        for old in self._root.iterdir():
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)
        return None


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """A trial's complete checkpoints, the newest last."""
    return sorted((run_dir / "checkpoints").glob("step-*"))


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    return max(complete_checkpoints(run_dir), default=None)


def load_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore the model, its optimiser and the RNG in place, whatever processes and strategy wrote them; returns the
    position written with them."""
    for parameter in module.parameters():
        optimizer.state[parameter] = {key: _blank(key, parameter) for key in MOMENTS}
    state = state_of(module, optimizer)
    if (folder / shares.METADATA).exists():
        shares.read(folder, state)
    else:
        _read_whole(folder, state)
    torch.set_rng_state(state["rng"])
    return json.loads((folder / POSITION).read_text())


def weights_in(folder: Path) -> Path | None:
    """The file that a folder's weights are read from, with ``read_weights``; None where it has none."""
    return next((path for path in (folder / WEIGHTS, folder / shares.METADATA) if path.is_file()), None)


def read_weights(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Name → whole parameter, from what ``weights_in`` found."""
    if file.name != shares.METADATA:
        return load_file(file, device=device)
    return {name: tensor.to(device) for name, tensor in shares.read_weights(file.parent).items()}


def save_weights(path: Path, module: nn.Module, world: World = ALONE) -> None:
    """Weights alone, whole and atomically; every rank asks, the main one writes."""
    weights = {}
    for name, parameter in module.named_parameters():
        tensor = whole(parameter.detach())
        if world.main:
            weights[name] = tensor.cpu().contiguous()
    if not world.main:
        return
    with _part(path.with_name(f".{path.name}.{os.getpid()}")) as part:
        save_file(weights, part)
        _sync_file(part)
        part.replace(path)


def state_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name → tensor of all that is kept: parameters, moments, RNG. The tensors themselves, not copies."""
    state = {f"{shares.MODEL}{name}": parameter.detach() for name, parameter in module.named_parameters()}
    for name, parameter in module.named_parameters():
        state |= {f"{key}.{name}": optimizer.state[parameter][key] for key in MOMENTS}
    return {**state, "rng": torch.get_rng_state()}


def _blank(key: str, parameter: Tensor) -> Tensor:
    if key == "step":
        return torch.zeros((), dtype=torch.float32, device=parameter.device)
    return torch.zeros_like(parameter, memory_format=torch.preserve_format).detach()


class _Whole:
    """Writes a whole model from copies that are made in the same memory every time, which a GPU reaches directly."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def copier(self, state: dict[str, Tensor], part: Path | None) -> Callable[[Path | None], None]:
        """Copies at once; what it returns writes the copies to the folder."""
        for name, tensor in state.items():
            if name not in self._copies:
                self._copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[name].copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in state.values()):
            torch.cuda.synchronize()
        return self._write

    def _write(self, part: Path | None) -> None:
        assert part is not None, "the main rank has one"
        model = {name: tensor for name, tensor in self._copies.items() if name.startswith(shares.MODEL)}
        save_file({name.removeprefix(shares.MODEL): tensor for name, tensor in model.items()}, part / WEIGHTS)
        save_file({name: x for name, x in self._copies.items() if name not in model}, part / OPTIMIZER)


@torch.no_grad()
def _read_whole(folder: Path, state: dict[str, Tensor]) -> None:
    with safe_open(folder / WEIGHTS, "pt") as weights, safe_open(folder / OPTIMIZER, "pt") as optimizer:
        for name, tensor in state.items():  # one at a time: a process that holds shares never has all of it
            bare = name.removeprefix(shares.MODEL)
            read = optimizer.get_tensor(name) if bare == name else weights.get_tensor(bare)
            tensor.copy_(share_of(read, like=tensor))


@contextlib.contextmanager
def _part(path: Path) -> Iterator[Path]:
    """A file or folder in the making; what is left of it at the end is removed, to leave room on a full disk."""
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        _sync_file(path)
    _sync_folder(folder)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
