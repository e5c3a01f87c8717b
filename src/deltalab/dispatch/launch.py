"""From Hydra's overrides to launched studies: the part behind ``python launch.py``."""

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from deltalab.dispatch.show import show_plan
from deltalab.errors import UsageError
from deltalab.spec import load
from deltalab.spec.launcher import LauncherSpec
from deltalab.spec.study import StudySpec
from deltalab.spec.study_file import find_study, read_study
from deltalab.study.plan import Plan, hydra_overrides, make_plan, study_from_jobs
from deltalab.study.resolve import resolve
from deltalab.track.provenance import provenance

LAUNCH_KEYS = ("study", "plan", "runs", "seed")
"""Keys of the command line that steer the launch and are not part of a cell."""


def launch_jobs(jobs: Sequence[Sequence[str]], launcher: LauncherSpec, config: DictConfig) -> int:
    """Launch the jobs of one multirun: a study per ``study=`` value, or one study made of the jobs themselves.

    Args:
        jobs: the overrides of each job, as Hydra's sweeper made them.
        launcher: how to run.
        config: the composed root (runs, plan, tracking).

    Returns:
        The worst exit code.
    """
    pairs = [_pairs(job) for job in jobs]
    code = 0
    for name in dict.fromkeys(pair.get("study") for pair in pairs):
        group = [pair for pair in pairs if pair.get("study") == name]
        study, overrides = (
            _named_study(name, group) if name not in (None, "null") else (_jobs_study(group, config.variant.name), {})
        )
        code = max(code, plan_and_launch(study, overrides, launcher, config))
    return code


def plan_and_launch(study: StudySpec, overrides: Mapping[str, str], launcher: LauncherSpec, config: DictConfig) -> int:
    """Plan a study and, unless ``plan=true``, run it; returns the exit code."""
    console = make_console()
    runs = Path(config.runs)
    plan = plan_study(study, overrides, runs)
    if config.plan:
        show_plan(console, plan)
        return 0
    from deltalab.dispatch.submit import launch

    command = "python " + shlex.join(sys.argv)
    return launch(plan, launcher, load.tracking_spec(config), runs, command, provenance(load.ROOT), console)


def plan_study(study: StudySpec, overrides: Mapping[str, str], runs: Path) -> Plan:
    """A study's plan, its cells composed through Hydra's configuration."""
    return make_plan(study, overrides, lambda parts: resolve(load.trial_spec(load.compose(parts))), runs)


def single_trial(overrides: Sequence[str], launcher: LauncherSpec, config: DictConfig) -> int:
    """``python launch.py`` without ``-m``: the trial the overrides compose, in this process."""
    pairs = {key: value for key, value in _pairs(overrides).items() if key not in LAUNCH_KEYS}
    study = study_from_jobs([pairs], [config.seed], "single", config.variant.name)
    return plan_and_launch(replace(study, question="one trial"), {}, launcher, config)


def make_console() -> Console:
    """Where launches are shown; wide enough for a plan where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _named_study(name: str, group: list[dict[str, str]]) -> tuple[StudySpec, dict[str, str]]:
    study = read_study(find_study(name, load.ROOT / "sweeps"))
    common = [{k: v for k, v in pair.items() if k not in LAUNCH_KEYS} for pair in group]
    if any(other != common[0] for other in common):
        varied = next(k for k in common[0] if len({other.get(k) for other in common}) > 1)
        raise UsageError(f"{varied}: several values beside study={name}; make it a factor of the study's file")
    seeds = _seeds(group)
    return (replace(study, seeds=seeds) if seeds else study), common[0]


def _jobs_study(group: list[dict[str, str]], variant: str) -> StudySpec:
    common = [{k: v for k, v in pair.items() if k not in LAUNCH_KEYS} for pair in group]
    asked = sorted(" ".join(hydra_overrides(pair)) for pair in common)
    digest = hashlib.sha256("\n".join(dict.fromkeys(asked)).encode()).hexdigest()[:8]
    return study_from_jobs(common, _seeds(group) or [0], f"multirun-{digest}", variant)


def _seeds(group: list[dict[str, str]]) -> list[int]:
    found = dict.fromkeys(pair["seed"] for pair in group if "seed" in pair)
    try:
        return [int(seed) for seed in found]
    except ValueError:
        raise UsageError(f"seed={','.join(found)}: allowed is whole numbers from 0") from None


def _pairs(overrides: Sequence[str]) -> dict[str, Any]:
    """Override strings as key → value; Hydra's own keys are not a cell's business."""
    split = (override.split("=", 1) for override in overrides)
    return {key: value for key, value in split if not key.startswith("hydra")}
