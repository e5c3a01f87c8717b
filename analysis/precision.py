"""How fine a difference a study can see, and what its factors do together. SciPy and statsmodels compute it.

x_cs = cell_c + seed_s + ε_cs, ε of standard deviation σ: a linear model in which the seed is a block, as every cell is
run with the same seeds (analysis of variance of a randomised complete block design). On balanced data its contrasts
are those of a mixed model with the seed as a random effect.

noise floor   σ with its χ² interval; two equal cells differ by √2 σ in a seed
detectable    the mean paired difference that n seeds find with a probability of POWER, tested two-sided at
              α = 0.05 / cells tested (Bonferroni's α, which is the first and hardest step of Holm's)
seeds needed  the smallest n that finds a given difference likewise
term          F-test of a factor, or of two factors' interaction, in the model that has both and the seed
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from analysis.pooled import Kind, fit_effects
from analysis.statistics import LEVEL, NAN, ROUNDING, Values

POWER = 0.8
"""Probability of finding a difference that is there."""
MOST_SEEDS = 10_000
"""More are not counted."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """What the replicates of one metric say of its noise.

    Attributes:
        n: seeds that every fitted cell has.
        noise: σ; NaN below two seeds or two cells, 0 where nothing is left but rounding.
        low, high: its 95 % interval.
        detectable: the difference that these seeds find.
        margin: the difference that is asked for, or None.
        needed: seeds that find it; NaN without a margin or noise, infinity above MOST_SEEDS.
    """

    n: int = 0
    noise: float = NAN
    low: float = NAN
    high: float = NAN
    detectable: float = NAN
    margin: float | None = None
    needed: float = NAN


@dataclass(frozen=True, kw_only=True)
class Term:
    """A line of the analysis of variance.

    Attributes:
        factors: one for a main effect, two for an interaction.
        f: the F statistic.
        df: degrees of freedom of the term and of the residuals.
        p: of no effect.
        share: partial η², the term's part of the variance that is not the other terms'.
        kind: the model that it was tested in, see ``pooled``.
    """

    factors: tuple[str, ...]
    f: float
    df: tuple[int, int]
    p: float
    share: float
    kind: Kind


def precision(values: Values, margin: float | None = None, tested: int | None = None) -> Precision:
    """The noise of a metric, and what it lets be seen; over the seeds that all cells with values have.

    Args:
        values: cell → seed → value, of cells that are compared with one another.
        margin: a difference that matters, or None.
        tested: comparisons that α is divided by, of all blocks; those of these cells with one of them when None.
    """
    from scipy import stats

    x = _complete(values)
    cells, seeds = x.shape
    if cells < 2 or seeds < 2:
        return Precision(n=seeds, margin=margin)
    fit = _fit(np.hstack([_blocks(cells, seeds), _dummies(np.repeat(np.arange(cells), seeds))]), x.ravel())
    noise, df = _noise(fit, x), int(fit.df_resid)
    if not noise:
        return Precision(n=seeds, noise=0.0, low=0.0, high=0.0, detectable=0.0, margin=margin)
    low, high = (math.sqrt(fit.ssr / stats.chi2.ppf(q, df)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    spread, alpha = math.sqrt(2) * noise, (1 - LEVEL) / (tested or cells - 1)
    return Precision(
        n=seeds,
        noise=noise,
        low=low,
        high=high,
        detectable=spread * _solved(nobs=seeds, alpha=alpha),
        margin=margin,
        needed=NAN if margin is None else seeds_needed(margin, spread, alpha),
    )


def seeds_needed(difference: float, spread: float, alpha: float = 1 - LEVEL) -> float:
    """Pairs that find a mean paired difference with a probability of POWER (``statsmodels.stats.power.TTestPower``).

    Args:
        difference: to be found.
        spread: standard deviation of a pair's difference.
        alpha: of the two-sided paired t-test.
    """
    from statsmodels.stats.power import TTestPower

    known: Any = TTestPower()

    def enough(seeds: int) -> bool:
        return known.power(abs(difference) / spread, seeds, alpha) >= POWER

    few, many = 1, 2  # the power grows with the seeds: double until they are enough, then halve what is between
    while not enough(many):
        few, many = many, 2 * many
        if many > MOST_SEEDS:
            return math.inf
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def variance_terms(
    values: Values, levels: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]]
) -> list[Term]:
    """F-tests of every factor and pair of factors; none unless all combinations have values, of two seeds or more.

    Args:
        values: cell → seed → value.
        levels: cell → a level per factor.
        factors: factor → its levels in order.
    """
    from scipy import stats

    varied = {factor: list(known) for factor, known in factors.items() if len(known) > 1}
    seeds = sorted(set().union(*(values[cell] for cell in levels)))
    whole = math.prod(len(known) for known in varied.values())
    if len(varied) < 2 or len(levels) != whole or not all(values[cell] for cell in levels):
        return []
    there = np.array([[seed in values[cell] for seed in seeds] for cell in levels]).ravel()
    columns = _columns(levels, varied, len(seeds))
    x = np.array([values[cell][seed] for cell in levels for seed in seeds if seed in values[cell]])
    design = np.hstack([np.ones((there.size, 1)), *columns.values()])[there]
    fit = fit_effects(design, np.tile(np.arange(len(seeds)), len(levels))[there], x)
    if fit is None:
        return []
    terms, place = [], 1
    for names, block in columns.items():
        width = block.shape[1]
        picked = slice(place, place + width)
        test = fit.effects[picked] @ np.linalg.solve(fit.covariance[picked, picked], fit.effects[picked])
        f, share = float(test) / width, float(test / (test + fit.df))
        p = float(stats.f.sf(f, width, fit.df))
        terms.append(Term(factors=names, f=f, df=(width, fit.df), p=p, share=share, kind=fit.kind))
        place += width
    return terms


def _complete(values: Values) -> np.ndarray:
    """(cells, seeds): the cells that have values, at the seeds that all of them have."""
    there = [by_seed for by_seed in values.values() if by_seed]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in there))) if there else []
    return np.array([[by_seed[seed] for seed in seeds] for by_seed in there]).reshape(len(there), len(seeds))


def _columns(
    levels: Mapping[str, Mapping[str, str]], factors: Mapping[str, list[str]], seeds: int
) -> dict[tuple[str, ...], np.ndarray]:
    """Term → its columns of the design, each level against the mean of all (so that terms do not depend on another)."""
    alone = {
        (factor,): _dummies(np.repeat([known.index(chosen[factor]) for chosen in levels.values()], seeds))
        for factor, known in factors.items()
    }
    crossed = {}
    if len(factors) > 1:
        for one, two in combinations(factors, 2):
            a, b = alone[one,], alone[two,]
            crossed[one, two] = (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
    return alone | crossed


def _blocks(cells: int, seeds: int) -> np.ndarray:
    """The mean and the seeds, with cells in the outer order."""
    place = np.tile(np.arange(seeds), cells)
    return np.hstack([np.ones((cells * seeds, 1)), _dummies(place)])


def _dummies(place: np.ndarray) -> np.ndarray:
    """Sum coding: a column per level but the last, which is −1 in all of them."""
    count = int(place.max()) + 1
    return np.vstack([np.eye(count - 1), -np.ones((1, count - 1))])[place]


def _fit(design: np.ndarray, x: np.ndarray) -> Any:
    from statsmodels.regression.linear_model import OLS

    return OLS(x, design).fit()


def _noise(fit: Any, x: np.ndarray) -> float:
    """σ of a fit, 0 where it is of the size of rounding."""
    noise = math.sqrt(max(0.0, fit.mse_resid))
    return noise if noise > ROUNDING * np.abs(x).max() else 0.0


def _solved(nobs: int, alpha: float) -> float:
    """Standardised difference that so many pairs find."""
    from statsmodels.stats.power import TTestPower

    known: Any = TTestPower()
    return float(known.solve_power(nobs=nobs, alpha=alpha, power=POWER))
