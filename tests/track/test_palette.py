"""Colours of cells: those of the pictures, and each cell its own."""

from pathlib import Path

from analysis.collate import collate
from analysis.palette import looks
from deltalab.track.palette import OKABE_ITO, tints
from tests.analysis.studies import Outcome, make_study


def test_one_factor_has_the_colours_of_the_pictures(tmp_path: Path) -> None:
    levels = ["plain", "wide", "narrow"]
    made = make_study(tmp_path, {"variant": levels}, lambda *_: Outcome(), seeds=1)
    drawn = [look.color for look in looks(collate(made.runs, made.name)).values()]
    assert tints({"variant": levels}, [{"variant": level} for level in levels]) == drawn


def test_levels_of_a_second_factor_are_tints_of_the_first_s_colour() -> None:
    factors = {"variant": ["a", "b"], "pattern": ["x", "y"]}
    cells = [{"variant": v, "pattern": p} for v in factors["variant"] for p in factors["pattern"]]
    found = tints(factors, cells)
    assert (found[0], found[2]) == OKABE_ITO[:2]
    assert len(set(found)) == 4
    assert all(int(light[1:3], 16) >= int(dark[1:3], 16) for dark, light in (found[:2], found[2:]))


def test_thirty_cells_of_three_factors_are_thirty_colours() -> None:
    factors = {"a": list("01234"), "b": list("012"), "c": list("01")}
    cells = [{"a": a, "b": b, "c": c} for a in "01234" for b in "012" for c in "01"]
    assert len(set(tints(factors, cells))) == 30
