"""Designs: which cells a study has."""

from dataclasses import replace
from itertools import combinations
from math import prod

import pytest

from deltalab.errors import StudyError
from deltalab.spec.study import Design, Exclusion, StudySpec
from deltalab.study.design import cell_name, cells_of, generators

STUDY = StudySpec(
    name="s",
    baseline={"a": "1", "b": "x"},
    factors={"a": {"0": {}, "1": {}, "2": {}}, "b": {"x": {}, "y": {}}},
)


def names(study: StudySpec) -> list[str]:
    return [cell_name(levels) for levels, _ in cells_of(study)]


def test_full_factorial_is_every_combination_once_baseline_first() -> None:
    found = names(STUDY)
    assert found[0] == "a=1 b=x"
    assert sorted(found) == [f"a={a} b={b}" for a in "012" for b in "xy"]


def test_one_at_a_time_changes_a_single_factor() -> None:
    found = [levels for levels, _ in cells_of(replace(STUDY, design=Design.one_at_a_time))]
    assert len(found) == 4
    assert all(sum(levels[f] != STUDY.baseline[f] for f in levels) <= 1 for levels in found)


def test_leave_one_out_starts_from_every_factors_last_level() -> None:
    assert names(replace(STUDY, design=Design.leave_one_out)) == ["a=1 b=x", "a=2 b=y", "a=1 b=y", "a=2 b=x"]


def test_list_runs_the_cells_named_and_the_baseline() -> None:
    assert names(replace(STUDY, design=Design.list, cells=[{"a": "2", "b": "y"}])) == ["a=1 b=x", "a=2 b=y"]


@pytest.mark.parametrize(("when", "out"), [({"a": "2"}, 2), ({"a": "2", "b": "y"}, 1), ({"b": "y"}, 3)])
def test_exclusions_hold_for_every_cell_with_their_levels(when: dict[str, str], out: int) -> None:
    cells = cells_of(replace(STUDY, exclude=[Exclusion(when=when, reason="so")]))
    assert sum(reason == "so" for _, reason in cells) == out
    assert len(cells) == 6


ZIPPED = StudySpec(
    name="s",
    baseline={"a": "0", "b": "x", "c": "10"},
    factors={"a": {"0": {}, "1": {}, "2": {}}, "b": {"x": {}, "y": {}}, "c": {"10": {}, "11": {}, "12": {}}},
    zipped=[["a", "c"]],
)


def test_zipped_factors_vary_as_one_level_by_level() -> None:
    expected = [f"a={i} b={b} c=1{i}" for i in range(3) for b in "xy"]
    assert sorted(names(ZIPPED)) == expected
    assert names(ZIPPED)[0] == expected[0]


def test_a_zipped_group_is_one_factor_of_every_design() -> None:
    one = names(replace(ZIPPED, design=Design.one_at_a_time))
    assert one == ["a=0 b=x c=10", "a=1 b=x c=11", "a=2 b=x c=12", "a=0 b=y c=10"]
    out = names(replace(ZIPPED, design=Design.leave_one_out))
    assert out == ["a=0 b=x c=10", "a=2 b=y c=12", "a=0 b=y c=10", "a=2 b=x c=12"]


def two_level(count: int, resolution: int) -> StudySpec:
    """A fractional factorial whose baseline is now the first, now the second level of a factor."""
    factors = [chr(ord("a") + i) for i in range(count)]
    return StudySpec(
        name="s",
        baseline={factor: "01"[i % 2] for i, factor in enumerate(factors)},
        factors={factor: {"0": {}, "1": {}} for factor in factors},
        design=Design.fractional_factorial,
        resolution=resolution,
        source="s.yaml",
    )


def signs(study: StudySpec) -> list[dict[str, int]]:
    """The cells with 1 where a factor is at its baseline's level and -1 where it is not."""
    return [{f: 1 if level == study.baseline[f] else -1 for f, level in c.items()} for c, _ in cells_of(study)]


def shortest_word(rows: list[dict[str, int]]) -> int:
    """Length of the shortest product of columns that is constant."""
    words = (word for size in range(1, len(rows[0]) + 1) for word in combinations(rows[0], size))
    return next(len(word) for word in words if len({prod(row[factor] for factor in word) for row in rows}) == 1)


FRACTIONS = [
    (3, 3, 4, 3), (4, 3, 8, 4), (4, 4, 8, 4), (5, 3, 8, 3), (5, 4, 16, 5), (5, 5, 16, 5), (6, 3, 8, 3), (6, 4, 16, 4),
    (6, 5, 32, 6), (7, 3, 8, 3), (7, 4, 16, 4), (7, 5, 64, 7), (8, 4, 16, 4), (8, 5, 64, 5), (11, 3, 16, 3),
]  # fmt: skip
"""(factors, resolution asked, cells, resolution reached): the fewest cells, and the most that so many allow
(NIST/SEMATECH e-Handbook, 5.3.3.4.7)."""


@pytest.mark.parametrize(("count", "asked", "cells", "reached"), FRACTIONS)
def test_a_fraction_has_the_resolution_asked_for_in_the_fewest_cells(
    count: int, asked: int, cells: int, reached: int
) -> None:
    study = two_level(count, asked)
    rows = signs(study)
    assert len(rows) == cells
    assert shortest_word(rows) == reached >= asked
    assert cells_of(study)[0][0] == study.baseline
    for factor in study.factors:
        assert sum(row[factor] for row in rows) == 0
    for one, other in combinations(study.factors, 2):
        assert sum(row[one] * row[other] for row in rows) == 0


def test_generators_name_factors_and_what_is_not_told_apart() -> None:
    assert generators(two_level(3, 3)) == [
        "c = a × b (resolution III, 4 of 8 cells)",
        "not told apart: a, b × c",
        "not told apart: b, a × c",
        "not told apart: c, a × b",
    ]
    assert generators(two_level(4, 4)) == [
        "d = a × b × c (resolution IV, 8 of 16 cells)",
        "not told apart: a × b, c × d",
        "not told apart: a × c, b × d",
        "not told apart: a × d, b × c",
    ]
    assert generators(two_level(5, 5)) == ["e = a × b × c × d (resolution V, 16 of 32 cells)"]
    assert generators(replace(two_level(3, 3), design=Design.full_factorial)) == []


@pytest.mark.parametrize(("count", "resolution"), [(5, 3), (6, 3), (7, 4), (6, 4)])
def test_what_the_generators_say_holds_in_the_cells(count: int, resolution: int) -> None:
    study = two_level(count, resolution)
    rows = signs(study)
    first, *aliases = generators(study)

    def column(effect: str) -> tuple[int, ...]:
        return tuple(prod(row[factor] for factor in effect.split(" × ")) for row in rows)

    for generator in first.split(" (")[0].split(", "):
        assert column(generator.split(" = ")[0]) == column(generator.split(" = ")[1])
    told = [line.removeprefix("not told apart: ").split(", ") for line in aliases]
    for effects in told:
        assert len(effects) > 1
        assert len({column(effect) for effect in effects}) == 1
    effects = [*study.factors, *(" × ".join(pair) for pair in combinations(study.factors, 2))]
    equal = {frozenset(e for e in effects if column(e) == column(effect)) for effect in effects}
    assert {frozenset(group) for group in told} == {group for group in equal if len(group) > 1}


def test_a_zipped_group_is_one_column_of_a_fraction() -> None:
    study = two_level(4, 3)
    zipped = replace(study, zipped=[["a", "c"]])
    rows = signs(zipped)
    assert len(rows) == 4
    assert all(row["a"] == row["c"] for row in rows)
    assert generators(zipped)[0] == "d = a+c × b (resolution III, 4 of 8 cells)"


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (replace(two_level(3, 4)), "s.yaml: resolution=4: allowed is 3 with 3 factors"),
        (replace(two_level(4, 5)), "s.yaml: resolution=5: allowed is 3 or 4 with 4 factors"),
        (replace(two_level(4, 4), zipped=[["a", "c"]]), "resolution=4: allowed is 3 with 3 factors"),
        (two_level(2, 3), "design=fractional_factorial: allowed is full_factorial with 2 factors"),
        (replace(STUDY, design=Design.fractional_factorial), "factors.a=[0,1,2]: allowed is two levels"),
    ],
)
def test_a_fraction_that_there_is_not_says_what_there_is(study: StudySpec, said: str) -> None:
    for ask in (cells_of, generators):
        with pytest.raises(StudyError) as caught:
            ask(study)
        assert said in str(caught.value)


def test_a_fraction_asked_for_on_the_command_line_is_blamed_there() -> None:
    for study, key in ((two_level(2, 3), "design"), (two_level(4, 5), "resolution")):
        with pytest.raises(StudyError, match=rf"^command line: {key}="):
            cells_of(replace(study, changed=["design", "resolution"]))
    asked = replace(STUDY, design=Design.fractional_factorial, source="s.yaml", changed=["design"])
    with pytest.raises(StudyError) as caught:
        cells_of(asked)
    said = (
        "command line: design=fractional_factorial: allowed is a design that takes factors.a=[0,1,2] (a fraction takes"
    )
    assert str(caught.value).startswith(said)
