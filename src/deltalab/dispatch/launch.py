"""From Hydra's overrides to launched studies: the part behind ``python launch.py``."""

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.prompt import Confirm

from deltalab.dispatch import snapshot
from deltalab.dispatch.gpus import gpu_shares
from deltalab.dispatch.ranks import accompany, refuse_several_ranks, together
from deltalab.dispatch.show import beyond_memory, make_console, on_gpus, plan_json, show_plan
from deltalab.dispatch.states import Observer
from deltalab.errors import ConfigError, StudyError, UsageError
from deltalab.spec import load
from deltalab.spec.launcher import Device, Kind, LauncherSpec
from deltalab.spec.load import LaunchSpec, Planning
from deltalab.spec.study import COMMAND_LINE, StudySpec
from deltalab.spec.study_file import find_study, parse_study, read_study
from deltalab.spec.trial import whole_seed
from deltalab.study import estimates, ledger
from deltalab.study.ledger import CellRecord, trial_dir
from deltalab.study.plan import Plan, hydra_overrides, make_plan, plain_study
from deltalab.study.resolve import resolve
from deltalab.track.journal import State
from deltalab.track.provenance import gpus
from deltalab.wording import many

if TYPE_CHECKING:
    from deltalab.dispatch.job import World
    from deltalab.dispatch.submit import Launch

LAUNCH_KEYS = ("study", "sweep", "plan", "confirmed", "json", "runs", "seed", "tracking")
"""Keys of the command line that steer the launch and are not part of a cell."""
COMPUTING = tuple(f"src/deltalab/{part}/" for part in ("data", "evals", "kernels", "mixers", "model", "train"))
"""Code that a trial's numbers depend on."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study as the command line asks for it.

    Attributes:
        study: the question.
        overrides: key → value for every cell.
    """

    study: StudySpec
    overrides: Mapping[str, str]

    def plan(self, observer: Observer) -> Plan:
        """The plan as things stand, its cells composed through Hydra's configuration."""
        made = make_plan(
            self.study,
            self.overrides,
            lambda parts: resolve(load.trial_spec(load.compose(parts))),
            observer.runs,
            observer.records,
        )
        return replace(made, warnings=[*made.warnings, *_other_code(made, observer.runs)])


def launch_jobs(jobs: Sequence[Sequence[str]], launcher: LauncherSpec, settings: LaunchSpec) -> int:
    """Launch the jobs of one multirun: a study per ``study=`` value, or one study made of the jobs themselves.

    Args:
        jobs: the overrides of each job, as Hydra's sweeper made them.
        launcher: how to run.
        settings: runs, plan, tracking.

    Returns:
        The worst exit code.
    """
    refuse_several_ranks()
    pairs = [_pairs(job) for job in jobs]
    code = 0
    for name in dict.fromkeys(pair.get("study") for pair in pairs):
        group = [pair for pair in pairs if pair.get("study") == name]
        if name in (None, "null"):
            request = _jobs_request(group, settings)
        else:
            request = _named_request(name, group, settings.sweep)
        code = max(code, plan_and_launch(request, launcher, settings))
    return code


def single_trial(overrides: Sequence[str], launcher: LauncherSpec, settings: LaunchSpec) -> int:
    """``python launch.py`` without ``-m``: the trial the overrides compose, in this process and those that torchrun
    started beside it."""
    if settings.sweep:
        key, value = next(iter(settings.sweep.items()))
        raise UsageError(f"sweep.{key}={value}: allowed with -m or study=NAME, a single trial sweeps over nothing")
    if launcher.kind is Kind.slurm:
        raise UsageError("hydra/launcher=slurm: allowed with -m; without it a trial runs in this process")
    pairs = _cell_keys(_pairs(overrides))
    plain = plain_study([pairs], [whole_seed(settings.seed)], settings.variant) | {"question": "one trial"}
    request = Request(study=parse_study(plain, COMMAND_LINE, "single"), overrides={})
    with together(launcher) as world:
        if world is not None and not world.main:
            return accompany(world, launcher)
        return plan_and_launch(request, replace(launcher, kind=Kind.inline), settings, world)


def plan_named(name: str, overrides: Sequence[str], runs: Path) -> Plan:
    """The plan that ``python launch.py -m study=NAME OVERRIDES plan=true`` shows."""
    sweep = load.launch_spec(load.compose([part for part in overrides if part.startswith("sweep.")])).sweep
    return _named_request(name, [_pairs(overrides)], sweep).plan(Observer(runs))


def plan_study(study: StudySpec, overrides: Mapping[str, str], runs: Path) -> Plan:
    """A study's plan as things stand in a runs folder."""
    return Request(study=study, overrides=overrides).plan(Observer(runs))


def plan_and_launch(
    request: Request, launcher: LauncherSpec, settings: LaunchSpec, world: "World | None" = None
) -> int:
    """Plan a study and, unless ``plan`` says otherwise, run it, with the ranks of ``world`` if there are any; returns
    the exit code."""
    from deltalab.dispatch.submit import Launch

    console, observer = make_console(stderr=settings.json), Observer(settings.runs)
    plan = request.plan(observer)
    launch = Launch(
        replan=lambda: request.plan(observer),
        launcher=launcher,
        tracking=settings.tracking,
        observer=observer,
        root=load.ROOT,
        command="python " + shlex.join(sys.argv),
        arguments=sys.argv[1:],
        console=console,
        world=world,
    )
    if settings.plan is not Planning.true:
        refuse_impossible(plan, launcher, ranks=world.size if world else None)
    if settings.plan is Planning.calibrate:
        _calibrate(plan, launch, console)
        plan = request.plan(observer)
    if settings.json:
        print(json.dumps(plan_json(plan, launcher), indent=1))
    else:
        show_plan(console, plan, launcher)
    if settings.plan is not Planning.false:
        return 0
    _confirm(plan, launcher, settings.confirmed)
    return launch.run(plan)


def _calibrate(plan: Plan, launch: "Launch", console: Console) -> None:
    """Run a few steps of every shape that was never measured, as trials of a study of their own."""
    specs, cells, trials = {}, [], plan.trials
    for trial in plan.unmeasured:
        spec = trials[trial]
        steps = min(estimates.CALIBRATION_STEPS, spec.train.steps)
        train = replace(spec.train, steps=steps, log_every=1, checkpoint_every=0)
        spec = replace(spec, train=train, eval=replace(spec.eval, every=0, suite_every=0))
        specs[spec.trial_id] = spec
        name = plan.names[trial].removesuffix(f" seed={spec.seed}")  # which the record adds again
        cells.append(CellRecord(name=name, levels={}, overrides={}, trials={spec.seed: spec.trial_id}))
    if not specs:
        console.print("Every shape was measured before; nothing to calibrate.", highlight=False)
        return
    study = replace(
        plan.study, name=plan.study.name + ledger.CALIBRATION, question="calibration", factors={}, tune=None
    )
    measured = Plan(study=study, cells=cells, specs=specs, records=launch.observer.records(specs))
    tracking = replace(launch.tracking, mlflow=False)
    replace(launch, replan=lambda: measured, tracking=tracking, arguments=[]).run(measured)
    if launch.launcher.kind is Kind.slurm:
        console.print("Times and memory are in the plan once these have run.", highlight=False)


def refuse_impossible(plan: Plan, launcher: LauncherSpec, retry: bool = False, ranks: int | None = None) -> None:
    """Say before anything starts what this machine, or a batch, cannot do.

    Args:
        plan: what to run.
        launcher: how.
        retry: trials are run again that have ended.
        ranks: processes of a trial that are there already; None where the launcher starts them.

    Raises:
        UsageError: no Slurm, no GPU, too few GPUs, a batch that a trial's processes cannot divide, or a GPU that is
            said to have too little memory.
        SlurmError: there are trials to submit and no cluster answers.
    """
    processes = launcher.processes
    if launcher.kind is Kind.slurm:
        from deltalab.dispatch.slurm import refuse_without_slurm
        from deltalab.dispatch.submit import TO_LAUNCH

        refuse_without_slurm(retry or launcher.retry_failed or bool(plan.with_state(*TO_LAUNCH)))
    elif launcher.device is Device.cuda and not gpus():
        raise UsageError("hydra.launcher.device=cuda: no GPU is visible here; allowed is auto or cpu")
    elif not gpu_shares(launcher):
        processes = 1
    for trial, spec in plan.trials.items():
        try:
            spec.train.parts(ranks or processes)
        except ConfigError as error:
            whence = "" if ranks else "; hydra.launcher.gpus_per_trial and nodes say how many"
            raise UsageError(f"{plan.names[trial]}: {error}{whence}") from error
    if too_much := beyond_memory(plan, launcher):
        raise UsageError(too_much[0])


def _confirm(plan: Plan, launcher: LauncherSpec, confirmed: bool) -> None:
    """Ask before a study that costs more than the launcher's threshold.

    Raises:
        UsageError: nobody is there to be asked, or the answer is no.
    """
    open_ = [t for t in plan.specs if plan.records[t].state not in (State.running, State.queued)]
    hours = (plan.seconds(t for t in open_ if t in plan.timings) or 0.0) / 3600 * launcher.processes
    if hours <= launcher.confirm_gpu_hours or confirmed:
        return
    least = "at least" if any(t not in plan.timings for t in open_) else "about"
    said = f"{plan.study.name} takes {least} {hours:,.1f} {'GPU' if on_gpus(launcher) else 'worker'}-hours"
    if sys.stdin.isatty() and Confirm.ask(f"{said}; launch it?", default=False):
        return
    limit = f"hydra.launcher.confirm_gpu_hours={launcher.confirm_gpu_hours:g}"
    raise UsageError(f"{limit}: {said}; --yes launches it, plan=true shows it")


def _other_code(plan: Plan, runs: Path) -> list[str]:
    """A warning where trials were run, or begun, by other code than today's."""
    begun = [trial for trial, record in plan.records.items() if record.started is not None]
    by_code: dict[str, list[str]] = {}
    for trial in begun:
        path = trial_dir(runs, trial) / "provenance.json"
        digest = json.loads(path.read_text()).get("snapshot") if path.exists() else None
        by_code.setdefault(digest or "", []).append(trial)
    warnings = []
    for digest, trials in by_code.items():
        files = snapshot.changed(load.ROOT, runs, digest, COMPUTING) if digest else []
        if files:
            open_ = sum(not plan.records[trial].state.terminal for trial in trials)
            more = f" and {len(files) - 1} more" if len(files) > 1 else ""
            theirs = f"; {open_} not done, hydra.launcher.code=submitted continues with theirs" if open_ else ""
            warnings.append(
                f"{many(len(trials), 'trial')} ran other code than today's: {files[0]}{more} changed since{theirs}"
            )
    return warnings


def _named_request(name: str, group: list[dict[str, str]], sweep: dict[str, Any]) -> Request:
    common = [_cell_keys(pair) for pair in group]
    if any(other != common[0] for other in common):
        varied = next(k for k in common[0] if len({other.get(k) for other in common}) > 1)
        raise UsageError(f"{varied}: several values beside study={name}; make it a factor of the study's file")
    seeds = _seeds(group)
    changes = {**sweep, **({"seeds": seeds} if seeds else {})}
    return Request(study=read_study(find_study(name, load.ROOT / "sweeps"), changes), overrides=common[0])


def _jobs_request(group: list[dict[str, str]], settings: LaunchSpec) -> Request:
    common = [_cell_keys(pair) for pair in group]
    asked = sorted(" ".join(hydra_overrides(pair)) for pair in common)
    asked += [json.dumps(settings.sweep, sort_keys=True)] if settings.sweep else []
    digest = hashlib.sha256("\n".join(dict.fromkeys(asked)).encode()).hexdigest()[:8]
    sweep = dict(settings.sweep)
    plain = plain_study(common, _seeds(group) or sweep.pop("seeds", [0]), settings.variant)
    varying = [factor for factor in plain["factors"] if any(plain["factors"][factor].values())]
    if "factors" in sweep and varying:
        raise StudyError(COMMAND_LINE, "factors", sweep["factors"], f"none beside keys that vary: {', '.join(varying)}")
    plain["overrides"] = {**(sweep.pop("overrides", None) or {}), **plain["overrides"]}
    plain |= {key: value for key, value in sweep.items() if key != "seeds"}
    name = str(plain.pop("name", f"multirun-{digest}"))
    return Request(study=parse_study(plain, COMMAND_LINE, name), overrides={})


def _seeds(group: list[dict[str, str]]) -> list[int]:
    return [whole_seed(seed) for seed in dict.fromkeys(pair["seed"] for pair in group if "seed" in pair)]


def _pairs(overrides: Sequence[str]) -> dict[str, str]:
    """Override strings as key → value; Hydra's own keys are not a cell's business."""
    for override in overrides:
        if override.startswith("~") or "=" not in override:
            raise UsageError(f"{override}: allowed is key=value")
    split = (override.split("=", 1) for override in overrides)
    return {key: value for key, value in split if not key.startswith("hydra")}


def _cell_keys(pairs: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in pairs.items() if key.split(".", 1)[0] not in LAUNCH_KEYS}
