"""The tables as data: which cell says what, before any format. ``formats`` turns them into text.

variant            pattern    params  state   accuracy/33-64 ↑   Δ accuracy/33-64         p
gated_delta_net_2  recurrent  57,636  1,024   0.564 ± 0.044      baseline
kda                recurrent  57,720  1,024   0.551 ± 0.073      −0.013 [−0.08, +0.05]    1.000
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from analysis import notes
from analysis.collate import Metric, Results
from analysis.notes import Notes
from analysis.numbers import MISSING, count, decimals, mean_and_half, number, p_value, with_interval
from analysis.pooled import FEW, Interval, Model, model_remark
from analysis.sources import provenance_line, trial_ids
from analysis.statistics import Difference, Effect, Estimate, Summary
from deltalab.spec.study import Goal
from deltalab.study.ledger import CellRecord

Key = TypeVar("Key")
SIGNIFICANT = 0.05
"""Differences with a corrected p below this are coloured where the format has colours."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One table cell.

    Attributes:
        text: as shown, not escaped.
        bold: the best of its column.
        marks: footnote marks.
        sort: what the column is sorted by.
        tone: ``better`` or ``worse`` than the baseline by the corrected p.
    """

    text: str
    bold: bool = False
    marks: tuple[str, ...] = ()
    sort: float | str | None = None
    tone: Literal["", "better", "worse"] = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's heading.

    Attributes:
        title: not escaped.
        part: what the column tells of; a narrow terminal splits the table between the parts.
        right: whether it is aligned to the right.
    """

    title: str
    part: Literal["cell", "size", "metric", "difference"]
    right: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table in no format yet.

    Attributes:
        rules: rows that have a rule above, which sets blocks of cells apart.
        notes: (mark, text) footnotes.
        remarks: sentences that hold for the whole table.
    """

    title: str
    columns: list[Column]
    rows: list[list[Item]]
    rules: tuple[int, ...] = ()
    notes: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    provenance: str = ""


def comparison_table(results: Results, summaries: dict[str, Summary]) -> Table:
    """A row per cell, the baseline (of each block) first: levels, size, every metric, and the primary metric's
    difference."""
    book = Notes()
    places = places_of(results, summaries)
    best = {m.name: _best_of_blocks(results, summaries[m.name].estimates, m, places[m.name]) for m in results.metrics}
    lacks = {cell.name: block.lacks for block in results.blocks for cell in block.cells}
    show_seeds = any(notes.missing_seeds(results, cell) for cell in results.cells)
    primary = results.metrics[0]
    differences = summaries[primary.name].differences
    show_p = summaries[primary.name].family > 0 or any(d.estimate.exact for d in differences.values())
    steps = {metric.name: results.last_steps(metric.name) for metric in results.metrics}
    rows = []
    for cell in results.cells:
        row = [Item(text=level, sort=level) for level in cell.levels.values()]
        said = (notes.same_trials, notes.tuned, notes.ended_later, notes.ended_early, notes.unequal_tokens)
        marks = tuple(mark for note in said for mark in book.mark(note(results, cell)))
        row[0] = Item(text=row[0].text, sort=row[0].sort, marks=marks)
        row += [_seeds_item(results, cell, book)] if show_seeds else []
        row += _size_items(results, cell, book)
        for metric in results.metrics:
            found = summaries[metric.name].estimates[cell.name]
            marks = book.mark(notes.missing_values(results, cell, metric, found))
            marks += book.mark(notes.unequal_steps(results, steps[metric.name], cell))
            marks += book.mark("equal in every seed, so the interval is a point" if found.exact else "")
            text = mean_and_half(found, places[metric.name])
            row.append(Item(text=text, bold=cell.name in best[metric.name], marks=marks, sort=found.mean))
        if differences and lacks[cell.name]:
            row += [Item(text=MISSING, marks=book.mark(lacks[cell.name])), Item(text="")][: 1 + show_p]
        elif differences:
            row += difference_items(differences.get(cell.name), primary, places[primary.name], show_p, book)
        rows.append(row)
    return Table(
        title=f"{results.record.name}: {results.record.study.get('question', '')}".rstrip(": "),
        columns=_columns(results, show_seeds, bool(differences), show_p),
        rows=rows,
        rules=tuple(place for place, cell in enumerate(results.cells) if cell.name in results.firsts),
        notes=book.listed,
        remarks=notes.remarks(results, summaries),
        provenance=f"{provenance_line(results)} · {trial_ids(results)}",
    )


def _best_of_blocks(results: Results, estimates: Mapping[str, Estimate], metric: Metric, places: int) -> set[str]:
    """The best cells of each block."""
    blocks = ({cell.name: estimates[cell.name] for cell in block.cells} for block in results.blocks)
    return set().union(*(best_of(block, metric.goal, places) for block in blocks))


def places_of(results: Results, summaries: dict[str, Summary]) -> dict[str, int]:
    """Metric → decimal places of its column."""
    return {metric.name: decimals(summaries[metric.name].estimates.values()) for metric in results.metrics}


def best_of(estimates: Mapping[Key, Estimate], goal: Goal | None, places: int) -> set[Key]:
    """Keys of the best mean as displayed, among those with the most values, so that none wins by losing seeds."""
    most = max((found.n for found in estimates.values()), default=0)
    means = {key: round(found.mean, places) for key, found in estimates.items() if found.n == most and most}
    if goal is None or len(estimates) < 2 or not means:
        return set()
    top = max(means.values()) if goal is Goal.max else min(means.values())
    return {key for key, mean in means.items() if mean == top}


def differences_table(results: Results, summaries: dict[str, Summary]) -> Table:
    """Every metric's paired differences with effect size; a row per metric and cell."""
    book = Notes()
    places = places_of(results, summaries)
    models = _models_shown(results, summaries)
    rows, rules, before = [], [], ()
    for metric in results.metrics:
        compared = [cell for cell in results.cells if cell.name in summaries[metric.name].differences]
        for cell in compared:
            found, base = summaries[metric.name].differences[cell.name], str(results.baselines[cell.name])
            if results.within and before not in ((), (metric.name, base)):
                rules.append(len(rows))
            before = metric.name, base
            items = difference_items(found, metric, places[metric.name], True, book)
            rows.append(
                [
                    Item(text=metric.label, sort=metric.name),
                    Item(text=results.label(cell), sort=cell.name),
                    items[0],
                    Item(text=str(found.estimate.n), sort=found.estimate.n),
                    Item(text=p_value(found.p), sort=found.p),
                    items[1],
                    Item(text=number(found.g, 2, signed=True), sort=found.g),
                    *_pooled_items(models, metric, {cell.name: 1.0, base: -1.0}, places[metric.name]),
                ]
            )
    title = f"from the baseline{results.alike}"
    titles = ["metric", "cell", f"Δ {title} [95 %]", "pairs", "p", "p (Holm)", "Hedges' g_z"]
    titles += ["pooled [95 %]"] if models else []
    remark = (
        "Paired by seed; p: paired t-test, p (Holm): corrected over all cells within a metric; g_z: Cohen's d_z with "
        "Hedges' exact small-sample factor, from three pairs on."
    )
    columns = [Column(title=title, part="cell", right=place > 1) for place, title in enumerate(titles)]
    remarks = [remark, *filter(None, [model_remark(list(models.values()), results.alike)])]
    remarks += [f"{block.lacks}." for block in results.blocks if block.lacks]
    return Table(
        title=f"Differences {title}", columns=columns, rows=rows, rules=tuple(rules), notes=book.listed, remarks=remarks
    )


def effects_table(results: Results, summaries: dict[str, Summary], metrics: list[Metric] | None = None) -> Table:
    """Main effects and interactions of the metrics (all compared ones when None); one metric needs no column."""
    book = Notes()
    metrics = results.metrics if metrics is None else metrics
    several = len(metrics) > 1
    models = _models_shown(results, summaries)
    places = places_of(results, summaries)
    rows = []
    for metric in metrics:
        for effect in summaries[metric.name].effects:
            note = book.mark(_effect_note(effect, summaries[metric.name]))
            text = with_interval(effect.estimate, places[metric.name])
            row = [Item(text=metric.label, sort=metric.name)] if several else []
            row.append(Item(text=effect_label(effect), sort=effect_label(effect)))
            row.append(Item(text=text, marks=note, sort=effect.estimate.mean))
            row.append(Item(text=str(effect.estimate.n), sort=effect.estimate.n))
            row.append(Item(text=_averaged(effect), sort=len(effect.averaged)))
            row += _pooled_items(models, metric, effect.contrast, places[metric.name])
            rows.append(row)
    crossed = any(len(effect.levels) > 1 for metric in metrics for effect in summaries[metric.name].effects)
    titles = [*(["metric"] if several else []), "effect", "estimate [95 %]", "seeds", "averaged over"]
    titles += ["pooled [95 %]"] if models else []
    columns = [Column(title=title, part="cell", right=place > several) for place, title in enumerate(titles)]
    remarks = [*notes.effect_remarks(results, crossed), model_remark(list(models.values()), results.alike)]
    return Table(title="Effects", columns=columns, rows=rows, notes=book.listed, remarks=[*filter(None, remarks)])


def _models_shown(results: Results, summaries: dict[str, Summary]) -> dict[str, Model]:
    """Metric → its model, where seeds are few, or missing, and cells several enough to learn from one another."""
    found = {metric.name: summaries[metric.name].model for metric in results.metrics}
    return {
        name: model
        for name, model in found.items()
        if model is not None and len(model.cells) > 2 and (model.seeds <= FEW or model.kind == "mixed")
    }


def _pooled_items(models: Mapping[str, Model], metric: Metric, weights: Mapping[str, float], places: int) -> list[Item]:
    """The contrast with pooled noise; no item where the table has no such column."""
    if not models:
        return []
    model = models.get(metric.name)
    found = model.contrast(weights) if model is not None else Interval()
    if math.isnan(found.mean):
        return [Item(text=MISSING, sort=None)]
    ends = f"[{number(found.low, places, signed=True)}, {number(found.high, places, signed=True)}]"
    return [Item(text=f"{number(found.mean, places, signed=True)} {ends}", sort=found.mean)]


def effect_label(effect: Effect) -> str:
    """``variant: kda − gated_delta_net_2``, or ``variant=kda × pattern=hybrid``."""
    if len(effect.levels) == 1:
        ((factor, level),) = effect.levels.items()
        return f"{factor}: {level} − {effect.against[factor]}"
    return " × ".join(f"{factor}={level}" for factor, level in effect.levels.items())


def _columns(results: Results, show_seeds: bool, show_difference: bool, show_p: bool) -> list[Column]:
    columns = [Column(title=factor, part="cell", right=False) for factor in results.factors]
    columns += [Column(title="seeds", part="size")] if show_seeds else []
    cached = any(cell.cache_size for cell in results.cells)
    columns += [Column(title="params", part="size"), Column(title="state + cache" if cached else "state", part="size")]
    columns += [Column(title=metric.label, part="metric") for metric in results.metrics]
    if show_difference:
        title = f"Δ {results.metrics[0].label}"
        columns.append(Column(title=f"{title} [95 %]" if show_p else title, part="difference"))
        columns += [Column(title="p (Holm)", part="difference")] if show_p else []
    return columns


def _seeds_item(results: Results, cell: CellRecord, book: Notes) -> Item:
    done = len(results.compared(cell))
    mark = book.mark(notes.missing_seeds(results, cell))
    return Item(text=f"{done}/{len(cell.trials)}", marks=mark, sort=done)


def _size_items(results: Results, cell: CellRecord, book: Notes) -> list[Item]:
    state = count(cell.state_size)
    if cell.cache_size:
        state += f" + {count(cell.cache_size)}"
    return [
        Item(text=count(cell.parameters), marks=book.mark(notes.mismatch(results, cell)), sort=cell.parameters),
        Item(text=state, sort=cell.state_size + cell.cache_size),
    ]


def difference_items(
    difference: Difference | None, metric: Metric, places: int, show_p: bool, book: Notes
) -> list[Item]:
    """A difference with its interval and, if ``show_p``, its corrected p; None is the baseline's own."""
    if difference is None:
        return [Item(text="baseline", sort=0.0), Item(text="", sort=None)][: 1 + show_p]
    exact = difference.estimate.exact
    p = Item(text=p_value(difference.holm), sort=difference.holm)
    if exact:
        why = "exact: equal in every pair, so the interval is a point and a t-test has no p"
        p = Item(text="exact", marks=book.mark(why), sort=None)
    shift = Item(
        text=with_interval(difference.estimate, places),
        marks=book.mark(notes.unpaired_seeds(difference)),
        sort=difference.estimate.mean,
        tone=_tone(difference, metric),
    )
    return [shift, p] if show_p else [shift]


def _tone(difference: Difference, metric: Metric) -> Literal["", "better", "worse"]:
    if metric.goal is None or not difference.holm < SIGNIFICANT:
        return ""
    return "better" if (difference.estimate.mean > 0) is (metric.goal is Goal.max) else "worse"


def _averaged(effect: Effect) -> str:
    planned = len(effect.averaged) + len(effect.left_out)
    kept = len(effect.averaged)
    return f"{kept} of {planned}" if kept < planned else str(planned)


def _effect_note(effect: Effect, summary: Summary) -> str:
    planned = max((found.n for found in summary.estimates.values()), default=0)
    seeds = notes.seeds_in_words(list(effect.per_seed))
    if not effect.averaged:
        return "no seed has a value in every cell this needs"
    if effect.left_out:
        verb = "is" if len(effect.left_out) == 1 else "are"
        return f"without {', '.join(effect.left_out)}, which {verb} not complete in {seeds}"
    return f"only over {seeds}, complete in every cell this needs" if len(effect.per_seed) < planned else ""
