"""Pooled noise and the mixed model: against each other, against a formula of their own, against simulation."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import t

from analysis import raw
from analysis.collate import collate
from analysis.evidence import variance_table
from analysis.pooled import fit_cells, fit_effects
from analysis.precision import precision, variance_terms
from analysis.statistics import summarise
from analysis.tables import differences_table, effects_table
from tests.analysis.studies import ACCURACY, Levels, Outcome, make_study

LACKING = ((1, 0), (4, 2))


def made(rng: np.random.Generator, luck: float = 0.05, without: tuple = (), seeds: int = 3) -> dict:
    """Six cells of which the second is 0.03 above the others, with luck that they share."""
    x = 0.7 + rng.normal(0, luck, seeds) + rng.normal(0, 0.02, (6, seeds))
    x[1] += 0.03
    return {str(c): {s: float(x[c, s]) for s in range(seeds) if (c, s) not in without} for c in range(6)}


def test_whole_blocks_are_an_analysis_of_variance():
    values = made(np.random.default_rng(1))
    model = fit_cells(values)
    assert model is not None
    assert (model.kind, model.parts[0].df, model.seeds) == ("blocks", 10, 3)
    found = model.contrast({"1": 1.0, "0": -1.0})
    d = np.mean([values["1"][s] - values["0"][s] for s in range(3)])
    half = t.ppf(0.975, 10) * precision(values).noise * math.sqrt(2 / 3)
    assert (found.mean, found.low, found.high) == pytest.approx((d, d - half, d + half))


@pytest.mark.parametrize("without", [(), LACKING], ids=["blocks", "mixed"])
def test_its_intervals_cover_the_truth(without: tuple):
    rng = np.random.default_rng(2)
    covered, kinds = [], set()
    for _ in range(100):
        model = fit_cells(made(rng, without=without))
        assert model is not None
        kinds.add(model.kind)
        for cell, truth in (("1", 0.03), ("4", 0.0)):
            found = model.contrast({cell: 1.0, "0": -1.0})
            covered.append(found.low <= truth <= found.high)
    assert kinds == {"mixed" if without else "blocks"}
    assert 0.91 < np.mean(covered) < 0.98


def test_a_seed_that_is_lacking_does_not_count_against_a_cell():
    values = {c: {s: 10.0 * s + int(c) + (int(c) + s) % 2 / 100 for s in range(4)} for c in "012"}
    del values["2"][3]
    model = fit_cells(values)
    assert model is not None
    assert model.kind == "mixed"
    assert model.contrast({"2": 1.0, "0": -1.0}).mean == pytest.approx(2.0, abs=0.02), "its mean alone is 3 lower"


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_unit_does_not_matter(scale: float):
    values = made(np.random.default_rng(3), without=LACKING)
    one = fit_cells(values)
    other = fit_cells({cell: {s: scale * x for s, x in by_seed.items()} for cell, by_seed in values.items()})
    assert one is not None
    assert other is not None
    weights = {"1": 1.0, "0": -1.0}
    assert other.contrast(weights).high == pytest.approx(scale * one.contrast(weights).high)


def test_nothing_is_fitted_without_noise_seeds_or_cells():
    assert fit_cells({"a": {0: 1.0, 1: 2.0}}) is None
    assert fit_cells({"a": {0: 1.0}, "b": {0: 2.0}}) is None
    assert fit_cells({"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 4.0}}) is None, "no noise is left"
    assert fit_effects(np.ones((2, 1)), np.array([0, 1]), np.array([1.0, 2.0])) is None
    model = fit_cells(made(np.random.default_rng(4)) | {"empty": {}})
    assert model is not None
    assert math.isnan(model.contrast({"empty": 1.0, "0": -1.0}).mean)


def test_terms_of_an_incomplete_study_are_a_mixed_models():
    factors = {"a": ["0", "1"], "b": ["x", "y", "z"]}
    levels = {str(place): {"a": str(place // 3), "b": "xyz"[place % 3]} for place in range(6)}
    rng = np.random.default_rng(5)
    values = made(rng, without=LACKING, seeds=4)
    values = {cell: {s: x + 0.2 * (levels[cell]["a"] == "1") for s, x in of.items()} for cell, of in values.items()}
    found = {term.factors: term for term in variance_terms(values, levels, factors)}
    assert {term.kind for term in found.values()} == {"mixed"}
    assert found["a",].p < 1e-6 < found["b",].p
    assert found["a",].df == (1, 13)


def outcome(levels: Levels, seed: int) -> Outcome:
    jitter = math.sin(7 * seed + 3 * len("".join(levels.values()))) / 100
    if levels == {"gate": "on", "norm": "yes"} and seed == 2:
        return Outcome(state=None)
    return Outcome(values={ACCURACY: 0.5 + 0.2 * (levels["gate"] == "on") + seed / 20 + jitter})


def test_tables_say_which_model_they_are_of(tmp_path: Path):
    made = make_study(tmp_path, {"gate": ["off", "on"], "norm": ["no", "yes"]}, outcome)
    results = collate(tmp_path, made.name, [ACCURACY])
    summaries = summarise(results)
    for table in (differences_table(results, summaries), effects_table(results, summaries)):
        assert table.columns[-1].title == "pooled [95 %]"
        assert "mixed model with the seed as a random effect, where values are missing" in table.remarks[-1]
        assert max(item.sort for *_, item in table.rows) == pytest.approx(0.2, abs=0.03), "the gate's"
    variance = variance_table(results)
    assert variance is not None
    assert variance.remarks[0].startswith("Metrics that lack values: mixed model")
    frame = raw.raw_effects(summaries)
    assert set(frame["pooled_by"]) == {"mixed"}
    assert (frame["pooled_low"] < frame["pooled"]).all()


def test_a_block_has_its_own_noise_and_blocks_add_up():
    rng = np.random.default_rng(11)
    loud, quiet = made(rng), {f"q{cell}": {s: x / 100 for s, x in v.items()} for cell, v in made(rng).items()}
    blocks = [list(loud), list(quiet)]
    model, alone = fit_cells(loud | quiet, blocks), fit_cells(quiet)
    assert model is not None
    assert alone is not None
    a, b, *_ = loud
    qa, qb, *_ = quiet
    assert model.contrast({qa: 1.0, qb: -1.0}) == alone.contrast({qa: 1.0, qb: -1.0})
    both = model.contrast({a: 0.5, b: -0.5, qa: 0.5, qb: -0.5})
    parts = [model.contrast({a: 0.5, b: -0.5}), model.contrast({qa: 0.5, qb: -0.5})]
    assert both.mean == pytest.approx(sum(part.mean for part in parts))
    dfs = [part.df for part in model.parts]
    v = [((one.high - one.mean) / stdtrit(df, 0.975)) ** 2 for one, df in zip(parts, dfs, strict=True)]
    df = sum(v) ** 2 / sum(x**2 / d for x, d in zip(v, dfs, strict=True))
    assert both.high - both.mean == pytest.approx(stdtrit(df, 0.975) * math.sqrt(sum(v)))
    assert fit_cells(loud | {"one": {0: 1.0}}, [list(loud), ["one"]]).cells == tuple(loud)  # pyright: ignore
