"""Files that are never seen half-written."""

import os
from pathlib import Path


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file's content so that a reader sees the old text or the new, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
