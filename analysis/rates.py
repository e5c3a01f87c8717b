"""Learning-rate sensitivity: what each variant comes to at every rate, as a table and as a picture.

variant            train.lr=0.001   0.003            0.01             best rate   given away
gated_delta_net_2  0.91 ± 0.02      0.95 ± 0.01      0.72 ± 0.08      0.003       0.090

given away   mean over the rates of |best mean − mean|: what a rate drawn from the grid costs, on average, against the
             best one. It is the sensitivity of Wortsman et al. 2023 (arXiv 2309.14322) without their cap at the loss
             of an untrained model.

The rates are the levels of a factor that sets ``train.lr``, or the values that tuning tried (any key that is a number,
on the seeds of the tuning).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from analysis.canvas import PAPER, Picture, develop, panels
from analysis.collate import Results
from analysis.notes import Notes, seeds_in_words
from analysis.numbers import decimals, mean_and_half, number
from analysis.palette import LINES, MARKERS, Line, coloured_factor, looks
from analysis.statistics import Estimate, estimate
from analysis.tables import Column, Item, Table, best_of
from deltalab.spec.study import Goal
from deltalab.track.palette import HUES
from deltalab.wording import level_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATE = "train.lr"


@dataclass(frozen=True, kw_only=True)
class Group:
    """What shares a line: everything but the rate.

    Attributes:
        panel: its levels of the factors that the study compares within; empty where there are none.
        label: its other levels; empty where only the rate varies.
        found: rate → its mean over seeds.
    """

    panel: str
    label: str
    color: str
    line: Line
    hollow: bool
    found: Mapping[float, Estimate]

    @property
    def name(self) -> str:
        return " · ".join(part for part in (self.panel, self.label) if part)


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """A metric by rate.

    Attributes:
        key: what is varied.
        metric: name of what is measured.
        goal: which direction is better, or None.
        rates: ascending.
        groups: in the study's order.
        source: which trials tell it, in words.
    """

    key: str
    metric: str
    goal: Goal | None
    rates: list[float]
    groups: list[Group]
    source: str

    @property
    def places(self) -> int:
        return decimals(one for group in self.groups for one in group.found.values())

    @property
    def panels(self) -> dict[str, list[Group]]:
        """Panel → its groups."""
        return {
            name: [g for g in self.groups if g.panel == name] for name in dict.fromkeys(g.panel for g in self.groups)
        }


def sensitivity(results: Results) -> Sensitivity | None:
    """What the study says of rates; None where it varies none, or has no value of it yet."""
    found = _of_factor(results) or _of_tuning(results)
    return found if found and any(one.n for group in found.groups for one in group.found.values()) else None


def _of_factor(results: Results) -> Sensitivity | None:
    """The rates that a factor's levels set."""
    factor, by_level = next(
        (
            (factor, rates)
            for factor, levels in results.record.study["factors"].items()
            if len(rates := _rates(factor, levels)) == len(levels) > 1
        ),
        ("", {}),
    )
    if not by_level:
        return None
    metric = results.metrics[0]
    values, look = results.values(metric.name), looks(results)
    groups: dict[tuple[str, str], dict[float, Estimate]] = {}
    style = {}
    for cell in results.cells:
        label = _labels(results, {name: level for name, level in cell.levels.items() if name != factor})
        groups.setdefault(label, {})[by_level[cell.levels[factor]]] = estimate(list(values[cell.name].values()))
        style.setdefault(label, look[cell.name])
    alone = factor == coloured_factor(results)
    return Sensitivity(
        key=RATE,
        metric=metric.name,
        goal=metric.goal,
        rates=sorted(by_level.values()),
        groups=[
            Group(
                panel=label[0],
                label=label[1],
                color=HUES[0] if alone else style[label].color,
                line=LINES[0] if alone else style[label].line,
                hollow=style[label].hollow and not alone,
                found=found,
            )
            for label, found in groups.items()
        ],
        source="over the seeds compared",
    )


def _labels(results: Results, levels: Mapping[str, str]) -> tuple[str, str]:
    """Panel and label of a group."""
    apart = [
        " · ".join(level_label(name, level) for name, level in levels.items() if (name in results.within) is inside)
        for inside in (True, False)
    ]
    return apart[0], apart[1]


def _rates(factor: str, levels: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """Level → the learning rate it sets, of those levels that set one and nothing else."""
    sets = {level: dict(keys) or {factor: level} for level, keys in levels.items()}
    return {
        level: rate
        for level, keys in sets.items()
        if list(keys) == [RATE] and (rate := _positive(keys[RATE])) is not None
    }


def _of_tuning(results: Results) -> Sensitivity | None:
    """The values that tuning tried, where they are numbers."""
    tune, look = results.record.study.get("tune"), looks(results)
    if not tune or results.tuning.empty:
        return None
    groups = []
    for cell in results.cells:
        rows, found = results.tuning[results.tuning["cell"] == cell.name], {}
        for tried in cell.tuning:
            rate = _positive(tried.partition("=")[2])
            if rate is None:
                return None
            found[rate] = estimate(rows.loc[rows["tried"] == tried, "value"].dropna().to_numpy())
        of = look[cell.name]
        panel, label = _labels(results, cell.levels)
        style = {"color": of.color, "line": of.line, "hollow": of.hollow}
        groups.append(Group(panel=panel, label=label, found=found, **style))
    rates = sorted({rate for group in groups for rate in group.found})
    source = f"over the tuning's {seeds_in_words(tune['seeds'])}"
    return Sensitivity(
        key=tune["key"], metric=tune["metric"], goal=Goal(tune["goal"]), rates=rates, groups=groups, source=source
    )


def _positive(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if number > 0 else None


def rates_table(found: Sensitivity) -> Table:
    """A row per group, a column per rate, the best of each row bold."""
    book, rows, places = Notes(), [], found.places
    for group in found.groups:
        best = best_of(group.found, found.goal, places)
        row = [Item(text=group.name or "all", sort=group.name)]
        for rate in found.rates:
            one = group.found.get(rate, Estimate())
            row.append(Item(text=mean_and_half(one, places), bold=rate in best, sort=one.mean))
        if found.goal is not None:
            at = min(best, default=None)
            edge = "at the edge of the grid: a rate beyond it may be better still"
            marks = book.mark(edge if at in (found.rates[0], found.rates[-1]) else "")
            row.append(Item(text="" if at is None else f"{at:g}", marks=marks, sort=at))
            given = given_away(group, found.goal)
            row.append(Item(text=number(given, places), sort=given))
        rows.append(row)
    titles = ["", *(f"{found.key}={rate:g}" for rate in found.rates)]
    titles += ["best rate", "given away"] if found.goal is not None else []
    columns = [
        Column(title=title, part="metric" if place else "cell", right=place > 0) for place, title in enumerate(titles)
    ]
    remarks = [f"{found.metric}: mean ± half-width of the 95 % t-interval {found.source}; bold: best of a row."]
    if found.goal is not None:
        remarks.append("Given away: mean over the rates of the distance from the best mean (Wortsman et al. 2023).")
    ends = list(accumulate(len(groups) for groups in found.panels.values()))[:-1]
    title, rules = f"Sensitivity to {found.key}", tuple(ends)
    return Table(title=title, columns=columns, rows=rows, rules=rules, notes=book.listed, remarks=remarks)


def given_away(group: Group, goal: Goal) -> float:
    """Mean over the rates of |best mean − mean|; NaN without a value."""
    means = [one.mean for one in group.found.values() if one.n]
    if not means:
        return float("nan")
    best = max(means) if goal is Goal.max else min(means)
    return sum(abs(best - mean) for mean in means) / len(means)


def rates_picture(found: Sensitivity) -> Picture:
    """A line per group over the rates, its best one ringed; a panel for each of what is compared alone."""
    figure, grid = panels(list(found.panels), found.metric, alone=4.4, around=0.7)
    for axes, groups in zip(grid, found.panels.values(), strict=True):
        _draw(axes, found, groups)
    handles = {line.get_label(): line for axes in grid for line in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=max(1, min(4, len(handles))))
    return develop(
        figure,
        "rates",
        f"{found.metric} by {found.key}",
        f"Mean {found.source} with its 95 % t-interval; lines are shifted sideways to be told apart. Ringed: the best "
        "rate of each. A flat line is forgiving; a best rate at the edge of the grid may not be the best there is.",
    )


def _draw(axes: "Axes", found: Sensitivity, groups: list[Group]) -> None:
    for place, group in enumerate(groups):
        there = sorted((rate, one) for rate, one in group.found.items() if one.n)
        x = [rate * 1.012 ** (place - (len(groups) - 1) / 2) for rate, _ in there]
        y = [one.mean for _, one in there]
        halves = [one.half if one.n > 1 else 0.0 for _, one in there]
        axes.errorbar(x, y, halves, fmt="none", color=group.color, linewidth=1.1, alpha=0.5)
        face = PAPER if group.hollow else group.color
        style = {"marker": MARKERS[place % len(MARKERS)], "markerfacecolor": face, "markersize": 6}
        axes.plot(x, y, group.line, color=group.color, label=group.label or found.metric, **style)
        best = best_of(dict(there), found.goal, found.places)
        ringed = [(at, mean) for at, mean, (rate, _) in zip(x, y, there, strict=True) if rate in best]
        axes.plot(
            *zip(*ringed, strict=True), "o", color=group.color, fillstyle="none", markersize=13
        ) if ringed else None
    axes.set_xscale("log")
    axes.set_xticks(found.rates, [f"{rate:g}" for rate in found.rates])
    axes.minorticks_off()
    axes.set_xlabel(found.key)
