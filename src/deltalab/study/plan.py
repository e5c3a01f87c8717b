"""The plan: every cell of a study as frozen trials, with what it costs and what state it is in."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltalab.errors import StudyError, UsageError
from deltalab.model.accounting import cost, solve_mlp_width
from deltalab.spec.data import TextSpec
from deltalab.spec.study import Goal, Match, StudySpec
from deltalab.spec.study_file import text
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.study.design import cell_name, cells_of
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import State

Compose = Callable[[Sequence[str]], TrialSpec]
"""Hydra overrides → resolved TrialSpec; handed in so that planning knows nothing of Hydra."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study, ready to be launched.

    Attributes:
        study: the question (seeds and metrics filled in).
        cells: as they will be recorded, baseline first.
        specs: trial id → frozen spec, in launch order (seed by seed, so that every cell has an answer early).
        states: trial id → present state.
        warnings: lines the user should see.
    """

    study: StudySpec
    cells: list[CellRecord]
    specs: dict[str, TrialSpec]
    states: dict[str, State]
    warnings: list[str]

    def with_state(self, *states: State) -> list[str]:
        """Trial ids in one of these states, in launch order."""
        return [trial for trial, state in self.states.items() if state in states]


def make_plan(study: StudySpec, overrides: Mapping[str, str], compose: Compose, runs: Path) -> Plan:
    """Compose, match and cost every cell; nothing is written.

    Args:
        study: the question.
        overrides: key → value from the command line, for every cell (``seed`` excepted).
        compose: see ``Compose``.
        runs: the runs folder, for the present states.

    Raises:
        StudyError: the baseline is excluded.
        UsageError: a cell cannot be composed, or an override names a factor's key.
    """
    _refuse_factor_overrides(study, overrides)
    cells: list[CellRecord] = []
    by_seed: dict[tuple[int, int], TrialSpec] = {}
    target: int | None = None
    for levels, excluded in cells_of(study):
        if excluded is not None:
            if not cells:
                raise StudyError(study.source, "exclude", excluded, "any cell but the baseline")
            cells.append(CellRecord(name=cell_name(levels), levels=levels, overrides={}, excluded=excluded))
            continue
        merged = {**study.overrides, **overrides}
        for factor, level in levels.items():
            merged |= study.factors[factor][level]
        spec = _compose_cell(compose, merged, cell_name(levels))
        if study.match is Match.parameters and target is not None and spec.model.mlp_width:
            width = solve_mlp_width(spec.variant, spec.model, target)
            spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, mlp_width=width))
        record = _cell_record(levels, merged, spec, target, study.seeds)
        target = target or record.parameters
        for place, seed in enumerate(study.seeds):
            by_seed[place, len(cells)] = dataclasses.replace(spec, seed=seed)
        cells.append(record)
    specs = {spec.trial_id: spec for _, spec in sorted(by_seed.items(), key=lambda item: item[0])}
    some = next(iter(specs.values()))
    study = dataclasses.replace(study, metrics=study.metrics or _default_metrics(some))
    _refuse_unknown_metrics(study, some)
    states = {trial: ledger.state_of(runs, trial) for trial in specs}
    return Plan(study=study, cells=cells, specs=specs, states=states, warnings=_warnings(study, cells))


def hydra_overrides(merged: Mapping[str, Any]) -> list[str]:
    """key → value as Hydra override strings."""
    return [f"{key}={text(value)}" for key, value in merged.items()]


def study_from_jobs(jobs: Sequence[Mapping[str, str]], seeds: list[int], name: str, variant: str) -> StudySpec:
    """An ordinary multirun as a study: keys that vary are factors, the first combination is the baseline.

    Args:
        jobs: key → value of each job, ``seed`` left out.
        seeds: the seeds swept over.
        name: the study's name.
        variant: the variant of a job that names none.
    """
    varying = [key for key in jobs[0] if len({job[key] for job in jobs}) > 1]
    common = {key: value for key, value in jobs[0].items() if key not in varying}
    factors = {key: {job[key]: {key: job[key]} for job in jobs} for key in varying}
    if not factors:
        factors = {"variant": {jobs[0].get("variant", variant): {}}}
        cells = [{"variant": jobs[0].get("variant", variant)}]
    else:
        cells = [{key: job[key] for key in varying} for job in jobs]
    given = " ".join(shlex.quote(part) for part in hydra_overrides(common))
    return StudySpec(
        name=name,
        question=f"multirun over {', '.join(varying) or 'seeds'}" + (f", with {given}" if given else ""),
        baseline=cells[0],
        factors=factors,
        seeds=seeds,
        overrides=common,
    )


def _compose_cell(compose: Compose, merged: Mapping[str, Any], name: str) -> TrialSpec:
    try:
        return compose(hydra_overrides(merged))
    except UsageError as error:
        raise UsageError(f"cell {name}: {error}") from error


def _cell_record(
    levels: dict[str, str], merged: dict[str, Any], spec: TrialSpec, target: int | None, seeds: list[int]
) -> CellRecord:
    costs = cost(spec.variant, spec.model, spec.data.train_length)
    return CellRecord(
        name=cell_name(levels),
        levels=levels,
        overrides={**merged, "model.mlp_width": spec.model.mlp_width},
        parameters=costs.parameters,
        state_size=costs.state,
        cache_size=costs.cache,
        flops_per_token=costs.flops,
        mismatch=costs.parameters / (target or costs.parameters) - 1,
        trials={seed: dataclasses.replace(spec, seed=seed).trial_id for seed in seeds},
    )


def _refuse_factor_overrides(study: StudySpec, overrides: Mapping[str, str]) -> None:
    for factor, levels in study.factors.items():
        keys = {key for level in levels.values() for key in level} | {factor}
        for key in overrides:
            if key in keys:
                raise UsageError(f"{key}={overrides[key]}: {key} is set by factor {factor} of study {study.name}")


def _default_metrics(spec: TrialSpec) -> dict[str, Goal]:
    if isinstance(spec.data, TextSpec):
        return {"eval/loss": Goal.min, "eval/bits_per_byte": Goal.min}
    return {"eval/accuracy": Goal.max, "eval/loss": Goal.min}


def _refuse_unknown_metrics(study: StudySpec, spec: TrialSpec) -> None:
    known = ["eval/loss", "eval/accuracy", *(f"eval/accuracy/{name}" for name in spec.data.slices)]
    if isinstance(spec.data, TextSpec):
        known += ["eval/perplexity", "eval/bits_per_byte"]
    known += [f"train/{name}" for name in ("loss", "accuracy", "grad_norm", "tokens_per_second")]
    for metric in study.metrics:
        if metric not in known:
            raise StudyError(study.source, f"metrics.{metric}", study.metrics[metric].value, ", ".join(known))


def _warnings(study: StudySpec, cells: list[CellRecord]) -> list[str]:
    if study.match is Match.none:
        return []
    return [
        f"{cell.name}: {cell.parameters:,} parameters, {cell.mismatch:+.2%} from the baseline, cannot be matched "
        f"within {study.tolerance:.2%} by model.mlp_width"
        for cell in cells
        if abs(cell.mismatch) > study.tolerance
    ]
