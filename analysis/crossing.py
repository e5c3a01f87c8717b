"""Two factors against each other: the factor × factor table, and the picture of their interaction.

                 recurrent        hybrid
delta_net        0.506 ± 0.027    0.507 ± 0.011
kda              0.497 ± 0.019    0.504 ± 0.018
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from analysis.canvas import WIDTH, Picture, axis_label, develop, room_for
from analysis.collate import Metric, Results
from analysis.notes import Notes, seeds_in_words
from analysis.numbers import decimals, mean_and_half
from analysis.palette import LINES, MARKERS, coloured_factor, level_slots
from analysis.statistics import Estimate, Values, estimate
from analysis.tables import Column, Item, Table, best_of
from deltalab.track.palette import HUES
from deltalab.wording import level_label, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deltalab.track.palette import Slot

MOST_PAIRS = 6
"""More pairs of factors are not drawn; the tables have them."""
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Corner:
    """What two levels together come to.

    Attributes:
        estimate: over seeds of the mean over ``averaged``.
        lacking: seeds that some of the cells behind it lack.
        planned: whether the study has such cells.
    """

    estimate: Estimate
    lacking: tuple[int, ...] = ()
    planned: bool = True


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """A metric by the levels of two factors.

    Attributes:
        pair: the factors, rows before columns.
        corners: (level, level) → what they come to.
        averaged: combinations of the other factors' levels that every corner is the mean of.
    """

    pair: Pair
    corners: Mapping[Pair, Corner]
    averaged: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether two levels of each factor meet in all ways, without which there is no interaction to see."""
        there = {levels for levels, corner in self.corners.items() if corner.estimate.n}
        rows, columns = ({levels[place] for levels in there} for place in (0, 1))
        return any(
            set(product(a, b)) <= there for a in combinations(sorted(rows), 2) for b in combinations(sorted(columns), 2)
        )


def crossings(results: Results, metric: Metric) -> list[Crossing]:
    """Every pair of factors whose levels are crossed by the plan; none of a single factor, nor of two that the study
    only compares within."""
    varied = [factor for factor, levels in results.factors.items() if len(levels) > 1]
    last = {coloured_factor(results): -1, **dict.fromkeys(results.within, 1)}
    pairs = [tuple(sorted(pair, key=lambda factor: last.get(factor, 0))) for pair in combinations(varied, 2)]
    pairs = [(one, two) for one, two in pairs if not {one, two} <= set(results.within)]
    found = [_crossing(results, results.values(metric.name), pair) for pair in pairs]
    return [one for one in found if len(varied) == 2 or one.whole]


def _crossing(results: Results, values: Values, pair: Pair) -> Crossing:
    """One pair, averaged over those combinations of the others that every planned pair of levels has."""
    by_pair: dict[Pair, dict[str, str]] = {}
    for cell in results.cells:
        rest = " ".join(f"{name}={level}" for name, level in cell.levels.items() if name not in pair)
        by_pair.setdefault((cell.levels[pair[0]], cell.levels[pair[1]]), {})[rest] = cell.name
    shared = set.intersection(*(set(rests) for rests in by_pair.values())) if by_pair else set()
    corners = {
        levels: _corner(values, [by_pair[levels][rest] for rest in sorted(shared)])
        if shared and levels in by_pair
        else Corner(estimate=Estimate(), planned=levels in by_pair)
        for levels in product(results.factors[pair[0]], results.factors[pair[1]])
    }
    return Crossing(pair=pair, corners=corners, averaged=tuple(sorted(shared - {""})))


def _corner(values: Values, cells: Sequence[str]) -> Corner:
    every = sorted(set().union(*(values[cell] for cell in cells)))
    seeds = [seed for seed in every if all(seed in values[cell] for cell in cells)]
    means = [float(np.mean([values[cell][seed] for cell in cells])) for seed in seeds]
    return Corner(estimate=estimate(means), lacking=tuple(seed for seed in every if seed not in seeds))


def crossing_tables(results: Results) -> list[Table]:
    """A table per pair of crossed factors, a row per metric and level of the first."""
    tables = {}
    for metric in results.metrics:
        for found in crossings(results, metric):
            tables.setdefault(found.pair, []).append((metric, found))
    return [_table(results, pair, found) for pair, found in tables.items()]


def _table(results: Results, pair: Pair, found: Sequence[tuple[Metric, Crossing]]) -> Table:
    one, two = pair
    book, rows = Notes(), []
    most = max((corner.estimate.n for _, crossing in found for corner in crossing.corners.values()), default=0)
    for metric, crossing in found:
        known = {levels: corner.estimate for levels, corner in crossing.corners.items()}
        places = decimals(known.values())
        best = _best(results, pair, known, metric, places)
        for level in results.factors[one]:
            row = [Item(text=metric.label, sort=metric.name)] if len(results.metrics) > 1 else []
            row.append(Item(text=level_label(one, level), sort=level))
            for other in results.factors[two]:
                corner = crossing.corners[level, other]
                text = mean_and_half(corner.estimate, places)
                marks = book.mark(_note(corner, most))
                row.append(Item(text=text, bold=(level, other) in best, marks=marks, sort=corner.estimate.mean))
            rows.append(row)
    heads = [*(["metric"] if len(results.metrics) > 1 else []), one]
    columns = [Column(title=head, part="cell", right=False) for head in heads]
    columns += [Column(title=level_label(two, level), part="metric") for level in results.factors[two]]
    apart = [factor for factor in pair if factor in results.within]
    of_each = f" of each {listed(apart)}" if apart else ""
    remarks = [f"Mean ± half-width of the 95 % t-interval over seeds; bold: the metric's best mean{of_each}."]
    if averaged := found[0][1].averaged:
        remarks.append(f"A seed's value is its mean over {', '.join(averaged)}.")
    return Table(title=f"{one} × {two}", columns=columns, rows=rows, notes=book.listed, remarks=remarks)


def _best(results: Results, pair: Pair, known: Mapping[Pair, Estimate], metric: Metric, places: int) -> set[Pair]:
    """The best corners among those that are compared with one another."""
    apart: dict[tuple[str, ...], dict[Pair, Estimate]] = {}
    for levels, found in known.items():
        block = tuple(level for factor, level in zip(pair, levels, strict=True) if factor in results.within)
        apart.setdefault(block, {})[levels] = found
    return set().union(*(best_of(block, metric.goal, places) for block in apart.values()))


def _note(corner: Corner, most: int) -> str:
    if not corner.planned:
        return "the study does not run these levels together"
    if corner.lacking:
        return f"without {seeds_in_words(list(corner.lacking))}, not there in every cell behind it"
    if corner.estimate.n < most:
        return f"{corner.estimate.n} of {most} seeds"
    return ""


def interactions_picture(results: Results, metric: Metric) -> Picture | None:
    """A panel per pair of factors: parallel lines are factors that add up. None where no two levels of each meet."""
    from matplotlib.figure import Figure

    whole = [crossing for crossing in crossings(results, metric) if crossing.whole]
    if not whole:
        return None
    found, more = whole[:MOST_PAIRS], len(whole) - MOST_PAIRS
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(WIDTH, 0.4 + 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, crossing in zip(grid, found, strict=False):
        _draw(results, axes, crossing)
    for axes in grid[::columns]:
        axes.set_ylabel(axis_label(metric))
    means = [corner.estimate.mean for one in found for corner in one.corners.values() if corner.estimate.n]
    grid[0].set_ylim(*room_for(means))
    for spare in grid[len(found) :]:
        spare.remove()
    return develop(
        figure,
        "interactions",
        f"{metric.name}, factors together",
        "Mean over seeds with its 95 % t-interval (cut where it leaves the picture) at each pair of levels, averaged "
        "over the other factors. Parallel lines: the factors add up; lines that part or cross: what "
        "one does depends on the other." + (f" The tables have {more} more pairs." if more > 0 else ""),
    )


def _draw(results: Results, axes: "Axes", crossing: Crossing) -> None:
    one, two = crossing.pair
    slots = _slots(results, one)
    across = results.factors[two]
    step = min(0.04, 0.4 / len(slots))
    for turn, (level, (hue, line)) in enumerate(slots.items()):
        shift = (turn - (len(slots) - 1) / 2) * step
        there = [
            (place, corner.estimate)
            for place, other in enumerate(across)
            if (corner := crossing.corners[level, other]).estimate.n
        ]
        x, y = [place + shift for place, _ in there], [found.mean for _, found in there]
        halves = [found.half if found.n > 1 else 0.0 for _, found in there]
        axes.errorbar(x, y, halves, fmt="none", color=HUES[hue], linewidth=1.1, alpha=0.5)
        mark = MARKERS[turn % len(MARKERS)]
        axes.plot(x, y, LINES[line], marker=mark, color=HUES[hue], markersize=6, label=level)
    axes.set_xticks(range(len(across)), across)
    axes.set_xlim(-0.4, len(across) - 0.6)
    axes.set_xlabel(two)
    axes.set_title(f"{one} × {two}")
    axes.grid(axis="x", visible=False)
    axes.legend(title=one, fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _slots(results: Results, factor: str) -> "dict[str, Slot]":
    """Variants in their colours; levels of other factors in the order of the hues."""
    if factor == coloured_factor(results):
        return level_slots(results, factor)
    return {level: (place % len(HUES), place // len(HUES)) for place, level in enumerate(results.factors[factor])}
