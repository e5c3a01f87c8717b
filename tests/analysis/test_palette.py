"""Colours: a variant's own in every study, told apart by everyone, seen on white and on dark paper."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from analysis.canvas import DARK, INK, PAPER
from analysis.collate import collate
from analysis.palette import DARK_HUES, LINES, PLAIN, level_slots, looks
from deltalab.track.palette import HUES, TURNS, VARIANTS, variant_slot
from tests.analysis.studies import Outcome, make_study

SEEN = {
    "full vision": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color: str) -> np.ndarray:
    c = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    x = XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, two: str) -> float:
    low, high = sorted(float(XYZ[1] @ linear(color)) for color in (one, two))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("hues", [HUES, DARK_HUES], ids=["white", "dark"])
def test_hues_are_told_apart(hues: tuple[str, ...], seen: str):
    found = [lab(np.array(SEEN[seen]) @ linear(hue)) for hue in hues]
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(found, 2)) > 18


def test_everything_is_seen_on_both_papers():
    assert min(contrast(hue, PAPER) for hue in HUES) >= 3
    assert min(contrast(DARK[hue], DARK[PAPER]) for hue in HUES) >= 3
    for text in (INK, PLAIN):
        assert contrast(text, PAPER) >= 4.5
        assert contrast(DARK[text], DARK[PAPER]) >= 4.5


def test_every_turn_of_a_hue_has_a_line_of_its_own():
    assert len(set(LINES)) == TURNS
    assert {line for _, line in VARIANTS.values()} <= set(range(TURNS))


def test_a_variant_has_its_colour_in_every_study(tmp_path: Path):
    def slots(name: str, factors: dict) -> dict:
        return level_slots(collate(tmp_path, made(name, factors)), "variant" if "variant" in factors else "gates")

    def made(name: str, factors: dict) -> str:
        return make_study(tmp_path, factors, lambda *_: Outcome(state=None), seeds=1, name=name).name

    one = slots("one", {"variant": ["kda", "mine", "delta_net"], "pattern": ["x", "y"]})
    two = slots("two", {"variant": ["delta_net", "another", "mine", "kda"]})
    table = slots("three", {"gates": {"scalar b": {"variant": "write_only"}, "both": {"variant": "kda"}}})
    assert one == {name: two[name] for name in one}
    assert one["kda"] == table["both"] == VARIANTS["kda"]
    assert table["scalar b"] == VARIANTS["write_only"]
    assert one["mine"] == variant_slot("mine") not in VARIANTS.values()


def test_no_two_cells_look_alike(tmp_path: Path):
    own = [f"own{place}" for place in range(18)]  # two more than there are slots for names of one's own
    factors = {"pattern": ["x", "y"], "variant": [*VARIANTS, *own]}
    made = make_study(tmp_path, factors, lambda *_: Outcome(state=None), seeds=1)
    found = looks(collate(tmp_path, made.name))
    assert len({(look.color, look.line, look.marker, look.facet) for look in found.values()}) == len(found) == 62
    assert {look.facet for look in found.values()} == {"pattern: x", "pattern: y"}
