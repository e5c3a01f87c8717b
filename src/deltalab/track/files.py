"""Files that are never seen half-written."""

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deltalab.errors import CannotWrite, DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)
"""The disk, or the user's share of it, is full."""


@contextlib.contextmanager
def naming_full_disk(runs: Path) -> Iterator[None]:
    """Say which disk is full: a failed write does not.

    Raises:
        DiskFull: in place of the error that said so.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"no space left on the disk of {runs}; free some (deltalab gc lists what can go), then the same command "
            "continues"
        ) from error


def refuse_unwritable(runs: Path) -> None:
    """Say in one line, before anything is written there, that a runs folder cannot be; makes it where it is not there.

    Raises:
        CannotWrite: it cannot; that its disk is full is said where something is written.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs):
            pass
    except OSError as error:
        if error.errno in FULL:
            return
        raise CannotWrite(
            f"runs={runs}: cannot be written ({error.strerror}); name another with runs= or DELTALAB_RUNS"
        ) from error


def temporary_name(name: str) -> str:
    """A name beside ``name`` that no other process takes, on this machine or another that shares the folder."""
    return f".{name}.{os.getpid()}.{secrets.token_hex(4)}"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file's content so that a reader sees the old text or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(temporary_name(path.name))
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
