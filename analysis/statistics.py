"""The statistics of a comparison. SciPy and statsmodels compute them; this file says of what.

x_cs      a metric of cell c and seed s
d_cs      x_cs − x_bs, the paired difference from c's baseline b: a seed fixes data order and initial values. b has c's
          levels of the factors the study compares within, such as the task, and the baseline's of all others
interval  Student's t-interval, mean ± t(0.975, n − 1) · sd / √n
p         paired t-test of mean(d_c) = 0, Holm-corrected over all cells that are compared on the metric (Holm 1979)
g_z       mean(d) / sd(d) · J(n − 1), Cohen's d_z with Hedges' exact small-sample factor (Hedges 1981, Lakens 2013)
same      paired two one-sided t-tests (TOST, Schuirmann 1987) of |mean(d_c)| ≥ margin, Holm-corrected likewise

A missing x_cs is absent. Numbers that cannot be given (an interval of one seed, a p of no variance) are NaN, never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from analysis.collate import Results
    from analysis.pooled import Model

Values = Mapping[str, Mapping[int, float]]
"""Cell → seed → value of one metric; a missing value is absent."""
LEVEL = 0.95
"""Of every interval."""
ROUNDING = 64 * float(np.finfo(np.float64).eps)
"""Values that differ by less than this, relative to the largest, are the same number computed twice."""
NAN = float("nan")
Key = tuple[tuple[str, str], ...]
"""Levels in an order that does not depend on how they were written."""
Contrast = dict[str, float]
"""Cell → weight."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its t-interval.

    Attributes:
        n: number of values.
        mean: NaN when n = 0.
        sd: sample standard deviation (n − 1); NaN below two values.
        low, high: ends of the 95 % interval; NaN below two values, the mean itself when all values are equal.
    """

    n: int = 0
    mean: float = NAN
    sd: float = NAN
    low: float = NAN
    high: float = NAN

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def exact(self) -> bool:
        """Whether several values were all equal, so that the interval is a point."""
        return self.n > 1 and self.sd == 0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A cell against its baseline, paired by seed.

    Attributes:
        estimate: of d_cs over the pairs.
        p: two-sided paired t-test; NaN below two pairs and where all differences are equal.
        holm: p corrected over the family of the metric.
        g: Hedges' g_z; NaN below three pairs (its factor J is 0 for two) and where all differences are equal.
        same: p of the two one-sided tests, corrected over the family; small where the difference is within the margin.
            NaN without a margin and wherever p is.
        per_seed: seed → d_cs.
        unpaired: seeds that one of the two cells lacks, dropped from the comparison.
    """

    estimate: Estimate
    p: float = NAN
    holm: float = NAN
    g: float = NAN
    same: float = NAN
    per_seed: dict[int, float] = field(default_factory=dict)
    unpaired: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a level does (main effect), or what two levels do together beyond the sum of what each does (interaction).

    Attributes:
        levels: factor → level; one entry is a main effect, two are an interaction.
        against: factor → the baseline's level.
        estimate: of the effect per seed, over seeds.
        averaged: combinations of the other factors' levels that each seed's effect is the mean of.
        left_out: such combinations that lack a value in one of the seeds.
        per_seed: the effect in each seed that has a value in every averaged combination.
        contrast: cell → weight, over every combination that has values, whatever the seeds.
    """

    levels: dict[str, str]
    against: dict[str, str]
    estimate: Estimate
    averaged: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    per_seed: dict[int, float] = field(default_factory=dict)
    contrast: Contrast = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Everything computed of one metric.

    Attributes:
        estimates: cell → its mean over seeds.
        differences: cell → its difference from its baseline; without those that are baselines or have none.
        family: number of p values that Holm's correction was made over.
        effects: main effects, then (two-factor studies) interactions; no main effect of a factor that the study
            compares within, for a difference between tasks is none.
        contributions: group of factors → the full model minus the one that has these at the baseline's levels; only of
            leave-one-out designs.
        margin: the difference that matters, which ``same`` is tested against, or None.
        model: of all cells together, for intervals with pooled noise; None where nothing can be fitted.
    """

    estimates: dict[str, Estimate]
    differences: dict[str, Difference]
    family: int
    effects: list[Effect]
    contributions: dict[str, Difference] = field(default_factory=dict)
    margin: float | None = None
    model: "Model | None" = None


def summarise(results: "Results", margin: float | None = None) -> dict[str, Summary]:
    """Metric → its statistics, for every compared metric of a study.

    Args:
        margin: a difference in the primary metric that matters, in its unit.
    """
    from analysis.pooled import fit_cells

    summaries = {}
    for metric in results.metrics:
        values = results.values(metric.name)
        of_metric = margin if metric == results.metrics[0] else None
        differences = paired_differences(values, results.baselines, of_metric)
        summaries[metric.name] = Summary(
            estimates={cell: estimate(list(by_seed.values())) for cell, by_seed in values.items()},
            differences=differences,
            family=sum(not math.isnan(difference.p) for difference in differences.values()),
            effects=effects(values, results.levels, results.factors, results.baseline_levels, results.within),
            contributions=contributions(values, results.left_out),
            margin=of_metric,
            model=fit_cells(values, [[cell.name for cell in block.cells] for block in results.blocks]),
        )
    return summaries


def estimate(values: Sequence[float] | np.ndarray, scale: float | None = None) -> Estimate:
    """Mean, standard deviation and 95 % t-interval (``scipy.stats.ttest_1samp``).

    Args:
        values: one per seed, finite.
        scale: size of the numbers the values were computed from, against which rounding is judged; their own if None.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        return Estimate()
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(n=1, mean=mean)
    rounding = ROUNDING * (np.abs(x).max() if scale is None else scale)
    if np.ptp(x) <= rounding:
        mean = 0.0 if abs(mean) <= rounding else mean
        return Estimate(n=x.size, mean=mean, sd=0.0, low=mean, high=mean)
    _, low, high = t_test(x)
    return Estimate(n=x.size, mean=mean, sd=float(x.std(ddof=1)), low=float(low), high=float(high))


def t_test(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(…, n) values → (…) p of no mean, ends of the mean's 95 % t-interval (``scipy.stats.ttest_1samp``).

    Of paired differences it is the paired t-test.
    """
    from scipy import stats

    test: Any = stats.ttest_1samp(x, 0.0, axis=-1)
    interval = test.confidence_interval(LEVEL)
    return test.pvalue, interval.low, interval.high


def paired_differences(
    values: Values, baselines: Mapping[str, str | None], margin: float | None = None
) -> dict[str, Difference]:
    """Every cell against its own baseline, with Holm's correction over all of them.

    Args:
        values: cell → seed → value.
        baselines: cell → the cell it is compared with; one that is its own, or has none, is not compared.
        margin: a difference that matters, or None.
    """
    pairs = {cell: base for cell in values if (base := baselines[cell]) is not None and base != cell}
    return _corrected({cell: paired_difference(values[cell], values[base], margin) for cell, base in pairs.items()})


def contributions(values: Values, left_out: tuple[str, Mapping[str, str]] | None) -> dict[str, Difference]:
    """What the full model has over the one without each group of factors, with Holm's correction over the groups.

    Args:
        values: cell → seed → value.
        left_out: the full model's cell, and group of factors → the cell without it; None where the study has none.
    """
    if left_out is None:
        return {}
    full, without = left_out
    return _corrected({group: paired_difference(values[full], values[cell]) for group, cell in without.items()})


def _corrected(found: dict[str, Difference]) -> dict[str, Difference]:
    """The differences, which are one family, with Holm's correction."""
    tested = [name for name, difference in found.items() if not math.isnan(difference.p)]
    ps, same = (holm([p for name in tested if not math.isnan(p := getattr(found[name], of))]) for of in ("p", "same"))
    same = same or [NAN] * len(tested)
    return found | {name: replace(found[name], holm=p, same=s) for name, p, s in zip(tested, ps, same, strict=True)}


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], margin: float | None = None
) -> Difference:
    """One cell against the baseline, seed → value each, over the seeds that both have; p and ``same`` uncorrected."""
    seeds = sorted(values.keys() & baseline.keys())
    x, b = (np.array([of[seed] for seed in seeds]) for of in (values, baseline))
    d = x - b
    result = Difference(
        estimate=estimate(d, _scale([*x, *b])),
        per_seed={seed: float(value) for seed, value in zip(seeds, d, strict=True)},
        unpaired=tuple(sorted(values.keys() ^ baseline.keys())),
    )
    if result.estimate.n < 2 or result.estimate.exact:
        return result
    p, *_ = t_test(d)
    return replace(result, p=float(p), g=hedges_g(result.estimate), same=NAN if margin is None else tost(d, margin))


def tost(d: np.ndarray, margin: float) -> float:
    """p of the mean difference lying outside ±margin (``statsmodels.stats.weightstats.DescrStatsW.ttost_mean``).

    Args:
        d: (n,) paired differences.
        margin: above 0, in the unit of the differences.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    return float(DescrStatsW(d).ttost_mean(-margin, margin)[0])


def hedges_g(of: Estimate) -> float:
    """g_z = mean / sd · J(n − 1) with J(m) = Γ(m/2) / (√(m/2) Γ((m − 1)/2)), of an estimate of paired differences."""
    from scipy.special import gammaln

    m = of.n - 1
    if m < 2 or of.sd == 0:
        return NAN
    correction = np.exp(gammaln(m / 2) - gammaln((m - 1) / 2)) / np.sqrt(m / 2)
    return float(of.mean / of.sd * correction)


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction (``statsmodels.stats.multitest.multipletests``)."""
    from statsmodels.stats.multitest import multipletests

    if not ps:
        return []
    corrected: Any = multipletests(ps, method="holm")[1]
    return [float(p) for p in corrected]


def effects(
    values: Values,
    levels: Mapping[str, Mapping[str, str]],
    factors: Mapping[str, Sequence[str]],
    baseline: Mapping[str, str],
    within: Sequence[str] = (),
) -> list[Effect]:
    """Main effect of every level that is not the baseline's; for two factors also every interaction.

    A seed's main effect of a level is its difference from the baseline's level, averaged over the combinations of the
    other factors' levels. A seed's interaction of two levels is the difference of differences
    (x_ab − x_a₀b) − (x_ab₀ − x_a₀b₀). Every seed averages over the same combinations: those complete in the most seeds.

    Args:
        values: cell → seed → value.
        levels: cell → a level per factor.
        factors: factor → its levels in order.
        baseline: a level per factor.
        within: factors that get no main effect.
    """
    cell_of = {_key(chosen): cell for cell, chosen in levels.items()}
    others = {factor: [level for level in known if level != baseline[factor]] for factor, known in factors.items()}
    found = [
        _effect(values, _steps(cell_of, {factor: level}, baseline), {factor: level}, {factor: baseline[factor]})
        for factor in factors
        if factor not in within
        for level in others[factor]
    ]
    if len(factors) == 2:
        for pair in product(*others.values()):
            both = dict(zip(factors, pair, strict=True))
            found.append(_effect(values, _square(cell_of, both, baseline), both, dict(baseline)))
    return [effect for effect in found if effect.averaged or effect.left_out]


def _steps(cell_of: Mapping[Key, str], step: Mapping[str, str], baseline: Mapping[str, str]) -> dict[str, Contrast]:
    """Combination of the other factors' levels → the cell with a level minus the cell with the baseline's."""
    ((factor, level),) = step.items()
    contrasts = {}
    for key, cell in cell_of.items():
        chosen = dict(key)
        partner = cell_of.get(_key({**chosen, factor: baseline[factor]}))
        if chosen[factor] == level and partner is not None:
            rest = " ".join(f"{name}={value}" for name, value in chosen.items() if name != factor)
            contrasts[rest] = {cell: 1.0, partner: -1.0}
    return contrasts


def _square(cell_of: Mapping[Key, str], both: Mapping[str, str], baseline: Mapping[str, str]) -> dict[str, Contrast]:
    """The difference of differences, if the plan has all four cells."""
    one, two = both
    corners = {
        _key(both): 1.0,
        _key({**both, one: baseline[one]}): -1.0,
        _key({**both, two: baseline[two]}): -1.0,
        _key(baseline): 1.0,
    }
    contrast = {cell_of[corner]: sign for corner, sign in corners.items() if corner in cell_of}
    return {"the four cells": contrast} if len(contrast) == 4 else {}


def _effect(
    values: Values, contrasts: Mapping[str, Contrast], levels: dict[str, str], against: dict[str, str]
) -> Effect:
    """Mean of the contrasts per seed, over those contrasts that are complete in the most seeds."""
    complete = {
        name: frozenset.intersection(*(frozenset(values[cell]) for cell in contrast))
        for name, contrast in contrasts.items()
    }
    candidates = set(complete.values()) or {frozenset()}
    best = max(candidates, key=lambda s: (len(s), sum(s <= other for other in complete.values()), sorted(s)))
    kept = [name for name, there in complete.items() if best and best <= there]
    per_seed = {
        seed: float(np.mean([_combined(values, contrasts[name], seed) for name in kept])) for seed in sorted(best)
    }
    used = [values[cell][seed] for seed in per_seed for name in kept for cell in contrasts[name]]
    return Effect(
        levels=levels,
        against=against,
        estimate=estimate(list(per_seed.values()), _scale(used)),
        averaged=tuple(kept),
        left_out=tuple(name for name in contrasts if name not in kept),
        per_seed=per_seed,
        contrast=_averaged([c for c in contrasts.values() if all(values[cell] for cell in c)]),
    )


def _averaged(contrasts: Sequence[Contrast]) -> Contrast:
    weights: Contrast = {}
    for contrast in contrasts:
        for cell, weight in contrast.items():
            weights[cell] = weights.get(cell, 0.0) + weight / len(contrasts)
    return weights


def _combined(values: Values, contrast: Contrast, seed: int) -> float:
    return sum(weight * values[cell][seed] for cell, weight in contrast.items())


def _key(levels: Mapping[str, str]) -> Key:
    return tuple(sorted(levels.items()))


def _scale(values: Sequence[float]) -> float:
    return max(map(abs, values), default=0.0)
