"""Intervals with the noise pooled over all cells, for few seeds; a mixed model where values are missing. statsmodels
computes both.

x_cs = cell_c + seed_s + ε_cs, one σ for all ε

blocks  every cell has every seed: ordinary least squares with the seed as a block (analysis of variance)
mixed   some are missing: restricted maximum likelihood with seed_s ~ N(0, τ²) as a random effect, so that the seeds
        which a cell lacks do not count for or against it

Both give a contrast Σ w_c cell_c, Σ w_c = 0, its t-interval with N − C − (S − 1) degrees of freedom (values, cells,
seeds: those of the block design, the containment rule of mixed models). On complete data the two agree. What the
intervals take for granted, and paired ones by cell do not, is that all cells are equally noisy.

Where a study compares within blocks (a task, a length), each block is fitted alone, with a σ and seeds of its own: a
seed's luck on one task is not that on another. A contrast over several blocks is then the sum of one in each, with the
variances v_b added and Welch and Satterthwaite's (Σ v_b)² / Σ (v_b² / df_b) degrees of freedom (Satterthwaite 1946).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.statistics import LEVEL, NAN, ROUNDING, Values

Kind = Literal["blocks", "mixed"]
FEW = 5
"""Up to so many seeds intervals with pooled noise are given beside those of each cell alone."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A contrast with its interval; all NaN where a cell has no value."""

    mean: float = NAN
    low: float = NAN
    high: float = NAN


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was fitted.

    Attributes:
        parts: one of each block of cells that could be fitted.
    """

    parts: tuple["Part", ...]

    @property
    def kind(self) -> Kind:
        """``mixed`` where a part is."""
        return "mixed" if any(part.kind == "mixed" for part in self.parts) else "blocks"

    @property
    def cells(self) -> tuple[str, ...]:
        """Those with values."""
        return tuple(cell for part in self.parts for cell in part.cells)

    @property
    def seeds(self) -> int:
        """How many there are in all, of the part with the most."""
        return max(part.seeds for part in self.parts)

    def contrast(self, weights: Mapping[str, float]) -> Interval:
        """Σ w_c cell_c with its 95 % t-interval.

        Args:
            weights: cell → w_c, which sum to 0 in each part.
        """
        from scipy.stats import t

        if not weights or not set(weights) <= set(self.cells):
            return Interval()
        used = [part for part in self.parts if weights.keys() & set(part.cells)]
        ws = [np.array([weights.get(cell, 0.0) for cell in part.cells]) for part in used]
        mean = sum(float(w @ part.means) for w, part in zip(ws, used, strict=True))
        v = np.array([w @ part.covariance @ w for w, part in zip(ws, used, strict=True)])
        df = v.sum() ** 2 / (v**2 / [part.df for part in used]).sum()
        half = float(t.ppf((1 + LEVEL) / 2, df) * np.sqrt(v.sum()))
        return Interval(mean=mean, low=mean - half, high=mean + half)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What was fitted of one block.

    Attributes:
        kind: which model.
        cells: those with values.
        means: (C,) of the cells.
        covariance: (C, C) of the means, up to what all cells share.
        df: degrees of freedom of the noise.
        seeds: how many there are in all.
    """

    kind: Kind
    cells: tuple[str, ...]
    means: np.ndarray
    covariance: np.ndarray
    df: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fixed effects of either model: (P,) and (P, P), without those of the seeds."""

    kind: Kind
    effects: np.ndarray
    covariance: np.ndarray
    df: int


def fit_cells(values: Values, blocks: Sequence[Sequence[str]] | None = None) -> Model | None:
    """The model of one metric; None unless two cells of a block have values, with noise left to judge by.

    Args:
        values: cell → seed → value.
        blocks: cells that are fitted together; all of them when None.
    """
    grouped = [list(values)] if blocks is None else blocks
    parts = tuple(part for cells in grouped if (part := _fit_block({c: values[c] for c in cells})) is not None)
    return Model(parts=parts) if parts else None


def _fit_block(values: Values) -> Part | None:
    cells = tuple(cell for cell, by_seed in values.items() if by_seed)
    rows = [(place, seed, x) for place, cell in enumerate(cells) for seed, x in values[cell].items()]
    if len(cells) < 2:
        return None
    place, seed, x = (np.array(column) for column in zip(*rows, strict=True))
    fit = fit_effects(np.eye(len(cells))[place], seed, x)
    if fit is None:
        return None
    seeds = len(set(seed.tolist()))
    return Part(kind=fit.kind, cells=cells, means=fit.effects, covariance=fit.covariance, df=fit.df, seeds=seeds)


def fit_effects(design: np.ndarray, seed: np.ndarray, x: np.ndarray) -> Fit | None:
    """Fixed effects with the seed as a block, or as a random effect where the rows are no whole blocks.

    Args:
        design: (N, P), of full rank, the constant among what it spans.
        seed: (N,) which seed a row is of.
        x: (N,) values.

    Returns:
        None where no degree of freedom or no noise is left.
    """
    from statsmodels.regression.linear_model import OLS

    count = design.shape[1]
    known, block = np.unique(seed, return_inverse=True)
    sums = np.vstack([np.eye(len(known) - 1), -np.ones((1, len(known) - 1))])[block]
    whole = np.hstack([design, sums])
    df = len(x) - np.linalg.matrix_rank(whole)
    if len(known) < 2 or df < 1:
        return None
    spread = float(x.std())
    y = (x - x.mean()) / spread if spread else np.zeros_like(x)
    blocks = OLS(y, whole).fit()
    if np.sqrt(max(0.0, float(blocks.mse_resid))) * spread <= ROUNDING * np.abs(x).max():
        return None
    kind, fit = "blocks", blocks
    if len(set(map(tuple, _rows_of(design, block)))) > 1 and (mixed := _mixed(design, block, y)) is not None:
        kind, fit = "mixed", mixed
    effects, covariance = np.asarray(fit.params)[:count], np.asarray(fit.cov_params())[:count, :count]
    shift = np.linalg.lstsq(design, np.full(len(x), x.mean()), rcond=None)[0]
    return Fit(kind=kind, effects=shift + spread * effects, covariance=spread**2 * covariance, df=int(df))


def _rows_of(design: np.ndarray, block: np.ndarray) -> list[list[bytes]]:
    """Which rows of the design each block holds."""
    return [sorted(row.tobytes() for row in design[block == place]) for place in range(int(block.max()) + 1)]


def _mixed(design: np.ndarray, block: np.ndarray, y: np.ndarray) -> Any:
    """The mixed model, or None where τ² does not come to a finite number.

    Its fixed effects are those of generalised least squares at the τ²/σ² that it finds. MixedLM's own covariance comes
    from the likelihood's curvature, which at the bound τ² = 0 is that of no maximum.
    """
    from statsmodels.regression.linear_model import GLS
    from statsmodels.regression.mixed_linear_model import MixedLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a τ² at its bound 0, which is an answer
        try:
            found: Any = MixedLM(y, design, groups=block).fit(reml=True)
        except np.linalg.LinAlgError:
            return None
    ratio = float(found.cov_re[0, 0] / found.scale)
    if not np.isfinite(ratio):
        return None
    same = block[:, None] == block[None, :]
    return GLS(y, design, sigma=np.eye(len(y)) + max(0.0, ratio) * same).fit()


def model_remark(models: Sequence[Model], alike: str = "") -> str:
    """Which model the pooled intervals are of, in words; nothing without one.

    Args:
        alike: what the cells fitted together share, in words (`` of the same task``); nothing where all are.
    """
    kinds = {model.kind for model in models}
    if not kinds:
        return ""
    said = {
        "blocks": "analysis of variance with the seed as a block",
        "mixed": "mixed model with the seed as a random effect, where values are missing",
    }
    named = "; ".join(said[kind] for kind in ("blocks", "mixed") if kind in kinds)
    return (
        f"Pooled: t-interval with the noise pooled over all cells{alike} ({named}), as few seeds say little of a "
        f"cell's own; it takes {'these' if alike else 'all'} cells as equally noisy."
    )
