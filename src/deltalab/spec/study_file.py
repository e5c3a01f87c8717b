"""Read a study from sweeps/NAME.yaml, refusing mistakes with file, key, value and what is allowed.

question: does untying help?
baseline: {variant: kda, pattern: recurrent}
factors:
  variant: [kda, untied_scalar]              # levels are values of the key `variant`
  pattern:                                   # levels are named sets of overrides
    recurrent: {variant.pattern: [mixer]}
    hybrid: {variant.pattern: [mixer, swa]}
design: full_factorial                       # one_at_a_time, leave_one_out, list (with cells: [{…}, …]) or
                                             # fractional_factorial (with resolution: 3, 4 or 5)
zip: [[variant, pattern]]                    # factors that vary together, level by level: here two cells, not four
seeds: [10, 11, 12]
overrides: {model: tiny, train.steps: 600}   # every cell
match: parameters
metrics: {eval/accuracy: max}
exclude: [{when: {pattern: hybrid}, reason: known}]
within: []                                   # factors within whose levels cells are compared, such as a task
equivalence: share                           # cells that compute the same: run once; or assert: run all, hold equal
tune:                                        # every cell gets its own best value, chosen on seeds of its own
  key: train.lr
  grid: [1e-3, 3e-3, 1e-2]                   # or by a factor: {variant: {kda: [1e-3, 3e-3], untied_scalar: […]}}
  seeds: [0, 1]
  metric: eval/loss                          # unless given, the first of `metrics`
  goal: min
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from deltalab.errors import NotFoundError, StudyError
from deltalab.spec.study import (
    COMMAND_LINE,
    Design,
    Equivalence,
    Exclusion,
    Goal,
    Match,
    StudySpec,
    TuneSpec,
    study_mistake,
)

E = TypeVar("E", bound=Enum)
KEYS = (
    "name", "question", "baseline", "factors", "design", "cells", "resolution", "zip", "seeds", "overrides",
    "match", "tolerance", "metrics", "exclude", "within", "equivalence", "tune",
)  # fmt: skip
TUNE_KEYS = ("key", "grid", "seeds", "metric", "goal")
COMPANIONS = {"cells": Design.list, "resolution": Design.fractional_factorial}
"""Keys that go with one design only."""


def find_study(name: str, sweeps: Path) -> Path:
    """The file of a study given by name (in ``sweeps``) or by path.

    Raises:
        NotFoundError: neither exists; says which studies there are.
    """
    for path in (Path(name), sweeps / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in sweeps.glob("*.yaml")))
    raise NotFoundError(f"study={name}: no such study; allowed is a path or one of {known}")


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> StudySpec:
    """A validated StudySpec.

    Args:
        path: the study's file.
        changes: top-level keys that replace those of the file, from the command line. A new ``design`` leaves behind
            the ``cells`` or the ``resolution`` that went with the file's.

    Raises:
        StudyError: the file, or what replaces parts of it, has a mistake.
    """
    try:
        plain = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(path, "file", "unreadable", f"YAML ({' '.join(str(error).split())})") from error
    _refuse_unknown(plain, str(path))
    changes = changes or {}
    _refuse_unknown(changes, COMMAND_LINE)
    changed = set(changes)
    if "design" in changes:
        gone = {key for key, design in COMPANIONS.items() if changes["design"] != design.value}
        plain = {key: value for key, value in plain.items() if key not in gone}
        changed |= COMPANIONS.keys() - plain.keys()  # it is not the file that should have had them
    return _Reader({**plain, **changes}, str(path), path.stem, sorted(changed)).study()


def parse_study(plain: Mapping[str, Any], source: str, name: str) -> StudySpec:
    """A validated StudySpec from plain values, by the rules of a study file.

    Args:
        plain: the keys of a study file.
        source: where they come from, as mistakes shall say it: a path, or ``command line``.
        name: the study's name unless ``plain`` has one.

    Raises:
        StudyError: there is a mistake.
    """
    _refuse_unknown(plain, source)
    return _Reader(plain, source, name).study()


def _refuse_unknown(plain: Any, source: str) -> None:
    if not isinstance(plain, Mapping):
        raise StudyError(
            source, "file", "empty" if plain is None else type(plain).__name__, "a mapping of " + ", ".join(KEYS)
        )
    for key in plain:
        if key not in KEYS:
            raise StudyError(source, text(key), text(plain[key]), "no key but " + ", ".join(KEYS))


def text(value: Any) -> str:
    """A level or value as Hydra's command line writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_item(item) for item in value) + "]"
    return str(value)


def _item(value: Any) -> str:
    """An entry of a list; words with spaces and signs in quotes."""
    if not isinstance(value, str) or re.fullmatch(r"[\w./+*-]+", value):
        return text(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Reader:
    """Turns the file's plain values into a StudySpec, key by key.

    Args:
        plain: what the file says, only known keys.
        source: the file.
        name: the study's name unless the file gives one.
        changed: the keys that do not come from the file but from the command line.
    """

    def __init__(self, plain: Mapping[str, Any], source: str, name: str, changed: Collection[str] = ()) -> None:
        self.plain, self.source, self.name, self.changed = plain, source, name, changed
        self.factors = self.read_factors()
        self.zipped = self.read_zipped()

    def refuse(self, key: str, value: Any, allowed: str) -> NoReturn:
        raise study_mistake(self.source, self.changed, key, text(value), allowed)

    def study(self) -> StudySpec:
        design = self.choice(Design, "design", Design.full_factorial)
        for key, only in COMPANIONS.items():
            if key in self.plain and design is not only:
                self.refuse(key, self.plain[key], f"only with design: {only.value}")
        cells = [self.levels(f"cells[{i}]", cell) for i, cell in enumerate(self.sequence("cells", []))]
        if design is Design.list and not cells:
            self.refuse("cells", "0 cells", "at least one with design: list")
        name = str(self.plain.get("name", self.name))
        if not re.fullmatch(r"[\w][\w.-]*", name):
            self.refuse("name", name, "letters, digits, _ . and -, for it names a folder")
        metrics = self.mapping("metrics", self.plain.get("metrics", {}))
        study = StudySpec(
            name=name,
            question=str(self.plain.get("question") or "").strip(),
            baseline=self.levels("baseline", self.required("baseline")),
            factors=self.factors,
            design=design,
            cells=cells,
            resolution=self.resolution(),
            zipped=self.zipped,
            seeds=self.seeds("seeds", self.plain.get("seeds", [0])),
            overrides=self.mapping("overrides", self.plain.get("overrides", {})),
            match=self.choice(Match, "match", Match.none),
            tolerance=self.tolerance(),
            metrics={metric: self.goal(f"metrics.{metric}", goal) for metric, goal in metrics.items()},
            exclude=[self.exclusion(i, entry) for i, entry in enumerate(self.sequence("exclude", []))],
            within=self.within(),
            equivalence=self.choice(Equivalence, "equivalence", Equivalence.share),
            source=self.source,
            changed=list(self.changed),
        )
        return replace(study, tune=self.tune(study))

    def required(self, key: str) -> Any:
        if key not in self.plain:
            self.refuse(key, "missing", "required in every study")
        return self.plain[key]

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.refuse(key, value, "a mapping")
        return {text(k): v for k, v in value.items()}

    def sequence(self, key: str, default: list[Any]) -> list[Any]:
        value = self.plain.get(key, default)
        if not isinstance(value, list):
            self.refuse(key, value, "a list")
        return value

    def choice(self, kind: type[E], key: str, default: E) -> E:
        value = self.plain.get(key, default.value)
        allowed = [member.value for member in kind]
        if value not in allowed:
            self.refuse(key, value, "one of " + ", ".join(allowed))
        return kind(value)

    def goal(self, key: str, value: Any) -> Goal:
        if value not in ("max", "min"):
            self.refuse(key, value, "max or min")
        return Goal(value)

    def tolerance(self) -> float:
        value = self.plain.get("tolerance", StudySpec.tolerance)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            self.refuse("tolerance", value, "a number from 0")
        return float(value)

    def resolution(self) -> int:
        known = {"3": 3, "4": 4, "5": 5, "III": 3, "IV": 4, "V": 5}
        value = text(self.plain.get("resolution", StudySpec.resolution))
        if value not in known:
            self.refuse("resolution", value, "3, 4 or 5 (or III, IV, V)")
        return known[value]

    def read_factors(self) -> dict[str, dict[str, dict[str, Any]]]:
        factors = {}
        given = self.mapping("factors", self.required("factors"))
        if not given:
            self.refuse("factors", "{}", "at least one factor")
        for factor, levels in given.items():
            key = f"factors.{factor}"
            if isinstance(levels, list) and levels:
                factors[factor] = {text(value): {factor: value} for value in levels}
            elif isinstance(levels, Mapping) and levels:
                factors[factor] = {
                    text(level): self.mapping(f"{key}.{text(level)}", value) for level, value in levels.items()
                }
            else:
                self.refuse(key, levels, "a list of values, or a mapping of level names to overrides")
            if len(factors[factor]) < len(levels):
                self.refuse(key, levels, "levels that differ")
        return factors

    def read_zipped(self) -> list[list[str]]:
        """Groups of factors with as many levels each, no factor twice."""
        groups: list[list[str]] = []
        for i, given in enumerate(self.sequence("zip", [])):
            key = f"zip[{i}]"
            if not isinstance(given, list) or len(given) < 2:
                self.refuse(key, given, "a list of two or more factors")
            group = [text(factor) for factor in given]
            for factor in group:
                if factor not in self.factors:
                    self.refuse(key, factor, "factors of this study: " + ", ".join(self.factors))
            if len({factor for other in (*groups, group) for factor in other}) < sum(map(len, (*groups, group))):
                self.refuse(key, group, "every factor once in zip")
            if len({len(self.factors[factor]) for factor in group}) > 1:
                counts = ", ".join(f"{factor}: {len(self.factors[factor])}" for factor in group)
                self.refuse(key, group, f"factors with as many levels each (here {counts})")
            groups.append(group)
        return groups

    def within(self) -> list[str]:
        """Factors in the order of the study's, zipped ones all or none, and one at least left to compare."""
        given = [text(factor) for factor in self.sequence("within", [])]
        for i, factor in enumerate(given):
            if factor not in self.factors:
                self.refuse(f"within[{i}]", factor, "factors of this study: " + ", ".join(self.factors))
        if len(set(given)) < len(given):
            self.refuse("within", given, "every factor once")
        if len(given) == len(self.factors):
            self.refuse("within", given, f"fewer than all factors ({', '.join(self.factors)}), for some to compare")
        for group in self.zipped:
            if 0 < len(set(group) & set(given)) < len(group):
                self.refuse("within", given, f"all or none of {', '.join(group)}, which zip varies together")
        return [factor for factor in self.factors if factor in given]

    def levels(self, key: str, value: Any, partial: bool = False) -> dict[str, str]:
        """A level per factor (of some factors when ``partial``), in the factors' order, zipped ones in step."""
        found = {factor: text(level) for factor, level in self.mapping(key, value).items()}
        for factor, level in found.items():
            if factor not in self.factors:
                self.refuse(f"{key}.{factor}", level, "a factor of this study: " + ", ".join(self.factors))
            if level not in self.factors[factor]:
                self.refuse(f"{key}.{factor}", level, "a level of the factor: " + ", ".join(self.factors[factor]))
        if not partial and (missing := [factor for factor in self.factors if factor not in found]):
            self.refuse(f"{key}.{missing[0]}", "missing", "a level per factor: " + ", ".join(self.factors))
        for group in self.zipped:
            present = [factor for factor in group if factor in found]
            given = tuple(found[factor] for factor in present)
            steps = list(zip(*(self.factors[factor] for factor in present), strict=True))
            if present and given not in steps:
                names, *pairs = (" with ".join(step) for step in (present, *steps))
                self.refuse(f"{key}.{present[0]}", " with ".join(given), f"{names} in step: {', '.join(pairs)}")
        return {factor: found[factor] for factor in self.factors if factor in found}

    def seeds(self, key: str, seeds: Any) -> list[int]:
        listed = isinstance(seeds, list) and bool(seeds)
        whole = listed and all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
        if not whole or len(set(seeds)) < len(seeds):
            self.refuse(key, seeds, "a list of different whole numbers from 0")
        return seeds

    def exclusion(self, i: int, entry: Any) -> Exclusion:
        key = f"exclude[{i}]"
        entry = self.mapping(key, entry)
        if set(entry) != {"when", "reason"} or not entry["reason"]:
            self.refuse(key, entry, "when (levels) and reason (a sentence), both")
        return Exclusion(when=self.levels(f"{key}.when", entry["when"], partial=True), reason=str(entry["reason"]))

    def tune(self, study: StudySpec) -> TuneSpec | None:
        if self.plain.get("tune") is None:
            return None
        given = self.mapping("tune", self.plain["tune"])
        for key in given:
            if key not in TUNE_KEYS:
                self.refuse(f"tune.{key}", given[key], "no key but " + ", ".join(TUNE_KEYS))
        for key in ("key", "grid", "seeds"):
            if key not in given:
                self.refuse(f"tune.{key}", "missing", "required with tune")
        seeds = self.seeds("tune.seeds", given["seeds"])
        if set(seeds) & set(study.seeds):
            self.refuse("tune.seeds", seeds, f"seeds that are not compared on (seeds: {text(study.seeds)})")
        goals = {"eval/loss": Goal.min, **study.metrics}
        metric = str(given.get("metric", next(iter(study.metrics), "eval/loss")))
        if "goal" not in given and metric not in goals:
            self.refuse("tune.goal", "missing", f"max or min, for {metric} is not in metrics")
        factor, grid = self.grid(given["grid"])
        return TuneSpec(
            key=self.tuned_key(text(given["key"]), study),
            grid=grid,
            factor=factor,
            seeds=seeds,
            metric=metric,
            goal=self.goal("tune.goal", given["goal"]) if "goal" in given else goals[metric],
        )

    def tuned_key(self, key: str, study: StudySpec) -> str:
        setters = {"seed": "seeds"} | dict.fromkeys(study.overrides, "overrides")
        for factor, levels in self.factors.items():
            setters |= {name: f"factor {factor}" for overrides in levels.values() for name in overrides}
        if study.match is Match.parameters:
            setters["model.mlp_width"] = "match"
        if key in setters:
            self.refuse("tune.key", key, f"a key that nothing else sets ({setters[key]} does)")
        return key

    def grid(self, given: Any) -> tuple[str, list[Any] | dict[str, list[Any]]]:
        """The factor the values depend on, or "", and the values."""
        if not isinstance(given, Mapping):
            return "", self.candidates("tune.grid", given)
        by_factor = self.mapping("tune.grid", given)
        if len(by_factor) != 1 or (factor := next(iter(by_factor))) not in self.factors:
            self.refuse("tune.grid", ",".join(by_factor), "a list, or one factor with a list for each of its levels")
        by_level = self.mapping(f"tune.grid.{factor}", by_factor[factor])
        if set(by_level) != set(self.factors[factor]):
            self.refuse(
                f"tune.grid.{factor}", ",".join(by_level), "a list per level: " + ", ".join(self.factors[factor])
            )
        grid = {
            level: self.candidates(f"tune.grid.{factor}.{level}", by_level[level]) for level in self.factors[factor]
        }
        if len({len(values) for values in grid.values()}) > 1:
            counts = ", ".join(f"{level}: {len(values)}" for level, values in grid.items())
            self.refuse(f"tune.grid.{factor}", counts, "lists of one length: every cell is tuned on the same budget")
        return factor, grid

    def candidates(self, key: str, values: Any) -> list[Any]:
        distinct = {_number(text(value)) for value in values} if isinstance(values, list) else set()
        if len(distinct) < 2 or len(distinct) < len(values):
            self.refuse(key, values, "a list of two or more different values")
        return values


def _number(value: str) -> float | str:
    """A value by which 1e-3 and 0.001 are one."""
    try:
        return float(value)
    except ValueError:
        return value
