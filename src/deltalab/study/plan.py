"""The plan: every cell of a study as frozen trials, with what it costs and what state it is in."""

import dataclasses
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltalab.errors import UsageError
from deltalab.model.accounting import cost
from deltalab.model.matching import layer_states, state_mismatch
from deltalab.spec.evaluation import Work
from deltalab.spec.study import Equivalence, Match, StudySpec
from deltalab.spec.study_file import text
from deltalab.spec.trial import TrialSpec
from deltalab.study import estimates
from deltalab.study.asked import default_metrics, refuse_overrides, refuse_unknown_metrics
from deltalab.study.blocks import blocks_of
from deltalab.study.design import cell_name, cells_of
from deltalab.study.equivalence import classes, equivalence_key
from deltalab.study.estimates import Timing
from deltalab.study.ledger import CellRecord, StudyRecord, load_work, trial_dir
from deltalab.study.match import Budget, budget_of, mismatches
from deltalab.study.tuning import best
from deltalab.track.journal import Record, State

Compose = Callable[[Sequence[str]], TrialSpec]
"""Hydra overrides → resolved TrialSpec; handed in so that planning knows nothing of Hydra."""
Records = Callable[[Iterable[str]], dict[str, Record]]
"""Trial ids → what is known of them; handed in so that planning knows nothing of schedulers."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study, ready to be launched.

    Attributes:
        study: the question (seeds and metrics filled in).
        cells: as they will be recorded, baseline first.
        specs: trial id → frozen spec, in launch order: trials that tune first, then seed by seed, so that every cell
            has an answer early.
        records: trial id → what is known of it.
        timings: trial id → a measurement of its shape, where there is one.
        warnings: lines the user should see.
    """

    study: StudySpec
    cells: list[CellRecord]
    specs: Mapping[str, Work]
    records: dict[str, Record]
    timings: dict[str, Timing] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def trials(self) -> dict[str, TrialSpec]:
        """``specs`` less the evaluations of trials."""
        return {trial: spec for trial, spec in self.specs.items() if isinstance(spec, TrialSpec)}

    @property
    def states(self) -> dict[str, State]:
        """Trial id → present state."""
        return {trial: record.state for trial, record in self.records.items()}

    @property
    def names(self) -> dict[str, str]:
        """Trial id → how it is called: ``variant=kda seed=1``; the first cell's name where cells share it."""
        named = [pair for cell in self.cells for pair in cell.named_trials()]
        return {trial: name for name, trial in reversed(named)}

    @property
    def waiting(self) -> list[CellRecord]:
        """Cells whose trials are not known before those that tune have ended."""
        return [cell for cell in self.cells if cell.waits]

    @property
    def coming(self) -> int:
        """How many trials of cells that wait for tuning a launch has yet to plan."""
        if self.study.tune is None:
            return 0
        shared = self.study.equivalence is Equivalence.share
        return len(self.study.seeds) * sum(not (shared and cell.equivalent) for cell in self.waiting)

    def with_state(self, *states: State) -> list[str]:
        """Trial ids in one of these states, in launch order."""
        return [trial for trial in self.specs if self.records[trial].state in states]

    def seconds(self, trials: Iterable[str]) -> float | None:
        """Time that trials still take, one after another, or None where the shape of one was never measured."""
        total, specs = 0.0, self.trials
        for trial in trials:
            if trial not in self.timings:
                return None
            if not self.records[trial].state.terminal:
                total += self.timings[trial].seconds(specs[trial], self.records[trial].step)
        return total

    @property
    def unmeasured(self) -> list[str]:
        """A trial of each shape that is yet to run and was never measured."""
        unknown = ((trial, spec) for trial, spec in self.trials.items() if trial not in self.timings)
        open_ = ((trial, spec) for trial, spec in unknown if not self.records[trial].state.terminal)
        return list({estimates.key(spec): trial for trial, spec in open_}.values())


def make_plan(study: StudySpec, overrides: Mapping[str, str], compose: Compose, runs: Path, records: Records) -> Plan:
    """Compose, match and cost every cell; nothing is written.

    Args:
        study: the question.
        overrides: key → value from the command line, for every cell (``seed`` excepted).
        compose: see ``Compose``.
        runs: the runs folder, for earlier measurements.
        records: see ``Records``.

    Raises:
        StudyError: the baseline is excluded.
        UsageError: a cell cannot be composed, or an override names a key that a factor or ``tune`` sets.
    """
    return _Planner(study, overrides, compose, runs, records).plan()


class _Planner:
    """Makes a plan cell by cell; see ``make_plan``."""

    def __init__(
        self, study: StudySpec, overrides: Mapping[str, str], compose: Compose, runs: Path, records: Records
    ) -> None:
        self.study, self.overrides, self.runs = study, overrides, runs
        self._compose, self._records = compose, records
        self._specs: dict[str, TrialSpec] = {}
        self._known: dict[str, Record] = {}
        self._first: Budget | None = None

    def plan(self) -> Plan:
        refuse_overrides(self.study, self.overrides)
        merged, specs, cells = {}, {}, []
        for levels, excluded in cells_of(self.study):
            name = cell_name(levels)
            if excluded is not None:
                if not cells:
                    raise self.study.mistake("exclude", excluded, "any cell but the baseline")
                cells.append(CellRecord(name=name, levels=levels, overrides={}, excluded=excluded))
                continue
            merged[name] = self._merged(levels)
            specs[name] = self._matched(merged[name], name)
            cells.append(self._record(name, levels, merged[name], specs[name]))
        some = next(iter(specs.values()))
        study = self.study = dataclasses.replace(self.study, metrics=self.study.metrics or default_metrics(some))
        refuse_unknown_metrics(study, some)
        cells = self._with_equivalents(cells, specs, merged)
        if study.tune is not None:
            cells = self._tuned(cells, merged)
        cells = self._with_trials(cells, specs, merged)
        self._look()
        known = {trial: self._known[trial] for trial in self._specs}
        timings = self._timings()
        warnings = mismatches(study, cells)
        warnings += [block.lacks for block in blocks_of(cells, study.baseline, study.within) if block.lacks]
        return Plan(study=study, cells=cells, specs=self._specs, records=known, timings=timings, warnings=warnings)

    def _merged(self, levels: dict[str, str]) -> dict[str, Any]:
        merged = {**self.study.overrides, **self.overrides}
        for factor, level in levels.items():
            merged |= self.study.factors[factor][level]
        return merged

    def _matched(self, merged: Mapping[str, Any], name: str) -> TrialSpec:
        """The cell's spec; where cells are matched, with the MLP width that meets the first cell's budget."""
        try:
            spec = self._compose(hydra_overrides(merged))
        except UsageError as error:
            if self._all_say(str(error)):
                raise
            raise UsageError(f"cell {name}: {error}") from error
        if self._first is None:
            self._first = budget_of(spec)
        elif self.study.match is Match.parameters:
            spec = self._first.match(spec)
        return spec

    def _all_say(self, mistake: str) -> bool:
        """Whether a mistake is every cell's, so that none need be named."""
        for levels, excluded in cells_of(self.study):
            try:
                if excluded is None:
                    self._compose(hydra_overrides(self._merged(levels)))
                    return False
            except UsageError as error:
                if str(error) != mistake:
                    return False
        return True

    def _record(self, name: str, levels: dict[str, str], merged: dict[str, Any], spec: TrialSpec) -> CellRecord:
        costs = cost(spec.variant, spec.model, spec.data.train_length)
        budget = budget_of(spec)
        if self._first is not None and (self.study.match is Match.parameters or not budget.stated):
            budget = self._first
        return CellRecord(
            name=name,
            levels=levels,
            overrides={**merged, "model.depth": spec.model.depth, "model.mlp_width": spec.model.mlp_width},
            layers={layer.value: count for layer, count in Counter(spec.variant.layers(spec.model.depth)).items()},
            mlp_width=spec.model.mlp_width or 0,
            budget=budget.parameters if budget.stated else None,
            budget_vocab=budget.vocab,
            parameters=costs.parameters,
            state_size=costs.state,
            cache_size=costs.cache,
            flops_per_token=costs.flops,
            layer_state=max(layer_states(spec.variant, spec.model), default=0),
            state_mismatch=state_mismatch(spec.variant, spec.model),
            mismatch=budget.mismatch(spec),
        )

    def _with_equivalents(
        self, cells: list[CellRecord], specs: Mapping[str, TrialSpec], merged: Mapping[str, dict[str, Any]]
    ) -> list[CellRecord]:
        """Cells that compute what an earlier one computes, at every value that is tried, carry its name."""
        keys = {}
        for cell in cells:
            if cell.excluded is None:
                values = self.study.tune.values(cell.levels) if self.study.tune else []
                tried = [self._valued(cell, merged[cell.name], text(value)) for value in values]
                keys[cell.name] = " ".join(map(equivalence_key, tried or [specs[cell.name]]))
        first = classes(keys)
        return [dataclasses.replace(cell, equivalent=first.get(cell.name)) for cell in cells]

    def _shared(self, cell: CellRecord, cells: list[CellRecord]) -> CellRecord | None:
        """The cell whose trials this one shares."""
        if cell.equivalent is None or self.study.equivalence is not Equivalence.share:
            return None
        return next(other for other in cells if other.name == cell.equivalent)

    def _tuned(self, cells: list[CellRecord], merged: Mapping[str, dict[str, Any]]) -> list[CellRecord]:
        """Every cell's value of the tuned key: chosen where its tuning trials have ended, else open."""
        tune = self.study.tune
        assert tune is not None
        tried: dict[str, dict[str, dict[int, str]]] = {}
        for cell in cells:
            if cell.excluded is None and self._shared(cell, cells) is None:
                tried[cell.name] = {
                    f"{tune.key}={text(value)}": self._seeded(
                        self._valued(cell, merged[cell.name], text(value)), tune.seeds
                    )
                    for value in tune.values(cell.levels)
                }
        self._look()
        chosen = []
        for cell in cells:
            owner = self._shared(cell, cells) or cell
            tuning = tried.get(owner.name, {})
            trials = [trial for seeds in tuning.values() for trial in seeds.values()]
            over = bool(trials) and all(self._known[trial].state.terminal for trial in trials)
            chosen.append(dataclasses.replace(cell, tuning=tuning, tuned=self._best(cell, tuning) if over else None))
        return chosen

    def _valued(self, cell: CellRecord, merged: Mapping[str, Any], value: str) -> TrialSpec:
        """The cell's spec with a value of the tuned key."""
        assert self.study.tune is not None
        return self._matched({**merged, self.study.tune.key: value}, cell.name)

    def _best(self, cell: CellRecord, tuning: Mapping[str, Mapping[int, str]]) -> str | None:
        """The value to compare with; None where no trial has a score and one may yet, when it is run again."""
        tune = self.study.tune
        assert tune is not None
        scores = {value: [self._score(self._known[t]) for t in seeds.values()] for value, seeds in tuning.items()}
        try:
            return best(scores, tune.goal).partition("=")[2]
        except ValueError:
            states = {self._known[trial].state for seeds in tuning.values() for trial in seeds.values()}
            if states - {State.completed, State.diverged}:
                return None
            raise UsageError(
                f"cell {cell.name}: no trial of {', '.join(scores)} ended with a {tune.metric}; "
                "allowed is a grid with a value that can be trained"
            ) from None

    def _score(self, record: Record) -> float:
        assert self.study.tune is not None
        value = record.last(self.study.tune.metric) if record.state is State.completed else None
        return math.nan if value is None else value

    def _with_trials(
        self, cells: list[CellRecord], specs: Mapping[str, TrialSpec], merged: Mapping[str, dict[str, Any]]
    ) -> list[CellRecord]:
        """The compared trials, seed by seed."""
        final = dict(specs)
        for cell in cells:
            if cell.tuned is not None and self.study.tune is not None:
                final[cell.name] = self._valued(cell, merged[cell.name], cell.tuned)
        seeded: dict[str, dict[int, str]] = {cell.name: {} for cell in cells}
        for seed in self.study.seeds:
            for cell in cells:
                if cell.excluded is None and not cell.waits:
                    owner = self._shared(cell, cells) or cell
                    seeded[cell.name] |= self._seeded(final[owner.name], [seed])
        done = []
        for cell in cells:
            if cell.tuned is not None and self.study.tune is not None:
                overrides = {**cell.overrides, self.study.tune.key: cell.tuned}
                cell = dataclasses.replace(cell, overrides=overrides)
            done.append(dataclasses.replace(cell, trials=seeded[cell.name]))
        return done

    def _seeded(self, spec: TrialSpec, seeds: Iterable[int]) -> dict[int, str]:
        """Seed → trial id; the specs are remembered in the order they are asked for."""
        found = {}
        for seed in seeds:
            one = dataclasses.replace(spec, seed=seed)
            found[seed] = one.trial_id
            self._specs.setdefault(found[seed], one)
        return found

    def _look(self) -> None:
        """Look at the trials not looked at yet."""
        self._known |= self._records([trial for trial in self._specs if trial not in self._known])

    def _timings(self) -> dict[str, Timing]:
        found: dict[str, Timing | None] = {}
        shapes = {trial: estimates.key(spec) for trial, spec in self._specs.items()}
        for trial, spec in self._specs.items():
            shape = shapes[trial]
            if shape not in found:
                found[shape] = estimates.find(self.runs, spec)
            if found[shape] is None and self._known[trial].state is State.completed:
                found[shape] = estimates.measured(spec, trial_dir(self.runs, trial))  # it ran where the timings are
        return {trial: timing for trial, shape in shapes.items() if (timing := found[shape]) is not None}


def recorded_plan(record: StudyRecord, trials: Iterable[str], runs: Path, records: Records) -> Plan:
    """A plan of trials of a launched study from what is on disk, whatever its file says by now.

    Args:
        record: the study's.
        trials: trial ids of it, frozen already.
        runs: the runs folder.
        records: see ``Records``.
    """
    wanted = set(trials)
    order = [trial for cell in record.cells for _, trial in cell.named_trials() if trial in wanted]
    specs = {trial: load_work(trial_dir(runs, trial)) for trial in dict.fromkeys(order)}
    plain = record.study
    study = StudySpec(
        name=record.name,
        question=plain["question"],
        baseline=plain["baseline"],
        factors=plain["factors"],
        seeds=plain["seeds"],
    )
    return Plan(study=study, cells=record.cells, specs=specs, records=records(specs))


def hydra_overrides(merged: Mapping[str, Any]) -> list[str]:
    """key → value as Hydra override strings."""
    return [f"{key}={text(value)}" for key, value in merged.items()]


def plain_study(jobs: Sequence[Mapping[str, str]], seeds: list[int], variant: str) -> dict[str, Any]:
    """An ordinary multirun as a study file would say it: keys that vary are factors, the first combination is the
    baseline.

    Args:
        jobs: key → value of each job, ``seed`` left out.
        seeds: the seeds swept over.
        variant: the variant of a job that names none.
    """
    varying = [key for key in jobs[0] if len({job[key] for job in jobs}) > 1]
    common = {key: value for key, value in jobs[0].items() if key not in varying}
    factors = {key: {job[key]: {key: job[key]} for job in jobs} for key in varying}
    if not factors:
        name = jobs[0].get("variant", variant)
        factors = {"variant": {name: {}}}
    given = " ".join(shlex.quote(part) for part in hydra_overrides(common))
    return {
        "question": f"multirun over {', '.join(varying) or 'seeds'}" + (f", with {given}" if given else ""),
        "baseline": {factor: next(iter(levels)) for factor, levels in factors.items()},
        "factors": factors,
        "seeds": seeds,
        "overrides": common,
    }
