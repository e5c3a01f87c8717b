"""From Hydra's overrides to launched studies: the part behind ``python launch.py``."""

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deltalab.dispatch.show import make_console, show_plan
from deltalab.errors import UsageError
from deltalab.spec import load
from deltalab.spec.launcher import Device, Kind, LauncherSpec
from deltalab.spec.load import LaunchSpec
from deltalab.spec.study import StudySpec
from deltalab.spec.study_file import find_study, read_study
from deltalab.study.plan import Plan, hydra_overrides, make_plan, study_from_jobs
from deltalab.study.resolve import resolve
from deltalab.track.provenance import gpus, provenance

LAUNCH_KEYS = ("study", "plan", "runs", "seed", "tracking")
"""Keys of the command line that steer the launch and are not part of a cell."""


def launch_jobs(jobs: Sequence[Sequence[str]], launcher: LauncherSpec, settings: LaunchSpec) -> int:
    """Launch the jobs of one multirun: a study per ``study=`` value, or one study made of the jobs themselves.

    Args:
        jobs: the overrides of each job, as Hydra's sweeper made them.
        launcher: how to run.
        settings: runs, plan, tracking.

    Returns:
        The worst exit code.
    """
    pairs = [_pairs(job) for job in jobs]
    code = 0
    for name in dict.fromkeys(pair.get("study") for pair in pairs):
        group = [pair for pair in pairs if pair.get("study") == name]
        study, overrides = (
            _named_study(name, group) if name not in (None, "null") else (_jobs_study(group, settings.variant), {})
        )
        code = max(code, plan_and_launch(study, overrides, launcher, settings))
    return code


def plan_named(name: str, overrides: Sequence[str], runs: Path) -> Plan:
    """The plan that ``python launch.py -m study=NAME OVERRIDES plan=true`` shows."""
    return plan_study(*_named_study(name, [_pairs(overrides)]), runs)


def plan_and_launch(
    study: StudySpec, overrides: Mapping[str, str], launcher: LauncherSpec, settings: LaunchSpec
) -> int:
    """Plan a study and, unless ``plan=true``, run it; returns the exit code."""
    console = make_console()
    runs = settings.runs
    plan = plan_study(study, overrides, runs)
    if settings.plan:
        show_plan(console, plan)
        return 0
    if launcher.device is Device.cuda and not gpus():
        raise UsageError("hydra.launcher.device=cuda: no GPU is visible here; allowed is auto or cpu")
    from deltalab.dispatch.submit import launch

    command = "python " + shlex.join(sys.argv)
    return launch(plan, launcher, settings.tracking, runs, command, provenance(load.ROOT), console)


def plan_study(study: StudySpec, overrides: Mapping[str, str], runs: Path) -> Plan:
    """A study's plan, its cells composed through Hydra's configuration."""
    return make_plan(study, overrides, lambda parts: resolve(load.trial_spec(load.compose(parts))), runs)


def single_trial(overrides: Sequence[str], launcher: LauncherSpec, settings: LaunchSpec) -> int:
    """``python launch.py`` without ``-m``: the trial the overrides compose, in this process."""
    pairs = _cell_keys(_pairs(overrides))
    study = study_from_jobs([pairs], [settings.seed], "single", settings.variant)
    inline = replace(launcher, kind=Kind.inline)
    return plan_and_launch(replace(study, question="one trial"), {}, inline, settings)


def _named_study(name: str, group: list[dict[str, str]]) -> tuple[StudySpec, dict[str, str]]:
    study = read_study(find_study(name, load.ROOT / "sweeps"))
    common = [_cell_keys(pair) for pair in group]
    if any(other != common[0] for other in common):
        varied = next(k for k in common[0] if len({other.get(k) for other in common}) > 1)
        raise UsageError(f"{varied}: several values beside study={name}; make it a factor of the study's file")
    seeds = _seeds(group)
    return (replace(study, seeds=seeds) if seeds else study), common[0]


def _jobs_study(group: list[dict[str, str]], variant: str) -> StudySpec:
    common = [_cell_keys(pair) for pair in group]
    asked = sorted(" ".join(hydra_overrides(pair)) for pair in common)
    digest = hashlib.sha256("\n".join(dict.fromkeys(asked)).encode()).hexdigest()[:8]
    return study_from_jobs(common, _seeds(group) or [0], f"multirun-{digest}", variant)


def _seeds(group: list[dict[str, str]]) -> list[int]:
    found = dict.fromkeys(pair["seed"] for pair in group if "seed" in pair)
    try:
        return [int(seed) for seed in found]
    except ValueError:
        raise UsageError(f"seed={','.join(found)}: allowed is whole numbers from 0") from None


def _pairs(overrides: Sequence[str]) -> dict[str, str]:
    """Override strings as key → value; Hydra's own keys are not a cell's business."""
    for override in overrides:
        if override.startswith("~") or "=" not in override:
            raise UsageError(f"{override}: allowed is key=value")
    split = (override.split("=", 1) for override in overrides)
    return {key: value for key, value in split if not key.startswith("hydra")}


def _cell_keys(pairs: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in pairs.items() if key.split(".", 1)[0] not in LAUNCH_KEYS}
