"""Checks of the machine itself: Python and packages, git, cores, the runs folder, MLflow."""

import fcntl
import os
import platform
import re
import sys
import tempfile
import time
import tomllib
from importlib.metadata import metadata, requires
from pathlib import Path

from deltalab.dispatch.doctor.findings import GIB, INSTALL, Check, Verdict, ask, version_of
from deltalab.track.claim import STALE_SECONDS
from deltalab.track.connection import tracking_uri
from deltalab.track.provenance import local_changes
from deltalab.wording import many, without_password

ROOT = Path(__file__).parents[4]
MLFLOW_SECONDS = 20.0
"""How long MLflow may take."""
MLFLOW_PROBE = """
import logging, os, sys
try:
    from mlflow import MlflowClient
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"]).search_experiments(max_results=1)
except Exception as error:
    inner = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__
    sys.exit(str(inner if isinstance(inner, OSError) else error).splitlines()[0])
"""


def check_python() -> list[Check]:
    """Python and the packages, against the ranges deltalab declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    lines, pythons = _declared()
    needed = [Requirement(line) for line in lines]
    here = platform.python_version()
    fits = here in SpecifierSet(pythons)
    wanted = "" if fits else f"; deltalab needs {pythons}"
    mend = "" if fits else "make a new environment: make install PYTHON=python3.12"
    python = Check("Python", Verdict.ok if fits else Verdict.broken, f"{here}, {sys.executable}{wanted}", mend)
    needed = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = {need.name: version_of(need.name) for need in needed}
    bad = [need for need in needed if not need.specifier.contains(found[need.name] or "0", prereleases=True)]
    if bad:
        said = ", ".join(f"{need.name} {found[need.name] or 'missing'} (needs {need.specifier})" for need in bad)
        return [python, Check("packages", Verdict.broken, said, INSTALL)]
    shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "submitit", "mlflow") if name in found)
    return [python, Check("packages", Verdict.ok, f"all {len(needed)} in deltalab's ranges ({shown} …)")]


def check_git() -> list[Check]:
    """git, which says what code a trial ran."""
    why = "results do not say which commit made them"
    if error := ask("git", "--version").error:
        return [Check("git", Verdict.note, f"{error}: {why}", "install git and put it into PATH")]
    head = ask("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    if head.error:
        return [
            Check(
                "git",
                Verdict.note,
                f"{ROOT} is no git checkout with a commit: {why}",
                "clone the repository, or git init and commit",
            )
        ]
    files = len(local_changes(ROOT))
    changes = f"{many(files, 'file')} changed or new since (every launch keeps them)" if files else "unchanged"
    return [Check("git", Verdict.ok, f"{ROOT} at {head.out}, {changes}")]


def check_machine() -> list[Check]:
    """Cores and memory, and what a container's limits leave of them."""
    cores, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    quota, period = [*_cgroup("cpu.max").split(), "max", "1"][:2]
    allowed = cores if quota == "max" else int(quota) / int(period)
    said = f"{cores} cores" + (f" of {all_cores}" if cores < all_cores else "")
    mend = f"hydra.launcher.workers=… threads=…: {allowed:.3g} in all, or trials slow each other down"
    if allowed < cores:
        cpu = Check("cores", Verdict.note, f"{said}, of which the control group allows the time of {allowed:.3g}", mend)
    else:
        cpu = Check("cores", Verdict.ok, said)
    sizes = dict(re.findall(r"^(MemTotal|MemAvailable): +(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE))
    total, free = (int(sizes[key]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit.isdigit() and used.isdigit() and int(limit) < total:
        total, free = int(limit), min(free, int(limit) - int(used))
    little = free < 2 * GIB
    mend = "fewer trials at a time: hydra.launcher.workers=1" if little else ""
    memory = f"{free / GIB:.1f} GiB free of {total / GIB:.1f} GiB"
    return [cpu, Check("memory", Verdict.note if little else Verdict.ok, memory, mend)]


def check_folder(runs: Path) -> list[Check]:
    """The runs folder, an absolute path: room, and whether its file system does what claims and journals rely on."""
    where = next(path for path in (runs, *runs.parents) if path.exists())
    choose = "choose another folder with --runs, or DELTALAB_RUNS"
    try:
        with tempfile.TemporaryDirectory(dir=where, prefix=".doctor-") as scratch:
            wrong, skew = _behaviour(Path(scratch))
        disk = os.statvfs(where)
    except OSError as error:
        return [Check("runs folder", Verdict.broken, f"cannot be written: {error}", choose)]
    said = f"{where} can be written" + ("" if where == runs else ", the runs folder is not made yet")
    if wrong:
        checks = [Check("runs folder", Verdict.broken, f"{where}: {'; '.join(wrong)}", choose)]
    else:
        checks = [Check("runs folder", Verdict.ok, f"{said}; exclusive creation, renaming, locks and times work")]
    ahead = f"the file system's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) < 2:
        checks.append(Check("clock", Verdict.ok, "the file system's clock agrees with this machine's"))
    else:
        far = Verdict.broken if abs(skew) > STALE_SECONDS / 2 else Verdict.note
        checks.append(Check("clock", far, f"{ahead}; heartbeats are read by it", "set both clocks by NTP (chrony)"))
    free, files = disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None
    room = f"{free / GIB:,.1f} GiB free" + ("" if files is None else f", room for {files:,} more files")
    full, scarce = free < GIB / 4 or files in range(100), free < 5 * GIB or files in range(10_000)
    verdict = Verdict.broken if full else Verdict.note if scarce else Verdict.ok
    freeing = f"deltalab gc lists what can go; or {choose}" if scarce else ""
    return [*checks, Check("disk", verdict, room, freeing)]


def check_mlflow(runs: Path, uri: str | None) -> Check:
    """Whether the tracking store answers. A SQLite file that is not there is not made."""
    uri = tracking_uri(runs, uri)
    shown = without_password(uri)
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if file is not None and (not file.exists() or file.stat().st_size == 0):
        return Check("MLflow", Verdict.ok, f"{shown} is not there yet; the first launch makes it")
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_TRACKING_URI": uri}
    patience["MLFLOW_DISABLE_TELEMETRY"] = "true"
    asked = ask(sys.executable, "-c", MLFLOW_PROBE, seconds=MLFLOW_SECONDS, env=patience)
    if not asked.error:
        return Check("MLflow", Verdict.ok, f"{shown} answers")
    start = "start the server, or name another with --uri or MLFLOW_TRACKING_URI"
    later = "trials run all the same, deltalab sync STUDY sends them later, tracking=none sends nothing"
    return Check("MLflow", Verdict.note, f"{shown}: {without_password(asked.error)}", f"{start}; {later}")


def _behaviour(scratch: Path) -> tuple[list[str], float]:
    """What a file system gets wrong, and by how many seconds its clock is ahead of the machine's."""
    path, other, wrong = scratch / "claim.0", scratch / "other", []
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    os.close(os.open(path, flags))
    try:
        os.close(os.open(path, flags))
        wrong.append("exclusive creation lets two processes in")
    except FileExistsError:
        pass
    other.write_text("new")
    other.replace(path)
    if path.read_text() != "new" or other.exists():
        wrong.append("renaming over a file does not replace it")
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            wrong.append(f"files cannot be locked ({error.strerror})")
    os.utime(path, (1, 1))
    before = time.time()
    os.utime(path)
    touched, after = path.stat().st_mtime, time.time()
    if touched < 2:
        wrong.append("a file's time does not move when it is touched")
    return wrong, touched - (before + after) / 2


def _cgroup(name: str) -> str:
    """A limit of this process's control group (version 2), or ""."""
    try:
        group = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].split("::")[-1]
        return (Path("/sys/fs/cgroup") / group.strip("/") / name).read_text().strip()
    except OSError:
        return ""


def _declared() -> tuple[list[str], str]:
    """Packages and Pythons that deltalab asks for: a checkout's own word, which a stale installation may not have."""
    project = ROOT / "pyproject.toml"
    if project.exists():
        plain = tomllib.loads(project.read_text())["project"]
        return plain["dependencies"], plain["requires-python"]
    return requires("deltalab") or [], metadata("deltalab")["Requires-Python"]
