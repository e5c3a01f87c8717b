"""Accuracy by length, of trials that were evaluated on a suite: a panel per task, a line per cell."""

import math

from analysis.canvas import PAPER, WIDTH, Picture, develop
from analysis.collate import BY_LENGTH, Results
from analysis.palette import PLAIN, looks
from analysis.statistics import estimate

MOST_TASKS = 9
"""More panels are not drawn."""
Tasks = dict[str, dict[int, str]]
"""Task → length → metric."""


def lengths_of(results: Results) -> Tasks:
    """The tasks that compared trials were measured on at two lengths or more."""
    found: Tasks = {}
    for name in results.logged:
        if (match := BY_LENGTH.match(name)) and results.last_values(name):
            found.setdefault(match["task"] + match["rest"], {})[int(match["length"])] = name
    return {task: dict(sorted(by_length.items())) for task, by_length in found.items() if len(by_length) > 1}


def lengths_picture(results: Results, tasks: Tasks) -> Picture:
    """Mean and interval over seeds, at each length of each task."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = dict(list(tasks.items())[:MOST_TASKS])
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(WIDTH, 0.8 + 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    look = looks(results)
    for axes, (task, by_length) in zip(grid, shown.items(), strict=False):
        values = [results.last_values(name) for name in by_length.values()]
        for place, cell in enumerate(results.cells):
            of = look[cell.name]
            found = [estimate(list(one.get(cell.name, {}).values())) for one in values]
            x = [length * 1.02 ** (place - len(results.cells) / 2) for length in by_length]
            halves = [one.half if one.n > 1 else 0.0 for one in found]
            axes.errorbar(x, [one.mean for one in found], halves, fmt="none", color=of.color, linewidth=1.0, alpha=0.45)
            inside = PAPER if of.hollow else of.color
            axes.plot(x, [one.mean for one in found], of.line, marker=of.marker, color=of.color, markerfacecolor=inside)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(by_length), [f"{length:,}" for length in by_length])
        axes.minorticks_off()
        axes.set_title(task, fontsize=9)
        axes.set_xlabel("length, tokens")
    for axes in grid[::columns]:
        axes.set_ylabel("accuracy")
    for spare in grid[len(shown) :]:
        spare.remove()
    grid[0].set_ylim(-0.04, 1.04)
    handles = {one.legend: Line2D([], [], color=one.color, linestyle=one.line, linewidth=2) for one in look.values()}
    marks = {one.facet: Line2D([], [], color=PLAIN, marker=one.marker, linestyle="none") for one in look.values()}
    handles |= {facet: mark for facet, mark in marks.items() if facet}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=min(4, len(handles)))
    left = f" {len(tasks) - len(shown)} more tasks are in the metrics." if len(tasks) > len(shown) else ""
    return develop(
        figure,
        "lengths",
        "Accuracy by length",
        "Mean over seeds with its 95 % t-interval (cut where it leaves the picture), of trials evaluated on a "
        f"suite.{left}",
    )
