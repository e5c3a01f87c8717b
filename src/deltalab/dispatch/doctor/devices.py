"""Checks of what computes: the GPU, torch and Triton on it, the recurrence."""

import json
import os
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from deltalab.dispatch.doctor.findings import INSTALL, Answer, Check, Verdict, ask

TORCH_SECONDS = 20.0
"""How long torch with a first Triton kernel may take."""


def check_gpu() -> list[Check]:
    """The driver's GPUs, what torch and Triton make of them, and the recurrence's form."""
    smi = ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    names = [] if smi.error else [", driver ".join(line.rsplit(", ", 1)) for line in smi.out.splitlines()]
    if names:
        gpu = Check("GPU", Verdict.ok, "; ".join(f"{count} × {kind}" for kind, count in Counter(names).items()))
    elif shutil.which("nvidia-smi") is None:
        mend = "on a machine with a GPU install NVIDIA's driver; trials run on the CPU meanwhile"
        gpu = Check("GPU", Verdict.note, "none seen: no nvidia-smi in PATH", mend)
    else:
        mend = "see nvidia-smi and dmesg; reload or reinstall NVIDIA's driver"
        gpu = Check("GPU", Verdict.note, f"none seen: {smi.error or 'nvidia-smi lists none'}", mend)
    probe = ask(sys.executable, "-m", "deltalab.kernels.probe", seconds=TORCH_SECONDS)
    facts: dict[str, dict] = {}
    for line in probe.out.splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    if "cuda" not in facts:
        mend = 'python -c "import torch" shows more; else ' + INSTALL
        broken = Check("torch", Verdict.broken, f"cannot be loaded: {probe.error}", mend)
        return [gpu, _slow("torch", probe) if probe.late else broken]

    def judged(name: str, part: str, judge: Callable[[dict], Check]) -> Check:
        if part not in facts and probe.late:
            return _slow(name, probe)
        return judge(facts.get(part, {"error": probe.error or "it said nothing"}))

    triton = judged("Triton", "triton", lambda found: _triton(found, bool(names)))
    return [gpu, _torch(facts["cuda"], names), triton, judged("recurrence", "recurrence", _recurrence)]


def _slow(name: str, probe: Answer) -> Check:
    mend = "a busy machine or a cold file system; look again when it has less to do, trials start as slowly"
    return Check(name, Verdict.note, f"slow: {probe.error}, so nothing is known of it", mend)


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
    named = os.environ.get("CC")
    compiler = shutil.which(named) if named else shutil.which("gcc") or shutil.which("clang")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    lacks = [] if compiler else [f"a C compiler ({f'CC={named} is none' if named else 'gcc, clang or CC'})"]
    lacks += [] if header.exists() else [f"Python's headers ({header})"]
    install = "install them: apt-get install gcc python3-dev, or load a compiler's module" if lacks else ""
    if facts.get("ran"):
        return Check("Triton", Verdict.ok, f"{facts['triton']} compiled a kernel and ran it on the GPU")
    if lacks and gpu:
        return Check("Triton", Verdict.note, f"needs {' and '.join(lacks)} at its first run", install)
    if "error" in facts:
        mend = install or "remove ~/.triton/cache and look again; " + INSTALL
        return Check("Triton", Verdict.note, f"no kernel runs: {facts['error']}", mend)
    if not facts["triton"]:
        return Check("Triton", Verdict.note, "not installed", INSTALL)
    missing = f"; on a GPU it would need {' and '.join(lacks)}" if lacks else f"; for a GPU, {compiler} is there"
    return Check("Triton", Verdict.ok, f"{facts['triton']}, not used without a GPU{missing}", install)


def _recurrence(facts: dict) -> Check:
    if "error" in facts:
        return Check("recurrence", Verdict.broken, f"fails: {facts['error']}", INSTALL)
    said = f"the {facts['form']} form ({facts['why']});"
    if facts["off"] < 1e-3:
        return Check("recurrence", Verdict.ok, f"{said} it agrees with the reference to {facts['off']:.0e}")
    mend = "this torch computes wrongly here: another version, or another machine"
    return Check("recurrence", Verdict.broken, f"{said} it is off the reference by {facts['off']:.0e}", mend)
