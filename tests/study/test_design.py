"""Designs: which cells a study has."""

from dataclasses import replace

import pytest

from deltalab.spec.study import Design, Exclusion, StudySpec
from deltalab.study.design import cell_name, cells_of

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
