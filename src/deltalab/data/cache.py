"""Things that are worked out once per machine: where they lie, and how several processes may make them at once."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root() -> Path:
    """``$DELTALAB_CACHE``, or ``~/.cache/deltalab``. Everything below it may be deleted at any time."""
    named = os.environ.get("DELTALAB_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "deltalab"


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """The file or folder ``target``, made by ``build`` if it is not there yet.

    Nobody sees it half-made: it is built under another name and renamed. Of several processes that build at the same
    time the first to finish wins; the others' work, which is the same, is dropped.

    Args:
        target: what is wanted; its name says all that its content depends on.
        build: makes it at the path it is given, whose folder exists.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        part = Path(folder) / target.name
        build(part)
        try:
            part.replace(target)
        except OSError:
            if not target.exists():  # a folder cannot replace one that was finished meanwhile
                raise
    return target
