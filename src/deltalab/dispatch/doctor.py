"""``deltalab doctor``: what works on this machine and how to mend what does not.

Groups of checks run in threads. What loads torch, Triton or MLflow, or asks another program, does so in a subprocess
with a timeout, so that whatever hangs is reported and not waited for.
"""

import fcntl
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from deltalab.dispatch.show import make_console
from deltalab.track.claim import STALE_SECONDS
from deltalab.track.mlflow import tracking_uri, without_password

ROOT = Path(__file__).parents[3]
TOOL_SECONDS, MLFLOW_SECONDS, TORCH_SECONDS = 4.0, 10.0, 15.0
"""How long a program, MLflow, and torch with a first Triton kernel may take."""
DEADLINE_SECONDS = 25.0
"""When a group that has not answered (a file system that hangs, say) is given up."""
WITHOUT = ("git", "MLflow", "Slurm")
"""Groups that the local pool does without."""
GIB = 2**30
INSTALL = "make install, or pip install -c constraints.txt -e . in this environment"

PROBE = """
import json, typing
import torch

def say(stage, **facts):
    print(json.dumps({stage: facts}), flush=True)

def attempt(stage, step):
    try:
        say(stage, **step())
    except Exception as error:
        say(stage, error=(f"{type(error).__name__}: {error}").splitlines()[0])

def cuda():
    for place in range(torch.cuda.device_count()):
        assert torch.ones(8, device=f"cuda:{place}").sum().item() == 8
    return {"torch": torch.__version__, "built": torch.version.cuda, "devices": torch.cuda.device_count()}

try:
    import triton, triton.language as tl

    @triton.jit
    def add_one(x, n: tl.constexpr):
        place = tl.arange(0, n)
        tl.store(x + place, tl.load(x + place) + 1)
except ImportError:
    triton = None

def kernel_runs():
    if triton is None or not torch.cuda.is_available():
        return {"triton": triton and triton.__version__, "ran": False}
    x = torch.zeros(16, device="cuda")
    add_one[(1,)](x, 16)
    assert x.sum().item() == 16, "a Triton kernel computed something wrong"
    return {"triton": triton.__version__, "ran": True}

def recurrence():
    from deltalab.kernels import dispatch
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    q, k, v, b = (torch.randn(1, 70, 1, 16, device=device) / 4 for _ in range(4))
    fast, exact = (dispatch.gated_delta_rule(q, k, v, b=b, form=form)[0] for form in (None, "reference"))
    off = ((fast - exact).norm() / exact.norm()).item()
    return {"forms": typing.get_args(dispatch.Form), "device": device, "off": off}

for stage, step in (("cuda", cuda), ("triton", kernel_runs), ("recurrence", recurrence)):
    attempt(stage, step)
"""
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


class Verdict(Enum):
    """note: absent or worth knowing, trials run without it; broken: the local pool cannot do its work."""

    ok = "ok"
    note = "note"
    broken = "broken"


MARKS = {Verdict.ok: ("✓", "green"), Verdict.note: ("•", "yellow"), Verdict.broken: ("✗", "bold red")}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        verdict: see ``Verdict``.
        found: what is there, in words.
        mend: how to mend it, or what to do about it; "" where nothing need be done.
    """

    name: str
    verdict: Verdict
    found: str
    mend: str = ""


Groups = dict[str, Callable[[], list[Check]]]
"""Name → checks that run one after another in a thread of their own, in the order they are shown."""


def run_doctor(runs: Path, uri: str | None, as_json: bool) -> int:
    """Examine this machine and print what was found.

    Args:
        runs: the runs folder, which need not exist yet.
        uri: MLflow tracking URI; see ``track.mlflow.tracking_uri``.
        as_json: print one JSON object instead of a table.

    Returns:
        Exit code: 1 when something the local pool needs is broken, else 0.
    """
    groups: Groups = {
        "Python": check_python,
        "git": check_git,
        "machine": check_machine,
        "runs folder": lambda: check_folder(runs),
        "MLflow": lambda: [check_mlflow(runs, uri)],
        "GPU": check_gpu,
        "Slurm": check_slurm,
    }
    done = dict(examine(groups)) if as_json else _watched(groups, runs)
    checks = [check for name in groups for check in done[name]]
    broken = [check.name for check in checks if check.verdict is Verdict.broken]
    if as_json:
        plain = [{**asdict(check), "verdict": check.verdict.value} for check in checks]
        print(json.dumps({"host": platform.node(), "runs": str(runs), "ok": not broken, "checks": plain}, indent=1))
    else:
        fine, notes = (sum(check.verdict is verdict for check in checks) for verdict in (Verdict.ok, Verdict.note))
        counts = f"{fine} ok, {notes} note{'s' * (notes != 1)}, {len(broken)} broken"
        said = f"mend first: {', '.join(broken)}" if broken else "trials can run on this machine"
        make_console().print(f"\n{counts}: {said}", style="bold", highlight=False, soft_wrap=True)
    return int(bool(broken))


def examine(groups: Groups) -> Iterator[tuple[str, list[Check]]]:
    """Run groups of checks side by side; yields each as it ends, at the deadline those that did not."""
    answers: queue.SimpleQueue[tuple[str, list[Check]]] = queue.SimpleQueue()

    def run(name: str, group: Callable[[], list[Check]]) -> None:
        try:
            answers.put((name, group()))
        except Exception as error:  # a check that fails must not hide the others
            answers.put((name, [_unanswered(name, f"{type(error).__name__}: {error}")]))

    for name, group in groups.items():
        threading.Thread(target=run, args=(name, group), daemon=True).start()  # daemons: one that hangs is left
    end, waiting = time.monotonic() + DEADLINE_SECONDS, set(groups)
    while waiting:
        try:
            name, checks = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            yield from ((name, [_unanswered(name, f"no answer in {DEADLINE_SECONDS:g} s")]) for name in waiting)
            return
        waiting.remove(name)
        yield name, checks


def _unanswered(name: str, why: str) -> Check:
    verdict = Verdict.note if name in WITHOUT else Verdict.broken
    return Check(name, verdict, why, "run it again; if it stays, look at the programs and the file system it asks")


def check_python() -> list[Check]:
    """Python and the packages, against the ranges deltalab declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        needed = [Requirement(line) for line in requires("deltalab") or []]
        pythons = metadata("deltalab")["Requires-Python"]
    except PackageNotFoundError:
        return [Check("packages", Verdict.broken, "deltalab itself is not installed here", INSTALL)]
    here = platform.python_version()
    fits = here in SpecifierSet(pythons)
    wanted = "" if fits else f"; deltalab needs {pythons}"
    mend = "" if fits else "make a new environment: make install PYTHON=python3.12"
    python = Check("Python", Verdict.ok if fits else Verdict.broken, f"{here}, {sys.executable}{wanted}", mend)
    needed = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = {need.name: _version(need.name) for need in needed}
    bad = [need for need in needed if not need.specifier.contains(found[need.name] or "0", prereleases=True)]
    if bad:
        said = ", ".join(f"{need.name} {found[need.name] or 'missing'} (needs {need.specifier})" for need in bad)
        return [python, Check("packages", Verdict.broken, said, INSTALL)]
    shown = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "submitit", "mlflow") if name in found)
    return [python, Check("packages", Verdict.ok, f"all {len(needed)} in deltalab's ranges ({shown} …)")]


def check_git() -> list[Check]:
    """git, which says what code a trial ran."""
    why = "results do not say which commit made them"
    if error := _ask("git", "--version").error:
        return [Check("git", Verdict.note, f"{error}: {why}", "install git and put it into PATH")]
    head = _ask("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    if head.error:
        return [
            Check(
                "git",
                Verdict.note,
                f"{ROOT} is no git checkout with a commit: {why}",
                "clone the repository, or git init and commit",
            )
        ]
    dirty = _ask("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no").out
    changes = f"{len(dirty.splitlines())} files changed since (kept as a diff)" if dirty else "unchanged"
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
    """The runs folder: room, and whether its file system does what claims and journals rely on."""
    where = next(path for path in (runs.absolute(), *runs.absolute().parents) if path.exists())
    choose = "choose another folder with --runs, or DELTALAB_RUNS"
    try:
        with tempfile.TemporaryDirectory(dir=where, prefix=".doctor-") as scratch:
            wrong, skew = _behaviour(Path(scratch))
        disk = os.statvfs(where)
    except OSError as error:
        return [Check("runs folder", Verdict.broken, f"cannot be written: {error}", choose)]
    said = f"{where} can be written" + ("" if where == runs.absolute() else ", the runs folder is not made yet")
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
    asked = _ask(sys.executable, "-c", MLFLOW_PROBE, seconds=MLFLOW_SECONDS, env=patience)
    if not asked.error:
        return Check("MLflow", Verdict.ok, f"{shown} answers")
    start = "start the server, or name another with --uri or MLFLOW_TRACKING_URI"
    later = "trials run all the same, deltalab sync STUDY sends them later, tracking=none sends nothing"
    return Check("MLflow", Verdict.note, f"{shown}: {without_password(asked.error)}", f"{start}; {later}")


def check_gpu() -> list[Check]:
    """The driver's GPUs, what torch and Triton make of them, and the recurrence's form."""
    smi = _ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    names = [] if smi.error else smi.out.splitlines()
    if names:
        gpu = Check("GPU", Verdict.ok, "; ".join(f"{count} × {kind}" for kind, count in Counter(names).items()))
    elif shutil.which("nvidia-smi") is None:
        mend = "on a machine with a GPU install NVIDIA's driver; trials run on the CPU meanwhile"
        gpu = Check("GPU", Verdict.note, "none seen: no nvidia-smi in PATH", mend)
    else:
        mend = "see nvidia-smi and dmesg; reload or reinstall NVIDIA's driver"
        gpu = Check("GPU", Verdict.note, f"none seen: {smi.error or 'nvidia-smi lists none'}", mend)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "probe.py"  # a file: Triton reads its kernels' source
        script.write_text(PROBE)
        probe = _ask(sys.executable, str(script), seconds=TORCH_SECONDS)
    facts: dict[str, dict] = {}
    for line in probe.out.splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    if "cuda" not in facts:
        mend = 'python -c "import torch" shows more; a cold file system may just need a second try; else ' + INSTALL
        return [gpu, Check("torch", Verdict.broken, f"cannot be loaded: {probe.error}", mend)]
    unanswered = {"error": probe.error or "it said nothing"}
    return [
        gpu,
        _torch(facts["cuda"], names),
        _triton(facts.get("triton", unanswered), bool(names)),
        _recurrence(facts.get("recurrence", unanswered)),
    ]


def _torch(facts: dict, names: list[str]) -> Check:
    usable = "each trial takes a GPU that torch can use; hydra.launcher.device=cpu trains without"
    if "error" in facts:
        return Check("torch", Verdict.broken, f"fails on the GPU: {facts['error']}", usable)
    build = f"built for CUDA {facts['built']}" if facts["built"] else "built without CUDA"
    said = f"{facts['torch']}, {build}, uses {facts['devices'] or 'no'} GPU{'s' * (facts['devices'] > 1)}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not names or facts["devices"] == len(names):
        return Check("torch", Verdict.ok, said)
    if hidden is not None:
        mend = "unset CUDA_VISIBLE_DEVICES to use them all"
        return Check("torch", Verdict.note, f"{said}: CUDA_VISIBLE_DEVICES={hidden or '(empty)'}", mend)
    mend = f"install a torch whose CUDA the driver knows (nvidia-smi names it); {usable}"
    return Check("torch", Verdict.broken, f"{said}, the driver has {len(names)}", mend)


def _triton(facts: dict, gpu: bool) -> Check:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    lacks = [] if compiler else ["a C compiler (gcc, clang or CC)"]
    lacks += [] if header.exists() else [f"Python's headers ({header})"]
    install = "install them: apt-get install gcc python3-dev, or load a compiler's module" if lacks else ""
    if lacks and gpu:
        return Check("Triton", Verdict.note, f"needs {' and '.join(lacks)} at its first run", install)
    if "error" in facts:
        mend = install or "remove ~/.triton/cache and look again; " + INSTALL
        return Check("Triton", Verdict.note, f"no kernel runs: {facts['error']}", mend)
    if not facts["triton"]:
        return Check("Triton", Verdict.note, "not installed", INSTALL)
    if facts["ran"]:
        return Check("Triton", Verdict.ok, f"{facts['triton']} compiled a kernel and ran it on the GPU")
    missing = f"; on a GPU it would need {' and '.join(lacks)}" if lacks else f"; for a GPU, {compiler} is there"
    return Check("Triton", Verdict.ok, f"{facts['triton']}, not used without a GPU{missing}", install)


def _recurrence(facts: dict) -> Check:
    if "error" in facts:
        return Check("recurrence", Verdict.broken, f"fails: {facts['error']}", INSTALL)
    said = f"the chunk form in plain torch, as no form is named ({', '.join(facts['forms'])}); on {facts['device']}"
    if facts["off"] < 1e-3:
        return Check("recurrence", Verdict.ok, f"{said} it agrees with the reference to {facts['off']:.0e}")
    mend = "this torch computes wrongly here: another version, or another machine"
    return Check("recurrence", Verdict.broken, f"{said} it is off the reference by {facts['off']:.0e}", mend)


def check_slurm() -> list[Check]:
    """Slurm's programs, controller, accounting and partitions. All notes: the local pool needs none of it."""
    missing = [name for name in ("sbatch", "squeue", "scontrol", "sinfo", "sacct") if shutil.which(name) is None]
    if "sbatch" in missing:
        mend = "for hydra/launcher=slurm, work on a cluster's login node; the local pool does without"
        return [Check("Slurm", Verdict.note, "none here: no sbatch in PATH", mend)]
    if missing:
        return [Check("Slurm", Verdict.note, f"no {', '.join(missing)} in PATH", "install all of slurm-client")]
    ping = _ask("scontrol", "ping")
    if ping.error or " UP" not in ping.out:
        first = ping.out.splitlines()[0] if ping.out else ping.error
        mend = "SLURM_CONF must name the cluster's slurm.conf; on the cluster's side, see slurmctld and munged"
        return [Check("Slurm", Verdict.note, f"the controller does not answer: {first}", mend)]
    config = _ask("scontrol", "show", "config")
    if config.error:
        return [Check("Slurm", Verdict.note, f"the controller refuses: {config.error}", "see munged and slurmctld")]
    said = dict(re.findall(r"^(\w+) += (.*)$", config.out, re.MULTILINE))
    found = f"{said.get('SLURM_VERSION')}, cluster {said.get('ClusterName')}, MaxArraySize {said.get('MaxArraySize')}"
    return [Check("Slurm", Verdict.ok, found), _accounting(), _partitions()]


def _accounting() -> Check:
    asked = _ask("sacct", "--noheader", "--allocations", "--starttime", "now")
    if not asked.error:
        return Check("accounting", Verdict.ok, "sacct answers")
    mend = f"without it a dead job is noticed {STALE_SECONDS:g} s after its heartbeat stops; AccountingStorageType"
    return Check("accounting", Verdict.note, asked.error, f"{mend}=accounting_storage/slurmdbd switches it on")


def _partitions() -> Check:
    asked = _ask("sinfo", "--noheader", "--format=%P|%a|%D|%T|%G")
    if asked.error:
        return Check("partitions", Verdict.note, asked.error, "see sinfo")
    nodes: dict[str, dict[str, list[str]]] = {}
    takes = False
    for name, up, count, state, gres in (line.split("|") for line in asked.out.splitlines()):
        gpus = f"with {re.sub(r'[(][^)]*[)]', '', gres)}" if "gpu" in gres else "without GPU"
        nodes.setdefault(name if up == "up" else f"{name} ({up})", {}).setdefault(gpus, []).append(f"{count} {state}")
        takes |= up == "up" and state.startswith(("idle", "mix", "alloc", "comp"))
    kinds = {name: " and ".join(f"{' + '.join(n)} {gpus}" for gpus, n in kind.items()) for name, kind in nodes.items()}
    found = "; ".join(f"{name}: {said}" for name, said in kinds.items()) or "none"
    if takes:
        return Check("partitions", Verdict.ok, found)
    return Check("partitions", Verdict.note, found, "no node takes jobs now: sinfo --list-reasons says why")


@dataclass(frozen=True)
class _Answer:
    """What a program printed, and in one line what went wrong ("" when nothing did)."""

    out: str = ""
    error: str = ""


def _ask(*command: str, seconds: float | None = None, env: dict[str, str] | None = None) -> _Answer:
    """Run a program, for ``seconds`` (``TOOL_SECONDS`` unless given) at most."""
    seconds = seconds or TOOL_SECONDS
    inherited = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=inherited, check=False
        )
    except FileNotFoundError:
        return _Answer(error=f"no {command[0]} in PATH")
    except subprocess.TimeoutExpired as late:
        return _Answer(
            (late.stdout or b"").decode(errors="replace"), f"{Path(command[0]).name} gave no answer in {seconds:g} s"
        )
    except OSError as error:
        return _Answer(error=str(error))
    out, said = (text.decode(errors="replace").strip() for text in (done.stdout, done.stderr))
    last = next(iter((said or out).splitlines()[-1:]), f"exit code {done.returncode}")
    return _Answer(out, last if done.returncode else "")


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


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _watched(groups: Groups, runs: Path) -> dict[str, list[Check]]:
    """Examine, showing on a terminal what is known so far, and in the end all of it."""
    done: dict[str, list[Check]] = {}
    console = make_console()
    console.print(f"deltalab doctor on {platform.node()}, runs folder {runs}\n", highlight=False, soft_wrap=True)
    with Live(_table(groups, done), console=console, transient=True, auto_refresh=False) as live:
        for name, checks in examine(groups):
            done[name] = checks
            live.update(_table(groups, done), refresh=console.is_terminal)
        live.update("")
    console.print(_table(groups, done))
    return done


def _table(groups: Groups, done: dict[str, list[Check]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in groups:
        if name not in done:
            table.add_row(Text("… asking", "dim"), Text(name, "dim"), "")
        for check in done.get(name, []):
            mark, style = MARKS[check.verdict]
            table.add_row(Text(f"{mark} {check.verdict.value}", style), check.name, Text(check.found))
            if check.mend:
                table.add_row("", "", Text(f"→ {check.mend}", style="cyan"))
    return table
