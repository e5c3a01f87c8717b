"""Checks of Slurm as it is seen from here."""

import re
import shutil

from deltalab.dispatch.doctor.findings import Check, Verdict, ask
from deltalab.track.claim import STALE_SECONDS


def check_slurm() -> list[Check]:
    """Slurm's programs, controller, accounting and partitions. All notes: the local pool needs none of it."""
    missing = [name for name in ("sbatch", "squeue", "scontrol", "sinfo", "sacct") if shutil.which(name) is None]
    if "sbatch" in missing:
        mend = "for hydra/launcher=slurm, work on a cluster's login node; the local pool does without"
        return [Check("Slurm", Verdict.note, "none here: no sbatch in PATH", mend)]
    if missing:
        return [Check("Slurm", Verdict.note, f"no {', '.join(missing)} in PATH", "install all of slurm-client")]
    ping = ask("scontrol", "ping")
    if ping.error or " UP" not in ping.out:
        first = ping.out.splitlines()[0] if ping.out else ping.error
        mend = "SLURM_CONF must name the cluster's slurm.conf; on the cluster's side, see slurmctld and munged"
        return [Check("Slurm", Verdict.note, f"the controller does not answer: {first}", mend)]
    config = ask("scontrol", "show", "config")
    if config.error:
        return [Check("Slurm", Verdict.note, f"the controller refuses: {config.error}", "see munged and slurmctld")]
    said = dict(re.findall(r"^(\w+) += (.*)$", config.out, re.MULTILINE))
    found = f"{said.get('SLURM_VERSION')}, cluster {said.get('ClusterName')}, MaxArraySize {said.get('MaxArraySize')}"
    return [Check("Slurm", Verdict.ok, found), _accounting(), _partitions()]


def _accounting() -> Check:
    asked = ask("sacct", "--noheader", "--allocations", "--starttime", "now")
    if not asked.error:
        return Check("accounting", Verdict.ok, "sacct answers")
    mend = f"without it a dead job is noticed {STALE_SECONDS:g} s after its heartbeat stops; AccountingStorageType"
    return Check("accounting", Verdict.note, asked.error, f"{mend}=accounting_storage/slurmdbd switches it on")


def _partitions() -> Check:
    asked = ask("sinfo", "--noheader", "--format=%P|%a|%D|%T|%G")
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
