"""From factors to cells: which combinations of levels a study runs."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, combinations, product
from math import prod

from deltalab.spec.study import Design, StudySpec
from deltalab.wording import listed

Levels = dict[str, str]


def cells_of(study: StudySpec) -> list[tuple[Levels, str | None]]:
    """Every cell as (levels, why it is excluded or None), the baseline first and none twice.

    Raises:
        StudyError: the fraction asked for does not exist.
    """
    ordered = [study.baseline, *_designed(study)]
    distinct = {tuple(levels.items()): levels for levels in ordered}
    return [(levels, _excluded(study, levels)) for levels in distinct.values()]


def cell_name(levels: Levels) -> str:
    """``variant=kda pattern=hybrid``."""
    return " ".join(f"{factor}={level}" for factor, level in levels.items())


def comparison(study: StudySpec) -> list[str]:
    """What cells are compared with, in a line for the plan where that is not the baseline alone:
    ``compared within each task: with gates=tied of the same task``."""
    if not study.within:
        return []
    against = cell_name({factor: level for factor, level in study.baseline.items() if factor not in study.within})
    words = listed(study.within)
    return [f"compared within each {words}: with {against} of the same {words}"]


def generators(study: StudySpec) -> list[str]:
    """What a fraction gives up, in lines for the plan; none with any other design.

    The first says how the fraction was made: ``pattern = decay × erase (resolution III, 4 of 8 cells)``. The others
    name effects, up to those of two factors, whose estimates are one and the same number but for their sign:
    ``not told apart: decay, erase × pattern``. A zipped group is written ``a+b``.

    Raises:
        StudyError: the fraction asked for does not exist.
    """
    if study.design is not Design.fractional_factorial:
        return []
    rows = _fraction_of(study)
    columns = dict(zip(map("+".join, _groups(study)), zip(*rows, strict=True), strict=True))
    base = list(columns)[: len(rows).bit_length() - 1]
    made = ", ".join(f"{name} = {_word(columns, base, name)}" for name in columns if name not in base)
    size = f"resolution {_resolution(rows)}, {len(rows)} of {2 ** len(columns)} cells"
    effects: dict[tuple[int, ...], list[str]] = {}
    for effect in chain(combinations(columns, 1), combinations(columns, 2)):
        effects.setdefault(_product(columns, effect), []).append(" × ".join(effect))
    return [f"{made} ({size})", *(f"not told apart: {', '.join(e)}" for e in effects.values() if len(e) > 1)]


def _designed(study: StudySpec) -> Iterator[Levels]:
    if study.design is Design.list:
        yield from study.cells
        return
    units = [_steps(study, group) for group in _groups(study)]
    if study.design is Design.full_factorial:
        combined = product(*units)
    elif study.design is Design.one_at_a_time:
        combined = ([step] for unit in units for step in unit)
    elif study.design is Design.leave_one_out:
        combined = _leave_one_out(study, units)
    else:
        combined = _fractional_factorial(study, units)
    for steps in combined:
        levels = {factor: level for step in steps for factor, level in step.items()}
        yield {factor: levels.get(factor, study.baseline[factor]) for factor in study.factors}


def _groups(study: StudySpec) -> list[list[str]]:
    """Factors that vary together, each other factor alone, in the order of their first factors."""
    group_of = {factor: group for group in study.zipped for factor in group}
    groups = {tuple(group_of.get(factor, [factor])): None for factor in study.factors}
    return [list(group) for group in groups]


def _steps(study: StudySpec, group: list[str]) -> list[Levels]:
    """The levels of a group, each a level per factor of it."""
    together = zip(*(study.factors[factor] for factor in group), strict=True)
    return [dict(zip(group, levels, strict=True)) for levels in together]


def _leave_one_out(study: StudySpec, units: list[list[Levels]]) -> Iterator[list[Levels]]:
    """From the full model (every group at its last level), each group in turn back at the baseline's level."""
    full = [unit[-1] for unit in units]
    yield full
    for unit in units:
        yield [*full, {factor: study.baseline[factor] for factor in unit[0]}]


def _fractional_factorial(study: StudySpec, units: list[list[Levels]]) -> Iterator[list[Levels]]:
    """The cells of a fraction: 1 stands for the baseline's level of a group, −1 for the other."""
    rows = _fraction_of(study)
    signed = [{1 if step.items() <= study.baseline.items() else -1: step for step in unit} for unit in units]
    for row in rows:
        yield [steps[sign] for steps, sign in zip(signed, row, strict=True)]


def _fraction_of(study: StudySpec) -> tuple[tuple[int, ...], ...]:
    """Signs [cells][groups of factors] of the fraction that the study asks for."""
    groups = _groups(study)
    found = Design.fractional_factorial.value
    for factor, levels in study.factors.items():
        if len(levels) != 2:
            key, value = f"factors.{factor}", f"[{','.join(levels)}]"
            if "design" in study.changed:
                raise study.mistake("design", found, f"a design that takes {key}={value} (a fraction takes two levels)")
            raise study.mistake(key, value, f"two levels with design: {found}")
    count = len(groups)
    if count < 3:
        raise study.mistake("design", found, f"full_factorial with {count} factors (a fraction needs 3)")
    if study.resolution > count:
        possible = " or ".join(str(resolution) for resolution in range(3, count + 1))
        raise study.mistake("resolution", study.resolution, f"{possible} with {count} factors")
    return _fraction(count, study.resolution)


@lru_cache
def _fraction(count: int, resolution: int) -> tuple[tuple[int, ...], ...]:
    """Signs of a two-level fraction: the fewest cells, then the highest resolution in so many.

    The library's fraction need not hold the baseline. Turning a factor's signs over changes no column but for its
    sign, and so keeps balance, orthogonality and resolution: every factor is turned such that the first cell is 1
    throughout. That is the principal fraction, whose generators all have a plus, and its first cell is the baseline.
    """
    from pydoe import fracfact_by_res  # takes a second to import, and only this design needs it

    design = fracfact_by_res(count, resolution)
    while len(finer := fracfact_by_res(count, resolution + 1)) == len(design) < 2**count:
        design, resolution = finer, resolution + 1
    return tuple(tuple(int(sign) for sign in row) for row in design * design[0])


def _product(columns: dict[str, tuple[int, ...]], effect: Sequence[str]) -> tuple[int, ...]:
    return tuple(prod(signs) for signs in zip(*(columns[name] for name in effect), strict=True))


def _word(columns: dict[str, tuple[int, ...]], base: list[str], name: str) -> str:
    """The product of base factors that a generated factor follows."""
    effects = chain.from_iterable(combinations(base, size) for size in range(2, len(base) + 1))
    return " × ".join(next(effect for effect in effects if _product(columns, effect) == columns[name]))


def _resolution(rows: tuple[tuple[int, ...], ...]) -> str:
    """Length of the shortest product of factors that is 1 in every cell, in Roman figures as is the custom."""
    columns = list(zip(*rows, strict=True))
    words = chain.from_iterable(combinations(columns, size) for size in range(1, len(columns) + 1))
    length = next(len(word) for word in words if all(prod(signs) == 1 for signs in zip(*word, strict=True)))
    return {3: "III", 4: "IV", 5: "V", 6: "VI", 7: "VII", 8: "VIII"}.get(length, str(length))


def _excluded(study: StudySpec, levels: Levels) -> str | None:
    for exclusion in study.exclude:
        if all(levels[factor] == level for factor, level in exclusion.when.items()):
            return exclusion.reason
    return None
