"""Noise, power and analysis of variance against formulas of their own and against simulation."""

import math

import numpy as np
import pytest
from scipy.stats import f_oneway

from analysis.precision import precision, seeds_needed, variance_terms
from analysis.statistics import t_test

FACTORS = {"a": ["a0", "a1"], "b": ["b0", "b1", "b2"]}
LEVELS = {f"{a}{b}": {"a": a, "b": b} for a in FACTORS["a"] for b in FACTORS["b"]}


def made(rng: np.random.Generator, seeds: int, noise: float, gain: float = 0.0) -> dict[str, dict[int, float]]:
    """a1 adds the gain; a seed's luck is ten times the noise."""
    luck = rng.normal(0, 10 * noise, seeds)
    return {
        cell: {s: luck[s] + rng.normal(0, noise) + gain * (x["a"] == "a1") for s in range(seeds)}
        for cell, x in LEVELS.items()
    }


def test_the_noise_floor_is_what_cells_and_seeds_do_not_explain():
    values = made(np.random.default_rng(1), 4, 0.1)
    x = np.array([list(of_cell.values()) for of_cell in values.values()])
    rest = x - x.mean(0) - x.mean(1, keepdims=True) + x.mean()
    found = precision(values)
    assert found.n == 4
    assert found.noise == pytest.approx(math.sqrt((rest**2).sum() / (5 * 3)))
    assert found.low < found.noise < found.high
    assert math.isnan(found.needed)


def test_its_interval_covers():
    rng = np.random.default_rng(2)
    found = [precision(made(rng, 3, 0.1)) for _ in range(300)]
    assert 0.92 < np.mean([one.low <= 0.1 <= one.high for one in found]) < 0.98


def test_seeds_that_a_cell_lacks_are_left_out_and_one_seed_says_nothing():
    values = made(np.random.default_rng(3), 3, 0.1)
    del values["a1b2"][1]
    assert precision(values).n == 2
    assert math.isnan(precision({cell: {0: x[0]} for cell, x in values.items()}).noise)
    assert math.isnan(precision({}).noise)


def test_as_many_seeds_as_are_needed_find_the_difference_as_often_as_promised():
    seeds = seeds_needed(0.1, 0.12)
    d = np.random.default_rng(4).normal(0.1, 0.12, (4000, int(seeds)))
    assert 0.78 < np.mean(t_test(d)[0] < 0.05) < 0.88
    assert np.mean(t_test(d[:, :-1])[0] < 0.05) < 0.82
    assert seeds_needed(0.5, 1.0) == 34, "Cohen 1988, table 2.4.1, for pairs"
    assert math.isinf(seeds_needed(1e-6, 1.0))


def test_what_is_detectable_needs_the_seeds_that_are_there():
    values = made(np.random.default_rng(5), 5, 0.1)
    detectable = precision(values).detectable
    assert precision(values, margin=1.001 * detectable).needed == 5
    assert precision(values, margin=0.98 * detectable).needed == 6


def test_terms_of_a_known_table():
    values = made(np.random.default_rng(6), 3, 0.01, gain=0.5)
    found = {term.factors: term for term in variance_terms(values, LEVELS, FACTORS)}
    assert list(found) == [("a",), ("b",), ("a", "b")]
    assert found["a",].p < 1e-6 < found["b",].p
    assert found["a",].df == (1, 10)
    assert found["a",].share > 0.99
    d = [sum(values[f"a1{b}"][s] - values[f"a0{b}"][s] for b in FACTORS["b"]) / 3 for s in range(3)]
    mean_square = 3 * 3 * np.mean(d) ** 2 / 2  # of two levels, over 3 seeds and 3 levels of b
    assert found["a",].f == pytest.approx(mean_square / precision(values).noise ** 2)


def test_without_an_effect_terms_are_uniform():
    rng = np.random.default_rng(7)
    ps = [term.p for _ in range(200) for term in variance_terms(made(rng, 2, 0.1), LEVELS, FACTORS)]
    assert 0.03 < np.mean(np.array(ps) < 0.05) < 0.08
    assert f_oneway(ps[0::3], ps[1::3], ps[2::3]).pvalue > 0.001


@pytest.mark.parametrize("lacking", ["cell", "seeds", "variance"])
def test_an_incomplete_factorial_has_no_terms(lacking: str):
    values = made(np.random.default_rng(8), 1 if lacking == "seeds" else 3, 0.1)
    if lacking == "cell":
        values["a1b1"] = {}
    if lacking == "variance":
        values = {cell: {seed: float(seed) for seed in range(3)} for cell in LEVELS}
    assert variance_terms(values, LEVELS, FACTORS) == []
