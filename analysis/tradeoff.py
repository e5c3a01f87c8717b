"""Quality against what it costs: state carried through a sequence, or speed of training. The Pareto front is marked.

A cell is on the front where no other is at least as good in both and better in one, by the means.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from analysis.canvas import PAPER, PLAIN, Picture, axis_label, develop, panels, room_for
from analysis.collate import Metric, Results
from analysis.palette import looks
from analysis.statistics import Summary
from deltalab.spec.study import Goal
from deltalab.study.design import cell_name
from deltalab.study.ledger import CellRecord
from deltalab.wording import level_label, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The other axis.

    Attributes:
        name: file name of the picture.
        label: of the axis.
        told: in the picture's title.
        more: whether more of it is better.
        of: cell → how much.
        caveat: what a reader must know of it.
    """

    name: str
    label: str
    told: str
    more: bool
    of: Mapping[str, float]
    caveat: str


def costs(results: Results) -> list[Cost]:
    """What the study's cells differ in: state and cache, and speed where one kind of machine ran all."""
    state = {cell.name: float(cell.state_size + cell.cache_size) for cell in results.cells}
    rows = results.trials[results.trials["compared"]]
    of_cell: dict[str, list[float]] = {}
    for name, value in zip(rows["cell"], rows["tokens_per_second"], strict=True):
        of_cell.setdefault(name, []).append(value)
    speed = {name: median(values) for name, values in of_cell.items()}
    found = [
        Cost(
            name="state",
            label="state + cache, floats per sequence",
            told="state and cache",
            more=False,
            of=state,
            caveat="State is what recurrent layers carry, cache what attention layers keep.",
        )
    ]
    if len(set(rows["hardware"])) == 1:
        found.append(
            Cost(
                name="speed",
                label="tokens per second in training",
                told="training speed",
                more=True,
                of=speed,
                caveat="Speed: median over each trial's training and its seeds, with whatever else the machine ran.",
            )
        )
    known = [(cost, [value for value in cost.of.values() if value > 0]) for cost in found]
    return [cost for cost, values in known if len(set(values)) > 1]


def front(points: Mapping[str, tuple[float, float]], more: bool, goal: Goal) -> list[str]:
    """Keys on the Pareto front, by ascending cost.

    Args:
        points: key → (cost, quality).
        more: whether more of the cost is better.
        goal: which direction of the quality is better.
    """
    turned = {
        key: (x if more else -x, y if goal is Goal.max else -y) for key, (x, y) in points.items() if math.isfinite(y)
    }
    kept = [
        key
        for key, (x, y) in turned.items()
        if not any(a >= x and b >= y and (a > x or b > y) for a, b in turned.values())
    ]
    return sorted(kept, key=lambda key: points[key])


def tradeoff_picture(results: Results, metric: Metric, summary: Summary, cost: Cost) -> Picture:
    """A panel per block, a point per cell with its interval; the front as a line, its cells named."""
    known = {name for name, found in summary.estimates.items() if found.n and cost.of.get(name, math.nan) > 0}
    blocks = [block for block in results.blocks if any(cell.name in known for cell in block.cells)]
    titles = [cell_name(block.levels) for block in blocks]
    figure, grid = panels(titles, axis_label(metric), alone=5.0, around=0.6)
    for axes, block in zip(grid, blocks, strict=True):
        _panel(results, axes, metric, summary, cost, [cell for cell in block.cells if cell.name in known])
    _legend(results, figure)
    apart = " A panel, and a front, per " + listed(results.within) + "." if results.within else ""
    return develop(
        figure,
        cost.name,
        f"{metric.name} against {cost.told}",
        "A point per cell: mean over seeds with its 95 % t-interval (cut where it leaves the picture). Grey line: "
        "Pareto front of the means, its cells named; where intervals overlap another cell may belong to it. "
        f"{cost.caveat}{apart}",
    )


def _panel(
    results: Results, axes: "Axes", metric: Metric, summary: Summary, cost: Cost, shown: Sequence[CellRecord]
) -> None:
    """The cells that are compared with one another, and their front."""
    assert metric.goal is not None
    look = looks(results)
    points = {cell.name: (cost.of[cell.name], summary.estimates[cell.name].mean) for cell in shown}
    best = front(points, cost.more, metric.goal)
    axes.plot(*_stairs([points[name] for name in best], cost.more), color=PLAIN, linewidth=1.2, zorder=1)
    for cell in shown:
        of, (x, y), found = look[cell.name], points[cell.name], summary.estimates[cell.name]
        if found.n > 1:
            axes.errorbar([x], [y], [found.half], fmt="none", color=of.color, linewidth=1.1, alpha=0.45)
        inside, edge = (PAPER, of.color) if of.hollow else (of.color, PAPER)
        axes.plot([x], [y], of.marker, markersize=9, color=inside, markeredgecolor=edge, zorder=3)
    _scale(axes, [x for x, _ in points.values()])
    for place, name in enumerate(best):
        levels = next(cell.levels for cell in shown if cell.name == name)
        label = " · ".join(level_label(f, level) for f, level in levels.items() if f not in results.within)
        above = (place % 2 == 0) is (metric.goal is Goal.max)
        left = axes.transAxes.inverted().transform(axes.transData.transform(points[name]))[0] < 0.5
        style = {"ha": "left" if left else "right", "textcoords": "offset points", "fontsize": 8}
        axes.annotate(label, points[name], (6 if left else -6, 8 if above else -14), **style)
    axes.set_ylim(*room_for([y for _, y in points.values()]))
    axes.set_xlabel(f"{cost.label} ({'more' if cost.more else 'less'} is better)")


def _stairs(points: Sequence[tuple[float, float]], more: bool) -> tuple[list[float], list[float]]:
    """The edge of what is dominated: from a cell on, its quality is had until the next one's cost."""
    x, y = [], []
    for place, (cost, quality) in enumerate(points):
        if place and more:
            x.append(points[place - 1][0])
            y.append(quality)
        elif place:
            x.append(cost)
            y.append(points[place - 1][1])
        x.append(cost)
        y.append(quality)
    return x, y


def _scale(axes: object, values: Sequence[float]) -> None:
    """Logarithmic where costs span a factor of three or more."""
    from matplotlib.axes import Axes
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    assert isinstance(axes, Axes)
    whole = FuncFormatter(lambda value, _: f"{value:,.0f}")
    if max(values) >= 3 * min(values):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=10))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(whole)
    axes.margins(x=0.12)


def _legend(results: Results, figure: object) -> None:
    """Colours, then markers of the other factors' levels."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    assert isinstance(figure, Figure)
    styles = looks(results).values()
    colors = {look.legend: (look.color, PAPER if look.hollow else look.color) for look in styles}
    handles = [
        Line2D([], [], color=color, marker="o", linestyle="none", markerfacecolor=inside, label=label)
        for label, (color, inside) in colors.items()
    ]
    facets = {look.facet: look.marker for look in styles if look.facet}
    handles += [
        Line2D([], [], color=PLAIN, marker=mark, linestyle="none", label=facet) for facet, mark in facets.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
