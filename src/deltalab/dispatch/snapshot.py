"""The code a trial was submitted with, kept so that editing while it waits changes nothing.

RUNS/snapshots/<digest>/        tracked files and untracked ones that git does not ignore, in submodules too
RUNS/snapshots/<digest>.json    the commit it was taken from
RUNS/snapshots/<digest>.patch   of a dirty tree: what differs from that commit in the files it has

The digest names the content, so that a code state is kept once however often it is submitted.
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

from deltalab.errors import UsageError
from deltalab.track.files import temporary_name, write_atomic
from deltalab.track.provenance import provenance

FOLDER = "snapshots"
SKIPPED = ("__pycache__", ".venv", "node_modules")
ORIGIN = ("commit", "dirty")
MAX_BYTES = 200 * 2**20
"""A checkout that holds more outside .gitignore holds data, not code."""


def take(root: Path, runs: Path) -> str:
    """Keep the code as it is now, unless it is kept already; returns its digest.

    Args:
        root: the checkout.
        runs: the runs folder; nothing inside it belongs to the code.

    Raises:
        UsageError: the code is larger than a code base can be; says which file is the largest.
    """
    if _is_snapshot(root):
        return root.name
    files = _files(root, runs)
    digest = _digest(root, files)
    if (final := folder_of(runs, digest)).exists():
        os.utime(final)  # in use: nothing that collects garbage takes it now
        return digest
    part = final.with_name(temporary_name(digest))
    for name in files:
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, part / name, follow_symlinks=False)
    digest = _digest(part, files)  # of what was copied: somebody may be editing
    final = folder_of(runs, digest)
    if diff := _git(root, "diff", "--binary", "--submodule=diff", "HEAD"):
        write_atomic(final.with_name(f"{digest}.patch"), diff)
    known = {key: value for key, value in provenance(root).items() if key in ORIGIN}
    write_atomic(final.with_name(f"{digest}.json"), json.dumps(known))
    try:
        part.rename(final)
    except OSError:  # another launch kept the same code at the same moment
        shutil.rmtree(part, ignore_errors=True)
        if not final.exists():
            raise
    return digest


def current(root: Path, runs: Path) -> str:
    """Digest of the code as it is now; nothing is written."""
    return root.name if _is_snapshot(root) else _digest(root, _files(root, runs))


def origin(runs: Path, digest: str) -> dict[str, Any]:
    """``commit`` and ``dirty`` of a snapshot, as far as known."""
    path = folder_of(runs, digest).with_name(f"{digest}.json")
    return json.loads(path.read_text()) if path.exists() else {}


def provenance_of(root: Path) -> dict[str, Any]:
    """``provenance`` of a checkout, or of a snapshot that is run as one."""
    return {**provenance(root), **(origin(root.parents[1], root.name) if _is_snapshot(root) else {})}


def of_trial(runs: Path, run_dir: Path) -> str | None:
    """The snapshot a trial was first submitted with, or None when it never was.

    Raises:
        UsageError: that snapshot is gone.
    """
    path = run_dir / "provenance.json"
    digest = json.loads(path.read_text()).get("snapshot") if path.exists() else None
    if digest is not None and not folder_of(runs, digest).exists():
        raise UsageError(
            f"hydra.launcher.code=submitted: the code of {run_dir.name}, {folder_of(runs, digest)}, is gone; "
            "allowed is current"
        )
    return digest


def changed(root: Path, runs: Path, digest: str, parts: tuple[str, ...] = ("src/",)) -> list[str]:
    """Python files that differ between the code as it is now and a snapshot, ``[digest]`` when that is gone.

    Args:
        root: the checkout.
        runs: the runs folder.
        digest: of the snapshot.
        parts: beginnings of the paths that count.
    """
    then = folder_of(runs, digest)
    if digest == current(root, runs):
        return []
    if not then.exists():
        return [digest]
    names = {path.relative_to(base).as_posix() for base in (root, then) for path in (base / "src").rglob("*.py")}
    counted = (name for name in names if name.startswith(parts))
    return sorted(name for name in counted if _content(root / name) != _content(then / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _is_snapshot(root: Path) -> bool:
    return root.parent.name == FOLDER and root.with_name(f"{root.name}.json").exists()


def folder_of(runs: Path, digest: str) -> Path:
    """Where a snapshot is kept."""
    return runs / FOLDER / digest


def python_path(runs: Path, digest: str) -> str:
    """PYTHONPATH for a worker that runs a snapshot's code."""
    return str(folder_of(runs, digest) / "src")


def _files(root: Path, runs: Path) -> list[str]:
    names = _listed(root)
    if not names:  # no git, or no work tree: an image, an archive
        names = {path.relative_to(root).as_posix() for path in root.rglob("*") if not _skipped(path.relative_to(root))}
    outside = runs.resolve()
    files = sorted(
        name for name in names if (root / name).is_file() and not (root / name).resolve().is_relative_to(outside)
    )
    sizes = {name: (root / name).lstat().st_size for name in files}
    if sum(sizes.values()) > MAX_BYTES:
        largest = max(files, key=sizes.__getitem__)
        raise UsageError(
            f"{root}: {sum(sizes.values()) / 2**20:,.0f} MiB that git does not ignore would be kept as code, {largest} "
            f"alone {sizes[largest] / 2**20:,.0f}; allowed is up to {MAX_BYTES // 2**20} MiB: put data into .gitignore"
        )
    return files


def _listed(root: Path) -> set[str]:
    """What git has of a work tree, or would take, its submodules' included; nothing where there is no git."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    names = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    for name in [name for name in names if not name.endswith("/") and (root / name / ".git").exists()]:
        names |= {f"{name}/{inner}" for inner in _listed(root / name)}
    return names


def _skipped(path: Path) -> bool:
    return any(part in SKIPPED or part.startswith(".") or part.endswith(".egg-info") for part in path.parts)


def _digest(root: Path, files: list[str]) -> str:
    whole = hashlib.sha256()
    for name in files:
        path = root / name
        mode = path.lstat().st_mode
        content = os.fsencode(path.readlink()) if stat.S_ISLNK(mode) else path.read_bytes()
        whole.update(f"{name}\0{'x' if mode & stat.S_IXUSR else '-'}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()[:16]


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
