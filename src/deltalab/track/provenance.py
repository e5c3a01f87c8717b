"""Where results come from: code commit and local changes, package versions, machine. No torch."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("deltalab", "torch", "triton", "hydra-core", "submitit", "mlflow", "datasets", "numpy")
CODE = ("src", "conf", "analysis", "launch.py")
"""Where a file that git does not know is code nevertheless; a study's file lies elsewhere, in sweeps/."""


def provenance(root: Path) -> dict[str, Any]:
    """What a reader needs to know to trust or repeat a result.

    Args:
        root: the checkout; outside a git work tree the commit is "unknown".
    """
    return {
        "commit": _git(root, "rev-parse", "HEAD") or "unknown",
        "dirty": bool(local_changes(root)),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        **machine(),
    }


def local_changes(root: Path) -> list[str]:
    """Files that differ from the commit: changed ones, and new ones that trials or tables may be run by."""
    changed = _git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    return changed + _git(root, "ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines()


def machine() -> dict[str, Any]:
    """Where this process runs."""
    return {
        "host": platform.node(),
        "hardware": ", ".join([_processor(), f"{len(os.sched_getaffinity(0))} cores", *gpus()]),
        "platform": platform.platform(),
    }


def gpus() -> list[str]:
    """Names of the machine's NVIDIA GPUs, asked of the driver and not of torch."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
