"""From factors to cells: which combinations of levels a study runs."""

from collections.abc import Iterator
from itertools import product

from deltalab.spec.study import Design, StudySpec

Levels = dict[str, str]


def cells_of(study: StudySpec) -> list[tuple[Levels, str | None]]:
    """Every cell as (levels, why it is excluded or None), the baseline first and none twice."""
    ordered = [study.baseline, *_designed(study)]
    distinct = {tuple(levels.items()): levels for levels in ordered}
    return [(levels, _excluded(study, levels)) for levels in distinct.values()]


def cell_name(levels: Levels) -> str:
    """``variant=kda pattern=hybrid``."""
    return " ".join(f"{factor}={level}" for factor, level in levels.items())


def _designed(study: StudySpec) -> Iterator[Levels]:
    factors = study.factors
    if study.design is Design.list:
        yield from study.cells
    elif study.design is Design.full_factorial:
        for combination in product(*factors.values()):
            yield dict(zip(factors, combination, strict=True))
    elif study.design is Design.one_at_a_time:
        for factor, levels in factors.items():
            for level in levels:
                yield {**study.baseline, factor: level}
    else:
        yield from _leave_one_out(study)


def _leave_one_out(study: StudySpec) -> Iterator[Levels]:
    """From the full model (every factor at its last level), each factor in turn back at the baseline's level."""
    full = {factor: list(levels)[-1] for factor, levels in study.factors.items()}
    yield full
    for factor in study.factors:
        yield {**full, factor: study.baseline[factor]}


def _excluded(study: StudySpec, levels: Levels) -> str | None:
    for exclusion in study.exclude:
        if all(levels[factor] == level for factor, level in exclusion.when.items()):
            return exclusion.reason
    return None
