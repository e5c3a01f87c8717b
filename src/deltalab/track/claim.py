"""The claim on a run directory: one process runs a trial at a time, its heartbeat tells running from lost. No torch.

A claim is a file ``claim.N`` created with O_EXCL (atomic on shared file systems too); its mtime is the heartbeat. Over
a claim N whose heart stopped the next one takes ``claim.N+1``, which only one of several takers can create. Whoever
made one looks again, by the file system's clock, and gives way if another live claim is there: two that raced may both
give way, never both run. Launches hold a claim on their submission in the same way.
"""

import contextlib
import errno
import functools
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deltalab.errors import Busy

PREFIX = "claim."
HEARTBEAT_SECONDS = 5.0
POLL_SECONDS = 0.5
STALE_SECONDS = 60.0
"""A claim untouched for this long belongs to nobody."""


def alive(run_dir: Path) -> bool:
    """Whether a process that claims the run directory still beats.

    On the claim's own machine a dead process is seen at once, elsewhere after ``STALE_SECONDS``.
    """
    return any(_beats(path, time.time()) for path in _claims(run_dir))


def beats_elsewhere(run_dir: Path) -> bool:
    """Whether a claim of another machine counts as beating: its process may be dead, which shows only when it is
    ``STALE_SECONDS`` old."""
    return any(_beats(path, time.time()) and _owner(path).get("host") != _machine() for path in _claims(run_dir))


@contextlib.contextmanager
def claimed(
    run_dir: Path,
    patience: float = 0.0,
    each_beat: Callable[[], object] = lambda: None,
) -> Iterator[Callable[[], None]]:
    """Hold the claim, beating, while the block runs.

    Args:
        run_dir: what to claim.
        patience: seconds to wait for a claim that beats. Longer than ``STALE_SECONDS`` outlives a holder that died on
            another machine.
        each_beat: called at every heartbeat, from another thread.

    Yields:
        A check to make before anything is written, in microseconds: it raises ``Busy`` when the claim is lost, because
        this process stood still for so long that another took over, or because the folder was deleted.

    Raises:
        Busy: another live process holds it, or took it at the same moment.
    """
    path = _take_in_time(run_dir, patience)
    file = os.open(path, os.O_RDONLY)  # the claim itself, whatever comes to lie at its path
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(file, stop, each_beat), daemon=True)
    heart.start()
    try:
        yield functools.partial(_check, file, run_dir)
    finally:
        stop.set()
        heart.join()
        if not _deleted(file):
            path.unlink(missing_ok=True)
        os.close(file)


def _claims(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob(f"{PREFIX}*"), key=_number)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(PREFIX))


def _take_in_time(run_dir: Path, patience: float) -> Path:
    end = time.monotonic() + patience
    while True:
        try:
            return _take(run_dir)
        except Busy:
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS + random.random())  # two that gave way to each other meet again at other times


def _take(run_dir: Path) -> Path:
    claims = _claims(run_dir)
    busy = Busy(f"{run_dir.name}: another process runs this trial ({run_dir / PREFIX}*)")
    if any(_beats(path, time.time()) for path in claims):
        raise busy
    path = run_dir / f"{PREFIX}{_number(claims[-1]) + 1 if claims else 0}"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        raise busy from None
    with os.fdopen(handle, "w") as file:
        json.dump({"host": _machine(), "pid": os.getpid(), "born": _birth(os.getpid())}, file)
    now = path.stat().st_mtime
    if any(_beats(other, now) for other in _claims(run_dir) if other != path):
        path.unlink()
        raise busy
    for stale in claims:
        stale.unlink(missing_ok=True)
    return path


def _beats(path: Path, now: float) -> bool:
    try:
        if now - path.stat().st_mtime > STALE_SECONDS:
            return False
    except FileNotFoundError:
        return False
    if not (owner := _owner(path)):
        return path.exists()
    return owner["host"] != _machine() or _process_lives(owner["pid"], owner["born"])


def _owner(path: Path) -> dict[str, Any]:
    """Who holds a claim; nothing is known of one that is just being written, or taken away."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _beat(file: int, stop: threading.Event, each_beat: Callable[[], object]) -> None:
    while not stop.wait(HEARTBEAT_SECONDS) and not _deleted(file):
        with contextlib.suppress(OSError):  # the file system hiccups
            os.utime(file)
        with contextlib.suppress(OSError):
            each_beat()


def _check(file: int, run_dir: Path) -> None:
    if _deleted(file):
        raise Busy(f"{run_dir.name}: another process took this trial over, or its run directory was deleted")


def _deleted(file: int) -> bool:
    """Whether the file behind a descriptor is gone from its folder."""
    try:
        return os.fstat(file).st_nlink == 0
    except OSError as error:
        return error.errno == errno.ESTALE


@functools.cache
def _machine() -> str:
    """Where process numbers mean the same: a boot of a machine, and a container's own numbering in it."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _process_lives(pid: int, born: str) -> bool:
    return _birth(pid) == born


def _birth(pid: int) -> str:
    """Start time of a process, which tells it from a later one with the same number; "" when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "" if not _signalable(pid) else "unknown"
    fields = stat.rsplit(")", 1)[1].split()
    return "" if fields[0] == "Z" else fields[19]


def _signalable(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
