"""Dot plots of the primary metric: values, differences from the baseline, main effects. A row per cell or level."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.canvas import AXIS, BAND, PAPER, WIDTH, Picture, axis_label, develop
from analysis.collate import Metric, Results
from analysis.numbers import p_value
from analysis.palette import PLAIN, level_color, looks
from analysis.statistics import Estimate, Summary
from deltalab.wording import level_label, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.36
"""Inches per row."""
BELOW = 0.24
"""How far below the mean's line the seeds are drawn, in rows."""
REACH = 1.5
"""How far past the points an interval is followed, as a share of the points' range."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a dot plot.

    Attributes:
        seeds: values drawn faint.
        line: where its vertical line lies, such as its baseline's mean; rows of one baseline make one line.
        remark: written at the right edge.
        rule: whether a line above it begins a new group.
    """

    label: str
    estimate: Estimate
    color: str
    marker: str = "o"
    hollow: bool = False
    seeds: list[float] = field(default_factory=list)
    line: float | None = None
    remark: str = ""
    rule: bool = False


def values_picture(results: Results, metric: Metric, summary: Summary) -> Picture:
    """Every seed, mean and interval of every cell."""
    look = looks(results)
    values = results.values(metric.name)
    rows = [
        Row(
            label=results.label(cell),
            estimate=summary.estimates[cell.name],
            color=look[cell.name].color,
            marker=look[cell.name].marker,
            hollow=look[cell.name].hollow,
            seeds=list(values[cell.name].values()),
            line=_mean(summary, results.baselines[cell.name]),
            rule=cell.name in results.firsts,
        )
        for cell in results.cells
    ]
    each = f", of each {listed(results.within)} its own" if results.within else ""
    return _draw(
        rows,
        axis_label(metric),
        name="values",
        title=metric.name,
        caption="Faint: one seed each. Solid: mean over completed seeds with its 95 % t-interval, an arrow where it "
        f"leaves the picture. Vertical line: mean of the baseline{each}.",
    )


def _mean(summary: Summary, cell: str | None) -> float | None:
    """A cell's mean, where it has one."""
    return summary.estimates[cell].mean if cell is not None and summary.estimates[cell].n else None


def differences_picture(results: Results, metric: Metric, summary: Summary) -> Picture:
    """Every cell against its baseline, paired by seed."""
    look = looks(results)
    rows: list[Row] = []
    before = None
    for cell in (cell for cell in results.cells if cell.name in summary.differences):
        found, base = summary.differences[cell.name], results.baselines[cell.name]
        rows.append(
            Row(
                label=results.label(cell),
                estimate=found.estimate,
                color=look[cell.name].color,
                marker=look[cell.name].marker,
                hollow=look[cell.name].hollow,
                seeds=list(found.per_seed.values()),
                line=0.0,
                rule=bool(rows) and base != before,
                remark="" if math.isnan(found.holm) else p_value(found.holm),
            )
        )
        before = base
    against = " · ".join(level_label(factor, level) for factor, level in results.against.items())
    return _draw(
        rows,
        f"Δ {axis_label(metric)}",
        name="differences",
        title=f"{metric.name} against the baseline{results.alike}",
        caption=f"Cell − baseline{results.alike} ({against}), paired by seed. Faint: one seed each. Solid: "
        "mean with its 95 % t-interval, not corrected for the number of cells. p: paired t-test, Holm-corrected.",
    )


def effects_picture(results: Results, metric: Metric, summary: Summary) -> Picture:
    """Main effects of every level."""
    rows: list[Row] = []
    before = ""
    for effect in summary.effects:
        if len(effect.levels) == 1 and effect.estimate.n:
            ((factor, level),) = effect.levels.items()
            color = level_color(results, factor, level)
            new = bool(rows) and factor != before
            seeds = list(effect.per_seed.values())
            label = f"{factor}: {level}"
            rows.append(Row(label=label, estimate=effect.estimate, color=color, seeds=seeds, line=0.0, rule=new))
            before = factor
    against = ", ".join(f"{factor}={level}" for factor, level in results.against.items())
    return _draw(
        rows,
        f"main effect on {axis_label(metric)}",
        name="effects",
        title=f"{metric.name}, main effects",
        caption=f"What a level does against the baseline's ({against}), averaged over the other factors' levels. "
        "Faint: one seed each. Solid: mean with its 95 % t-interval over seeds.",
    )


def _draw(rows: list[Row], label: str, *, name: str, title: str, caption: str) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.0 + ROW * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(label)
    left, right = _limits(rows)
    axes.set_xlim(left, right)
    for place, row in enumerate(rows):
        if place % 2 == 0:
            axes.axhspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
        if row.rule:
            axes.axhline(place - 0.5, color=AXIS, linewidth=0.8)
        if row.line is not None:
            ends = [place - 0.5, place + 0.5]
            axes.plot([row.line] * 2, ends, color=PLAIN, linewidth=1.2, solid_capstyle="butt", zorder=1)
        _draw_row(axes, place, row, left, right)
    if any(row.remark for row in rows):
        _remark(axes, -0.5, "p (Holm)", "bottom")
    return develop(figure, name, title, caption)


def _draw_row(axes: "Axes", place: int, row: Row, left: float, right: float) -> None:
    found, color = row.estimate, row.color
    below = [place + BELOW] * len(row.seeds)
    axes.plot(row.seeds, below, row.marker, color=color, alpha=0.45, markersize=4.5, markeredgewidth=0, zorder=2)
    if found.n > 1:
        ends = [max(found.low, left), min(found.high, right)]
        axes.plot(ends, [place, place], color=color, linewidth=2.2, solid_capstyle="butt", zorder=3)
        inside = 0.008 * (right - left)
        for beyond, edge, arrow in ((found.low < left, left + inside, "<"), (found.high > right, right - inside, ">")):
            if beyond:
                axes.plot([edge], [place], arrow, color=color, markersize=7, zorder=5)
    if found.n:
        face, edge = (PAPER, color) if row.hollow else (color, PAPER)
        axes.plot([found.mean], [place], row.marker, markersize=8, color=face, markeredgecolor=edge, zorder=4)
    if row.remark:
        _remark(axes, place, row.remark, "center_baseline")


def _remark(axes: "Axes", place: float, text: str, align: str) -> None:
    axes.text(1.012, place, text, transform=axes.get_yaxis_transform(), va=align, fontsize=9, color=PLAIN)


def _limits(rows: list[Row]) -> tuple[float, float]:
    """Room for every point, and for intervals as far as ``REACH``."""
    points = [value for row in rows for value in (*row.seeds, row.estimate.mean) if not math.isnan(value)]
    points += [row.line for row in rows if row.line is not None]
    low, high = min(points), max(points)
    width = (high - low) or abs(high) or 1.0
    ends = [end for row in rows if row.estimate.n > 1 for end in (row.estimate.low, row.estimate.high)]
    left = max(min([low, *ends]), low - REACH * width)
    right = min(max([high, *ends]), high + REACH * width)
    margin = 0.03 * ((right - left) or width)
    return left - margin, right + margin
