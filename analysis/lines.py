"""Line plots: loss over training, accuracy by position or gap. A panel per combination of the factors that colours do
not tell."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.canvas import PAPER, Picture, develop, panels, room_for
from analysis.collate import SLICE, Results
from analysis.palette import looks
from analysis.statistics import estimate
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import State

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Panels = dict[str, Axes]

MOST_POINTS = 300
"""A curve with more points is averaged over stretches of steps."""
MOST_TICKS = 12
"""Position labels beside each other before they are slanted."""
SLICED = {
    "gap": "gap between binding and question",
    "depth": "depth of the needle, percent",
    "order": "place in the order",
}
"""Last part of a sliced metric's name → what its slices are ranges of; positions in the sequence otherwise."""
ENDED = (State.diverged.value, State.failed.value)
VANISHED = 1 / 50
"""The share of its start below which a loss is read on a logarithmic scale."""


def loss_of(results: Results) -> str | None:
    """The loss whose curve is drawn: train/loss, else the loss with the most points."""
    points = {
        str(name): n for name, n in results.curves["metric"].value_counts().items() if str(name).endswith("/loss")
    }
    return "train/loss" if "train/loss" in points else max(points, key=lambda name: points[name], default=None)


def slices_of(results: Results) -> tuple[str, list[str]] | None:
    """The metric that completed trials report by position, and its slices in order; accuracy before others."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in results.logged:
        if (match := SLICE.match(name)) and results.last_values(name):
            found.setdefault(match["whole"], []).append((int(match["first"]), name))
    several = {whole: [name for _, name in sorted(parts)] for whole, parts in found.items() if len(parts) > 1}
    if not several:
        return None
    whole = max(several, key=lambda name: (name == "eval/accuracy", len(several[name])))
    return whole, several[whole]


def slices_picture(results: Results, whole: str, names: list[str]) -> Picture:
    """Mean and interval by position in the sequence, by gap, by whatever the slices are ranges of."""
    of = SLICED.get(whole.rpartition("/")[2], "position in the sequence")
    look = looks(results)
    legends = list(dict.fromkeys(style.legend for style in look.values()))
    step = min(0.05, 0.5 / len(legends))
    by_slice = {name: results.last_values(name) for name in names}
    told = [cell for cell in results.cells if any(one.get(cell.name) for one in by_slice.values())]
    figure, grid = _panels(results, told)  # a task need not report what another does
    for cell in told:
        style = look[cell.name]
        found = [estimate(list(by_slice[name].get(cell.name, {}).values())) for name in names]
        shift = (legends.index(style.legend) - (len(legends) - 1) / 2) * step
        x = [place + shift for place in range(len(names))]
        halves = [0.0 if math.isnan(one.half) else one.half for one in found]
        means = [one.mean for one in found]
        axes = grid[style.facet]
        axes.errorbar(x, means, halves, color=style.color, linewidth=1.1, fmt="none", alpha=0.5)
        inside = PAPER if style.hollow else style.color
        axes.plot(x, means, style.line, marker="o", markersize=5, color=style.color, markerfacecolor=inside)
    ticks = [name.removeprefix(f"{whole}/").replace("-", "–") for name in names]
    crowded = len(names) * min(3, len(grid)) > MOST_TICKS
    for axes in grid.values():
        axes.set_xticks(range(len(names)), ticks, rotation=45 if crowded else 0)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_xlabel(of)
    values = [value for cells in by_slice.values() for seeds in cells.values() for value in seeds.values()]
    _finish(results, figure, grid, whole, values)
    return develop(
        figure,
        "slices",
        f"{whole} by {of.split()[0]}",
        f"Mean over completed seeds by {of}, with its 95 % t-interval (cut where it leaves the picture); cells are "
        "shifted sideways to be told apart.",
    )


def curves_picture(results: Results, metric: str) -> Picture:
    """Mean over completed seeds with a band, and the other seeds as they are."""
    from matplotlib.ticker import LogFormatter

    look = looks(results)
    rows = results.curves[results.curves["metric"] == metric]
    figure, grid = _panels(results, results.cells)
    starts, ends = [], []
    for cell in results.cells:
        style, of_cell = look[cell.name], rows[rows["cell"] == cell.name]
        axes = grid[style.facet]
        for seed in _unfinished(of_cell):
            steps, mean, *_ = _band(seed)
            axes.plot(steps, mean, color=style.color, linewidth=0.9, alpha=0.75)
            sign = "x" if seed["state"].iloc[0] in ENDED else "."
            axes.plot(steps[-1:], mean[-1:], sign, color=style.color, markersize=6)
        steps, mean, low, high = _band(of_cell[of_cell["state"] == State.completed.value])
        if steps:
            axes.fill_between(steps, low, high, color=style.color, alpha=0.15, linewidth=0)
            axes.plot(steps, mean, style.line, color=style.color, linewidth=1.6)
            starts.append(mean[0])
            ends.append(mean[-1])
    for axes in grid.values():
        axes.set_xlabel("step")
        if ends and 0 < sorted(ends)[len(ends) // 2] < VANISHED * max(starts) and min(ends) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
    _finish(results, figure, grid, metric)
    return develop(
        figure,
        "curves",
        metric,
        "Line: mean over completed seeds; band: from the lowest to the highest. Thin lines: seeds that are not "
        "completed, × where one diverged or failed, a dot where one is now.",
    )


def _unfinished(rows: Any) -> list[Any]:
    return [seed for _, seed in rows[rows["state"] != State.completed.value].groupby("seed")]


def _band(rows: Any) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps, mean, lowest and highest over seeds, at the steps that every seed logged."""
    table = rows.pivot(index="step", columns="seed", values="value").dropna()
    table = table[(abs(table) < math.inf).all(axis=1)]
    if len(table) > MOST_POINTS:
        stretch = math.ceil(len(table) / MOST_POINTS)
        groups = [place // stretch for place in range(len(table))]
        table = table.assign(step=table.index).groupby(groups).mean().set_index("step")
    found = (table.index, table.mean(axis=1), table.min(axis=1), table.max(axis=1))
    steps, mean, low, high = ([float(value) for value in series] for series in found)
    return steps, mean, low, high


def _panels(results: Results, cells: Sequence[CellRecord]) -> "tuple[Figure, Panels]":
    """Panels, three in a row at most, on the same scales unless cells of different panels are not compared."""
    look = looks(results)
    facets = list(dict.fromkeys(look[cell.name].facet for cell in cells))
    across = 2 if len(facets) == 4 else 3
    shared = not results.within  # values of another task are on another scale
    figure, grid = panels(facets, "", alone=4.0, around=0.6, across=across, shared=shared)
    for axes in grid:
        axes.tick_params(labelbottom=True)
    return figure, dict(zip(facets, grid, strict=True))


def _finish(results: Results, figure: "Figure", grid: "Panels", label: str, values: Sequence[float] = ()) -> None:
    """The axis' label, room for values, and one legend below."""
    from matplotlib.lines import Line2D

    next(iter(grid.values())).set_ylabel(label)
    for axes in grid.values() if values else ():
        axes.set_ylim(*room_for(values))
    styles = {look.legend: look for look in looks(results).values()}
    handles = [Line2D([], [], color=look.color, linestyle=look.line, linewidth=2) for look in styles.values()]
    columns = max(1, min(len(styles), int(100 / (max(map(len, styles)) + 8))))
    figure.legend(handles, list(styles), loc="outside lower center", ncols=columns)
