"""A full disk, a real one: the trial stays resumable and ends as if nothing had happened."""

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from deltalab.errors import DiskFull
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train.checkpoint import latest_checkpoint
from deltalab.train.disk import is_full
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import StopAt, assert_equal, filling_at


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system of its own size here: {mount.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(("step", "kept"), [(12, 10), (19, 10), (5, None)], ids=["checkpoint", "weights", "first"])
def test_the_trial_goes_on_from_its_checkpoint_once_there_is_room(disk: Path, step: int, kept: int | None) -> None:
    spec = trial("train.checkpoint_every=5" if step == 12 else "train.checkpoint_every=10")
    run_dir = disk / "run"
    with pytest.raises(DiskFull, match="no space left"):
        run_trial(spec, run_dir, Device.cpu, filling_at(step, disk, room=16384))
    record = journal.read(run_dir)
    assert record.state is State.preempted
    assert "no space left" in record.details["error"]
    checkpoint = latest_checkpoint(run_dir)
    assert (checkpoint and checkpoint.name) == (kept and f"step-{kept:08d}")
    assert not [path for path in run_dir.rglob("*") if path.name.startswith(".")]
    (disk / "filler").unlink()
    assert run_trial(spec, run_dir, Device.cpu) is State.completed
    run_trial(spec, disk.parent / "undisturbed", Device.cpu)
    assert_equal(run_dir, disk.parent / "undisturbed")


def test_a_disk_too_full_for_a_line_leaves_the_trial_running_until_its_claim_dies(disk: Path) -> None:
    spec = trial("train.steps=60", "train.log_every=1", "train.checkpoint_every=0")
    run_dir = disk / "run"
    with pytest.raises(DiskFull, match="no space left"):
        run_trial(spec, run_dir, Device.cpu, filling_at(7, disk, room=0))
    assert journal.read(run_dir).state is State.running
    (disk / "filler").unlink()
    assert run_trial(spec, run_dir, Device.cpu) is State.completed
    run_trial(spec, disk.parent / "undisturbed", Device.cpu)
    assert_equal(run_dir, disk.parent / "undisturbed")


def test_a_checkpoint_clears_away_what_a_killed_process_left_half_written(disk: Path) -> None:
    spec = trial("train.checkpoint_every=5")
    run_trial(spec, disk / "run", Device.cpu, StopAt(7))
    half = disk / "run" / "checkpoints" / ".part-00000010-1"
    half.mkdir()
    with contextlib.suppress(OSError):
        (half / "model.safetensors").write_bytes(bytes(4 * 2**20))
    with (half / "model.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 16384)
    assert run_trial(spec, disk / "run", Device.cpu) is State.completed


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), True),
        (SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("No space left on device (os error 28)"), False),
    ],
    ids=repr,
)
def test_only_a_full_disk_is_one(error: Exception, full: bool) -> None:
    assert is_full(error) is full
