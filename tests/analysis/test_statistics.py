"""Every number against a formula of its own, and the intervals and p values against simulated studies."""

import gc
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit

from analysis.statistics import (
    Estimate,
    contributions,
    effects,
    estimate,
    hedges_g,
    holm,
    paired_difference,
    paired_differences,
    t_test,
    tost,
)

T_975 = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}
"""Quantiles of Student's t from a printed table, by degrees of freedom."""


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.mark.parametrize("values", [(0.5, 0.7), (0.5, 0.7, 0.9), (3.0, 3.1, 2.9, 3.4, 3.2)])
def test_interval_is_mean_and_quantile_times_standard_error(values: tuple[float, ...]):
    n = len(values)
    mean = sum(values) / n
    sd = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    found = estimate(values)
    assert found.n == n
    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx(sd)
    assert found.half == pytest.approx(T_975[n - 1] * sd / math.sqrt(n), rel=1e-6)
    assert found.low == pytest.approx(mean - found.half)


def test_one_value_has_a_mean_and_nothing_else():
    found = estimate([0.7])
    assert (found.n, found.mean) == (1, 0.7)
    assert all(math.isnan(x) for x in (found.sd, found.low, found.high, found.half))


def test_no_value_has_nothing():
    assert estimate([]).n == 0
    assert math.isnan(estimate([]).mean)


def test_paired_difference_by_formula():
    cell, base = by_seed(0.62, 0.71, 0.66, 0.70), by_seed(0.58, 0.69, 0.60, 0.67)
    d = [cell[s] - base[s] for s in cell]
    mean = sum(d) / 4
    se = math.sqrt(sum((x - mean) ** 2 for x in d) / 3 / 4)
    found = paired_difference(cell, base)
    assert found.estimate.mean == pytest.approx(mean)
    assert found.estimate.half == pytest.approx(float(stdtrit(3, 0.975)) * se)
    assert found.p == pytest.approx(2 * float(stdtr(3, -abs(mean / se))))
    assert found.per_seed == pytest.approx(dict(enumerate(d)))


def test_pairs_are_made_by_seed_not_by_order():
    base = {0: 0.1, 1: 0.5, 2: 0.9}
    cell = {2: 1.01, 0: 0.2, 1: 0.61}
    found = paired_difference(cell, base)
    assert found.per_seed == pytest.approx({0: 0.1, 1: 0.11, 2: 0.11})
    assert found.p < 0.01
    assert found.estimate == paired_difference(dict(sorted(cell.items())), base).estimate


def test_missing_pairs_are_dropped_and_named():
    found = paired_difference({0: 1.0, 2: 1.2, 3: 1.3}, {0: 0.9, 1: 0.9, 2: 0.9})
    assert found.unpaired == (1, 3)
    assert sorted(found.per_seed) == [0, 2]
    assert found.estimate.n == 2
    assert math.isnan(found.g), "Hedges' factor of one degree of freedom is 0"


def test_one_pair_has_no_interval_and_no_p():
    found = paired_difference(by_seed(0.7), by_seed(0.5))
    assert found.estimate.mean == pytest.approx(0.2)
    assert math.isnan(found.p)
    assert math.isnan(found.estimate.low)


@pytest.mark.parametrize(
    ("cell", "base"),
    [
        (by_seed(1.0, 1.0, 1.0), by_seed(0.5, 0.5, 0.5)),
        (by_seed(0.3, 0.4, 0.5), by_seed(0.1, 0.2, 0.3)),  # 0.2 three times, but for rounding
        (by_seed(0.5, 0.6, 0.7), by_seed(0.5, 0.6, 0.7)),
        (by_seed(1e9 + 0.1, 2e9 + 0.1), by_seed(1e9, 2e9)),
    ],
)
def test_equal_differences_are_exact_and_have_no_p(cell: dict[int, float], base: dict[int, float]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = paired_difference(cell, base)
    assert found.estimate.exact
    assert found.estimate.low == found.estimate.high == found.estimate.mean
    assert math.isnan(found.p)
    assert math.isnan(found.g)


def test_tiny_but_real_differences_are_tested():
    found = paired_difference(by_seed(1 + 1e-9, 1 + 2e-9, 1 + 4e-9), by_seed(1.0, 1.0, 1.0))
    assert not found.estimate.exact
    assert 0 < found.p < 1


@pytest.mark.parametrize(
    ("n", "factor"), [(3, 1 / math.sqrt(math.pi)), (4, 0.7236013), (5, 0.7978846), (11, 0.9227456)]
)
def test_hedges_factor(n: int, factor: float):
    assert hedges_g(Estimate(n=n, mean=2.0, sd=1.0)) == pytest.approx(2 * factor, rel=1e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_cells_without_a_p_are_not_in_the_family():
    values = {
        "base": by_seed(0.5, 0.6, 0.7),
        "exact": by_seed(0.6, 0.7, 0.8),
        "alone": {0: 0.9},
        "real": by_seed(0.55, 0.68, 0.74),
    }
    found = paired_differences(values, dict.fromkeys(values, "base"))
    assert list(found) == ["exact", "alone", "real"]
    assert found["real"].holm == pytest.approx(found["real"].p)
    assert math.isnan(found["exact"].holm)
    assert math.isnan(found["alone"].holm)


def test_each_cell_is_held_against_its_own_baseline_and_all_are_one_family():
    rng = np.random.default_rng(7)
    values = {cell: by_seed(*rng.normal(size=4)) for cell in ("a0", "a1", "b0", "b1", "c1")}
    found = paired_differences(values, {"a0": "a0", "a1": "a0", "b0": "b0", "b1": "b0", "c1": None}, margin=3.0)
    assert list(found) == ["a1", "b1"]
    for cell, base in (("a1", "a0"), ("b1", "b0")):
        assert found[cell].per_seed == paired_difference(values[cell], values[base]).per_seed
    pairs = [paired_difference(values[cell], values[base], 3.0) for cell, base in (("a1", "a0"), ("b1", "b0"))]
    assert [d.holm for d in found.values()] == pytest.approx(holm([pair.p for pair in pairs]))
    assert [d.same for d in found.values()] == pytest.approx(holm([pair.same for pair in pairs]))


FACTORS = {"a": ["a0", "a1"], "b": ["b0", "b1", "b2"]}
LEVELS = {f"{a}{b}": {"a": a, "b": b} for a in FACTORS["a"] for b in FACTORS["b"]}
BASE = {"a": "a0", "b": "b0"}


def two_factors() -> dict[str, dict[int, float]]:
    """a1 adds 1 + seed/10, b1 adds 2, b2 adds 4, a1 and b2 together another 3."""
    gain = {"a0": 0.0, "b0": 0.0, "b1": 2.0, "b2": 4.0}
    return {
        cell: {
            s: 10 * s + (1 + s / 10 if x["a"] == "a1" else 0) + gain[x["b"]] + 3 * (cell == "a1b2") for s in range(3)
        }
        for cell, x in LEVELS.items()
    }


def found_effects(values: dict[str, dict[int, float]]):
    return {"×".join(effect.levels.values()): effect for effect in effects(values, LEVELS, FACTORS, BASE)}


def test_effects_of_a_known_table():
    found = found_effects(two_factors())
    assert list(found) == ["a1", "b1", "b2", "a1×b1", "a1×b2"]
    assert found["a1"].estimate.mean == pytest.approx(1.1 + 1.0)
    assert found["a1"].estimate.sd == pytest.approx(0.1)
    assert found["a1"].estimate.half == pytest.approx(T_975[2] * 0.1 / math.sqrt(3), rel=1e-6)
    assert len(found["a1"].averaged) == 3
    assert found["b1"].estimate.mean == pytest.approx(2.0)
    assert found["b1"].estimate.exact
    assert found["b2"].estimate.mean == pytest.approx(5.5)
    assert found["a1×b1"].estimate.mean == pytest.approx(0.0, abs=1e-12)
    assert found["a1×b2"].estimate.mean == pytest.approx(3.0)


def test_a_factor_compared_within_has_no_main_effect_but_interacts():
    values = two_factors()
    inside = {"×".join(e.levels.values()): e for e in effects(values, LEVELS, FACTORS, BASE, ["b"])}
    assert list(inside) == ["a1", "a1×b1", "a1×b2"]
    assert inside["a1"] == found_effects(values)["a1"], "averaged over the blocks"


def test_an_incomplete_combination_is_left_out_for_every_seed():
    values = two_factors()
    del values["a1b2"][1]
    found = found_effects(values)
    assert found["a1"].averaged == ("b=b0", "b=b1")
    assert found["a1"].left_out == ("b=b2",)
    assert found["a1"].per_seed == pytest.approx({0: 1.0, 1: 1.1, 2: 1.2})
    assert found["a1"].estimate.mean == pytest.approx(1.1)
    assert list(found["a1×b2"].per_seed) == [0, 2]


def test_without_any_complete_combination_there_is_no_effect():
    values = two_factors()
    values["a0b0"] = values["a0b1"] = values["a0b2"] = {}
    found = found_effects(values)["a1"]
    assert found.estimate.n == 0
    assert len(found.left_out) == 3


def test_one_at_a_time_effects_are_the_differences():
    values = {cell: x for cell, x in two_factors().items() if cell in ("a0b0", "a1b0", "a0b1")}
    levels = {cell: LEVELS[cell] for cell in values}
    found = {"×".join(e.levels.values()): e for e in effects(values, levels, FACTORS, BASE)}
    assert list(found) == ["a1", "b1"]
    assert found["a1"].estimate == paired_difference(values["a1b0"], values["a0b0"]).estimate


def simulated(rng: np.random.Generator, cells: int, seeds: int) -> dict[str, dict[int, float]]:
    """A study whose cells are all the same: luck of the seed, shared by the cells, and noise of the trial."""
    luck = rng.normal(0, 0.05, seeds)
    return {str(cell): dict(enumerate(0.7 + luck + rng.normal(0, 0.02, seeds))) for cell in range(cells)}


@pytest.fixture
def quick_collections() -> Iterator[None]:
    """multipletests collects garbage at every call: leave out what was there before."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("quick_collections")
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_the_truth_and_holm_keeps_the_family_wise_error(seeds: int):
    """1,000 studies of a baseline, four cells like it and two that differ from it, with luck that the cells share."""
    rng = np.random.default_rng(20240601 + seeds)
    truth = np.array([0.0, 0.0, 0.0, 0.0, 0.03, -0.05])
    luck = rng.normal(0, 0.05, (1000, 1, seeds))
    x = 0.7 + luck + rng.normal(0, 0.02, (1000, 7, seeds))
    x[:, 1:] += truth[:, None]
    p, low, high = t_test(x[:, 1:] - x[:, :1])
    assert 0.935 < np.mean((low <= truth) & (truth <= high)) < 0.965
    false = [min(c for c, real in zip(holm(row.tolist()), truth, strict=True) if not real) < 0.05 for row in p]
    assert np.mean(false) <= 0.055
    _, low, high = t_test(x)
    mean = 0.7 + np.array([0.0, *truth])
    assert 0.935 < np.mean((low <= mean) & (mean <= high)) < 0.965
    study = {str(cell): by_seed(*values) for cell, values in enumerate(x[0])}
    told = [found.p for found in paired_differences(study, dict.fromkeys(study, "0")).values()]
    assert told == pytest.approx(p[0].tolist()), "what was counted is what tables say"


def test_equivalence_needs_an_interval_inside_the_margin():
    base = by_seed(0.70, 0.75, 0.72, 0.78)
    near = {seed: value + shift for (seed, value), shift in zip(base.items(), (0.001, -0.002, 0.002, 0.0), strict=True)}
    far = {seed: value + 0.1 + seed / 100 for seed, value in base.items()}
    found = paired_differences(
        {"base": base, "near": near, "far": far}, dict.fromkeys(("base", "near", "far"), "base"), margin=0.01
    )
    assert found["near"].same < 0.01 < found["near"].p
    assert found["far"].same > 0.5
    d = np.array(list(found["near"].per_seed.values()))
    se = d.std(ddof=1) / 2
    assert tost(d, 0.01) == pytest.approx(float(stdtr(3, -(0.01 - abs(d.mean())) / se)))
    assert math.isnan(paired_difference(near, base).same)
    assert math.isnan(paired_difference(by_seed(0.7), by_seed(0.7), margin=0.1).same)


def test_contributions_are_the_full_model_without_each_factor():
    values = {"full": by_seed(0.9, 0.92, 0.97), "no a": by_seed(0.8, 0.83, 0.86), "no b": by_seed(0.9, 0.91, 0.98)}
    found = contributions(values, ("full", {"a": "no a", "b": "no b"}))
    assert found["a"].estimate.mean == pytest.approx(0.1)
    assert found["b"].estimate.mean == pytest.approx(0.0)
    assert found["a"].holm == pytest.approx(2 * found["a"].p)
    assert contributions(values, None) == {}


@pytest.mark.usefixtures("quick_collections")
def test_a_real_difference_is_found():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(100):
        values = simulated(rng, cells=3, seeds=5)
        values["1"] = {seed: value + 0.1 for seed, value in values["1"].items()}
        hits += paired_differences(values, dict.fromkeys(values, "0"))["1"].holm < 0.05
    assert hits > 80
