"""Files that are never seen half-written."""

import os
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's content so that a reader sees the old text or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
