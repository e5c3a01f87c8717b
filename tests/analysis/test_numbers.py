"""Digits, signs and dashes."""

import pytest

from analysis import numbers
from analysis.statistics import Estimate

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "places", "signed", "text"),
    [
        (0.5641, 3, False, "0.564"),
        (-0.05, 3, True, "−0.050"),
        (0.333, 2, True, "+0.33"),
        (-0.0001, 2, False, "0.00"),
        (-0.0001, 2, True, "+0.00"),
        (32146.2, 0, False, "32,146"),
        (NAN, 3, False, "–"),
    ],
)
def test_number(value: float, places: int, signed: bool, text: str):
    assert numbers.number(value, places, signed) == text


@pytest.mark.parametrize(
    ("mean", "sd", "n", "places"),
    [
        (0.564, 0.2, 3, 3),
        (1.0, 0.2, 3, 2),
        (0.564, 0.018, 3, 3),
        (0.56, 0.01, 3, 3),
        (0.5641, 0.0018, 3, 4),
        (16.79, 0.12, 3, 2),
        (32146.0, 900.0, 3, 0),
        (0.7569, NAN, 1, 4),
        (3.412, NAN, 1, 3),
        (0.5, 0.0, 3, 4),
        (12.0, 0.00000001, 3, 4),
    ],
)
def test_decimals(mean: float, sd: float, n: int, places: int):
    assert numbers.decimals([Estimate(n=n, mean=mean, sd=sd)]) == places


def test_decimals_of_nothing():
    assert numbers.decimals([Estimate()]) == 3
    assert numbers.decimals([Estimate(n=2, mean=0.0, sd=0.0, low=0.0, high=0.0)]) == 3


def test_mean_and_half():
    assert numbers.mean_and_half(Estimate(n=3, mean=0.5, sd=0.01, low=0.475, high=0.525), 3) == "0.500 ± 0.025"
    assert numbers.mean_and_half(Estimate(n=3, mean=0.5, sd=1e-6, low=0.49999, high=0.50001), 3) == "0.500 ± <0.001"
    assert numbers.mean_and_half(Estimate(n=3, mean=1.0, sd=0.0, low=1.0, high=1.0), 3) == "1.000 ± 0"
    assert numbers.mean_and_half(Estimate(n=1, mean=0.5), 3) == "0.500"
    assert numbers.mean_and_half(Estimate(), 3) == "–"


def test_small_things():
    assert [numbers.p_value(p) for p in (0.0001, 0.0344, 1.0, NAN)] == ["<0.001", "0.034", "1.000", "–"]
    assert [numbers.count(n) for n in (57714, 370_200_000, 1_320_000_000)] == ["57,714", "370.2M", "1.32B"]
    assert [numbers.duration(s) for s in (42, 210, 26000)] == ["42 s", "3.5 min", "7.2 h"]
