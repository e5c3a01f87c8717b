"""The claim on a run directory: one process runs a trial at a time, and its heartbeat tells running from lost. No torch.

The claim is a file created with O_EXCL (atomic on shared file systems too); its mtime is the heartbeat. A claim whose
heart stopped is taken over by renaming it away: only one of several takers succeeds in the rename.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from deltalab.errors import Busy

FILE = "claim"
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""A claim untouched for this long belongs to nobody."""


def alive(run_dir: Path) -> bool:
    """Whether the process that claims the run directory still beats.

    On the claim's own machine a dead process is seen at once, elsewhere after ``STALE_SECONDS``.
    """
    path = run_dir / FILE
    try:
        if time.time() - path.stat().st_mtime > STALE_SECONDS:
            return False
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # just being written
        return True
    return owner["host"] != socket.gethostname() or _process_lives(owner["pid"], owner["born"])


@contextlib.contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Hold the claim, beating, while the block runs.

    Raises:
        Busy: another live process holds it.
    """
    path = run_dir / FILE
    _take(path)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    owner = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "born": _birth(os.getpid())})
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if alive(path.parent):
                break
            aside = path.with_name(f".stale-{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):  # another taker was first
                path.rename(aside)
                aside.unlink()
            continue
        with os.fdopen(handle, "w") as file:
            file.write(owner)
        return
    raise Busy(f"{path.parent.name}: another process runs this trial ({path})")


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)


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
