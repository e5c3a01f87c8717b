"""Read a study from sweeps/NAME.yaml, refusing mistakes with file, key, value and what is allowed.

question: does untying help?
baseline: {variant: kda, pattern: recurrent}
factors:
  variant: [kda, untied_scalar]              # levels are values of the key `variant`
  pattern:                                   # levels are named sets of overrides
    recurrent: {variant.pattern: [mixer]}
    hybrid: {variant.pattern: [mixer, swa]}
seeds: [0, 1, 2]
overrides: {model: tiny, train.steps: 600}   # every cell
match: parameters
metrics: {eval/accuracy: max}
exclude: [{when: {variant: kda, pattern: hybrid}, reason: known}]
"""

import math
import re
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from deltalab.errors import NotFoundError, StudyError
from deltalab.spec.study import Design, Exclusion, Goal, Match, StudySpec

E = TypeVar("E", bound=Enum)
KEYS = (
    "name", "question", "baseline", "factors", "design", "cells", "seeds", "overrides",
    "match", "tolerance", "metrics", "exclude",
)  # fmt: skip


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


def read_study(path: Path) -> StudySpec:
    """A validated StudySpec.

    Raises:
        StudyError: the file has a mistake.
    """
    try:
        plain = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(path, "file", "unreadable", f"YAML ({' '.join(str(error).split())})") from error
    return _Reader(path, plain).study()


def text(value: Any) -> str:
    """A level or value as Hydra's command line writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(text(item) for item in value) + "]"
    return str(value)


class _Reader:
    """Turns the file's plain values into a StudySpec, key by key."""

    def __init__(self, path: Path, plain: Any) -> None:
        self.path = path
        if not isinstance(plain, dict):
            self.refuse("file", type(plain).__name__, "a mapping of " + ", ".join(KEYS))
        self.plain: dict[str, Any] = plain
        for key in plain:
            if key not in KEYS:
                self.refuse(str(key), plain[key], "no key but " + ", ".join(KEYS))

    def refuse(self, key: str, value: Any, allowed: str) -> NoReturn:
        raise StudyError(self.path, key, text(value), allowed)

    def study(self) -> StudySpec:
        factors = self.factors()
        design = self.choice(Design, "design", Design.full_factorial)
        cells = [self.levels(factors, f"cells[{i}]", c) for i, c in enumerate(self.sequence("cells", []))]
        if bool(cells) != (design is Design.list):
            self.refuse("cells", f"{len(cells)} cells", "cells with design: list, and only then")
        tolerance = self.plain.get("tolerance", 0.005)
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < math.inf:
            self.refuse("tolerance", tolerance, "a number from 0")
        name = str(self.plain.get("name", self.path.stem))
        if not re.fullmatch(r"[\w][\w.-]*", name):
            self.refuse("name", name, "letters, digits, _ . and -, for it names a folder")
        return StudySpec(
            name=name,
            question=str(self.plain.get("question") or "").strip(),
            baseline=self.levels(factors, "baseline", self.required("baseline")),
            factors=factors,
            design=design,
            cells=cells,
            seeds=self.seeds(),
            overrides=self.mapping("overrides", self.plain.get("overrides", {})),
            match=self.choice(Match, "match", Match.none),
            tolerance=float(tolerance),
            metrics={
                str(k): self.goal(k, v) for k, v in self.mapping("metrics", self.plain.get("metrics", {})).items()
            },
            exclude=[self.exclusion(factors, i, entry) for i, entry in enumerate(self.sequence("exclude", []))],
            source=str(self.path),
        )

    def required(self, key: str) -> Any:
        if key not in self.plain:
            self.refuse(key, "missing", "required in every study")
        return self.plain[key]

    def mapping(self, key: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(key, value, "a mapping")
        return {text(k): v for k, v in value.items()}

    def sequence(self, key: str, default: list[Any]) -> list[Any]:
        value = self.plain.get(key, default)
        if not isinstance(value, list):
            self.refuse(key, value, "a list")
        return value

    def choice(self, kind: type[E], key: str, default: E) -> E:
        value = self.plain.get(key, default.value)
        if value not in {member.value for member in kind}:
            self.refuse(key, value, "one of " + ", ".join(member.value for member in kind))
        return kind(value)

    def goal(self, metric: str, value: Any) -> Goal:
        if value not in ("max", "min"):
            self.refuse(f"metrics.{metric}", value, "max or min")
        return Goal(value)

    def factors(self) -> dict[str, dict[str, dict[str, Any]]]:
        factors = {}
        given = self.mapping("factors", self.required("factors"))
        if not given:
            self.refuse("factors", "{}", "at least one factor")
        for factor, levels in given.items():
            key = f"factors.{factor}"
            if isinstance(levels, list) and levels:
                factors[factor] = {text(value): {factor: value} for value in levels}
            elif isinstance(levels, dict) and levels:
                factors[factor] = {
                    text(level): self.mapping(f"{key}.{text(level)}", value) for level, value in levels.items()
                }
            else:
                self.refuse(key, levels, "a list of values, or a mapping of level names to overrides")
            if len(factors[factor]) < len(levels):
                self.refuse(key, levels, "levels that differ")
        return factors

    def levels(self, factors: dict[str, Any], key: str, value: Any, partial: bool = False) -> dict[str, str]:
        """A level per factor (of some factors when ``partial``), in the factors' order."""
        found = {factor: text(level) for factor, level in self.mapping(key, value).items()}
        for factor, level in found.items():
            if factor not in factors:
                self.refuse(f"{key}.{factor}", level, "a factor of this study: " + ", ".join(factors))
            if level not in factors[factor]:
                self.refuse(f"{key}.{factor}", level, "a level of the factor: " + ", ".join(factors[factor]))
        if not partial and (missing := [factor for factor in factors if factor not in found]):
            self.refuse(f"{key}.{missing[0]}", "missing", "a level per factor: " + ", ".join(factors))
        return {factor: found[factor] for factor in factors if factor in found}

    def seeds(self) -> list[int]:
        seeds = self.sequence("seeds", [0])
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
        if not seeds or not whole or len(set(seeds)) < len(seeds):
            self.refuse("seeds", seeds, "a list of different whole numbers from 0")
        return seeds

    def exclusion(self, factors: dict[str, Any], i: int, entry: Any) -> Exclusion:
        key = f"exclude[{i}]"
        entry = self.mapping(key, entry)
        if set(entry) != {"when", "reason"} or not entry["reason"]:
            self.refuse(key, entry, "when (levels) and reason (a sentence), both")
        return Exclusion(
            when=self.levels(factors, f"{key}.when", entry["when"], partial=True), reason=str(entry["reason"])
        )
