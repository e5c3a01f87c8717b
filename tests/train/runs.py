"""What the tests of training share: a stop at a step, a disk that fills, and what came out of a run."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from deltalab.track import journal
from deltalab.train.meters import MEASURED


class StopAt:
    """Asks to stop once the trainer has asked this many times."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, dict[int, float]]]:
    """Final weights, and the metrics that do not depend on the machine."""
    metrics = journal.read(folder).metrics
    return load_file(folder / "model.safetensors"), {k: v for k, v in metrics.items() if k not in MEASURED}


def assert_equal(one: Path, other: Path) -> None:
    """Two runs ended bitwise equal."""
    (weights, metrics), (expected, recorded) = outcome(one), outcome(other)
    assert metrics == recorded
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def fill(disk: Path, room: int) -> None:
    """Write until the disk is full, then give back ``room`` bytes."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    if room:
        with (disk / "filler").open("ab") as file:
            file.truncate(file.tell() - room)


def filling_at(step: int, disk: Path, room: int) -> Callable[[], bool]:
    """A stop question that is never answered yes, and fills the disk from its asking at ``step`` on."""
    asked = iter(range(10**6))

    def ask() -> bool:
        if next(asked) == step:
            fill(disk, room)
        return False

    return ask
