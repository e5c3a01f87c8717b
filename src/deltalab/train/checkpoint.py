"""Checkpoints: weights, optimiser, RNG and position, written whole or not at all, tensors as safetensors.

checkpoints/step-00000200/model.safetensors  optimizer.safetensors  position.json
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "model.safetensors"
"""File of a model's weights, in a checkpoint and, of a completed trial, in its run directory."""
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    run_dir: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, position: dict[str, Any]
) -> Path:
    """Write the state after ``step`` steps, then remove older checkpoints.

    The folder appears under its name only when every file in it is on disk, so a reader never meets a half.

    Args:
        run_dir: the trial's run directory.
        step: finished optimiser steps.
        module: the model.
        optimizer: its optimiser.
        position: JSON values to come back with ``load_checkpoint``.
    """
    root = run_dir / "checkpoints"
    final = root / f"step-{step:08d}"
    for left in root.glob(".part-*"):  # by a killed process; the disk may be full of it
        shutil.rmtree(left, ignore_errors=True)
    root.mkdir(exist_ok=True)  # never the run directory: one that was deleted is not to come back without its journal
    with _part(root / f".part-{step:08d}-{os.getpid()}") as part:
        part.mkdir()
        save_file(_weights(module), part / WEIGHTS)
        save_file({**_moments(module, optimizer), "rng": torch.get_rng_state()}, part / "optimizer.safetensors")
        (part / "position.json").write_text(json.dumps({"step": step, **position}))
        _sync(part)
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
    _sync_folder(root)
    for old in root.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    return max((run_dir / "checkpoints").glob("step-*"), default=None)


def load_checkpoint(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore the model, its optimiser and the RNG in place; returns the position written with them."""
    device = next(module.parameters()).device
    module.load_state_dict(load_file(folder / WEIGHTS, device=str(device)))
    tensors = load_file(folder / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop("rng"))
    for name, parameter in module.named_parameters():
        optimizer.state[parameter] = {
            key: tensors[f"{key}.{name}"].to(torch.float32 if key == "step" else parameter.dtype).to(device)
            for key in MOMENTS
        }
    return json.loads((folder / "position.json").read_text())


def save_weights(path: Path, module: nn.Module) -> None:
    """Weights alone, atomically."""
    with _part(path.with_name(f".{path.name}.{os.getpid()}")) as part:
        save_file(_weights(module), part)
        _sync_file(part)
        part.replace(path)


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


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().cpu().contiguous() for name, parameter in module.named_parameters()}


def _moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": optimizer.state[parameter][key].detach().cpu()
        for name, parameter in module.named_parameters()
        for key in MOMENTS
    }


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
