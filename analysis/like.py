"""``compare STUDY --like table3``: a study's cells in the layout of one of the paper's tables.

family     system              source             params  tokens   S-NIAH-1 1K ↑  …
recurrent  KDAᵃ                arXiv 2605.22791     1.3B    100B           100.0
recurrent  kda                 this study         57,720    2.5M     3.1 ± 1.2

A published row stands before ours of the same system. It is text from results/published.csv with its source and budget:
means, intervals and the best of a column are made of this study's values alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis import formats
from analysis.collate import Results, collate
from analysis.notes import Notes
from analysis.numbers import MISSING, count, decimals, mean_and_half
from analysis.paper import ARXIV, BUDGET, FAMILIES, LAYOUTS, PUBLISHED, Column, Layout, Like, Published, published_rows
from analysis.report import html_engine, report_folder
from analysis.sources import provenance_line
from analysis.statistics import Estimate, Values, estimate
from analysis.tables import Column as Heading
from analysis.tables import Item, Table
from analysis.terminal import print_table
from analysis.trial_sources import Source
from deltalab.spec.study import Goal
from deltalab.spec.variant import Layer
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord
from deltalab.track.files import write_atomic

ATTENTION = {Layer.swa.value, Layer.attention.value}
"""Layers that make a system a hybrid."""


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A row of this study.

    Attributes:
        cell: of the study.
        variant: name of its variant.
        tokens: it was trained on, the most of its trials.
        estimates: ``Column.title`` → mean over seeds, in the unit that the paper prints.
    """

    cell: CellRecord
    variant: str
    tokens: int
    estimates: dict[str, Estimate]

    @property
    def family(self) -> str:
        return FAMILIES[bool(ATTENTION & self.cell.layers.keys())]


@dataclass(frozen=True, kw_only=True)
class LikeTable:
    """The table and what it was made of."""

    like: Like
    layout: Layout
    results: Results
    rows: list[Ours]
    published: list[Published]
    table: Table


def make_like(
    runs: Path, study: str, like: Like, source: Source = Source.journals, file: Path = PUBLISHED
) -> LikeTable:
    """Lay a launched study out like one of the paper's tables.

    Args:
        runs: the runs folder.
        study: its name.
        like: which table.
        source: where the trials are read from.
        file: the published rows.

    Raises:
        NotFoundError: the study was not launched from this runs folder.
    """
    layout = LAYOUTS[like]
    results = collate(runs, study, source=source)
    names = [name for name in results.logged if any(column.matches(name) for column in layout.columns)]
    if names:
        results = collate(runs, study, names, source=source)
    values = {name: results.values(name) for name in names}
    chosen = _chosen(layout, values)
    rows = [_row(results, cell, layout, chosen, values) for cell in results.cells]
    published = published_rows(layout, file)
    table = _table(results, layout, rows, published, chosen, sorted(set(names) - set(chosen.values())))
    return LikeTable(like=like, layout=layout, results=results, rows=rows, published=published, table=table)


def _chosen(layout: Layout, values: Mapping[str, Values]) -> dict[str, str]:
    """Pattern of a column → our metric: of several haystacks the one that most trials were asked in."""
    patterns = dict.fromkeys(pattern for column in layout.columns for pattern in column.ours)
    found = {pattern: [name for name in values if fnmatchcase(name, pattern)] for pattern in patterns}
    return {
        pattern: max(names, key=lambda name: sum(map(len, values[name].values())))
        for pattern, names in found.items()
        if names
    }


def _row(
    results: Results, cell: CellRecord, layout: Layout, chosen: dict[str, str], values: Mapping[str, Values]
) -> Ours:
    trials = results.trials[results.trials["cell"] == cell.name]
    folder = ledger.trial_dir(results.runs, next(iter(cell.trials.values())))
    variant = ledger.load_spec(folder).variant.name if (folder / "config.json").exists() else ""
    of_cell = {pattern: values[name][cell.name] for pattern, name in chosen.items()}
    estimates = {column.title: estimate(list(per_seed(column, of_cell).values())) for column in layout.columns}
    return Ours(cell=cell, variant=variant, tokens=max(trials["tokens"].tolist()), estimates=estimates)


def per_seed(column: Column, values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Seed → a column's value: the mean over its benchmarks, of seeds that have all of them.

    Args:
        column: of the paper's table.
        values: pattern of the column → seed → value, of one cell.
    """
    parts = [values.get(pattern, {}) for pattern in column.ours]
    seeds = set.intersection(*(set(part) for part in parts))
    return {seed: column.scale * sum(part[seed] for part in parts) / len(parts) for seed in sorted(seeds)}


def _table(
    results: Results,
    layout: Layout,
    rows: list[Ours],
    published: list[Published],
    chosen: dict[str, str],
    others: list[str],
) -> Table:
    book = Notes()
    places = {c.title: decimals(row.estimates[c.title] for row in rows) for c in layout.columns}
    said = (
        f"published: {ARXIV}, {layout.source}, at {BUDGET[0]} parameters and {BUDGET[1]} tokens; in no mean, interval "
        "or test here"
    )
    items = []
    for family in FAMILIES:
        known = [row for row in published if row.family == family]
        left = [row for row in rows if row.family == family]
        for row in known:
            items.append(_published_items(row, layout, book.mark(said)))
            mine = [one for one in left if layout.systems.get(one.variant) == row.system]
            items += [_our_items(results, one, rows, layout, places, book) for one in mine]
            left = [one for one in left if one not in mine]
        items += [_our_items(results, one, rows, layout, places, book) for one in left]
    columns = [Heading(title=title, part="cell", right=False) for title in ("family", "system", "source")]
    columns += [Heading(title="params", part="size"), Heading(title="tokens", part="size")]
    columns += [Heading(title=column.title, part="metric") for column in layout.columns]
    return Table(
        title=f"{results.record.name} like {layout.source} of {ARXIV}: {layout.title}",
        columns=columns,
        rows=items,
        notes=book.listed,
        remarks=_remarks(results, layout, chosen, others),
        provenance=provenance_line(results),
    )


def _published_items(row: Published, layout: Layout, marks: tuple[str, ...]) -> list[Item]:
    who = [Item(text=row.family, sort=row.family), Item(text=row.system, sort=row.system, marks=marks)]
    budget = [Item(text=ARXIV, sort=ARXIV), *(Item(text=text, sort=text) for text in BUDGET)]
    values = (row.values.get(column.title, MISSING) for column in layout.columns)
    return who + budget + [Item(text=text, sort=None if text == MISSING else float(text)) for text in values]


def _our_items(
    results: Results, row: Ours, rows: list[Ours], layout: Layout, places: dict[str, int], book: Notes
) -> list[Item]:
    label = results.label(row.cell)
    items = [Item(text=row.family, sort=row.family), Item(text=label, sort=label), Item(text="this study", sort="")]
    items += [Item(text=count(row.cell.parameters), sort=row.cell.parameters)]
    items += [Item(text=count(row.tokens), sort=row.tokens)]
    for column in layout.columns:
        found = row.estimates[column.title]
        planned = len(row.cell.trials)
        marks = book.mark(f"{found.n} of {planned} seeds" if 0 < found.n < planned else "")
        block = [one for one in rows if one.cell.name in results.block_of(row.cell)]
        best = _best(column, block, places[column.title])
        text = mean_and_half(found, places[column.title])
        bold = found.n > 0 and round(found.mean, places[column.title]) == best
        items.append(Item(text=text, bold=bold, marks=marks, sort=None if math.isnan(found.mean) else found.mean))
    return items


def _best(column: Column, rows: list[Ours], places: int) -> float | None:
    """The best of this study's means as displayed, where there are several."""
    means = [round(found.mean, places) for row in rows if (found := row.estimates[column.title]).n]
    return None if len(means) < 2 else min(means) if column.goal is Goal.min else max(means)


def _remarks(results: Results, layout: Layout, chosen: dict[str, str], others: list[str]) -> list[str]:
    remarks = [
        "This study: mean ± half-width of the 95 % t-interval over seeds, accuracies in percent. Bold: the best mean "
        f"of this study{results.alike}, where several cells have one."
    ]
    haystacks = sorted({name.split("/")[3] for name in chosen.values() if name.startswith("table3/")})
    if haystacks:
        said = "numbers in other prose than RULER's essays are not the paper's"
        remarks.append(f"Haystacks of this study: {', '.join(haystacks)}; {said}.")
    if others:
        remarks.append(f"Measured, too, and not shown: {', '.join(others)}.")
    missing = [column for column in layout.columns if not chosen.keys() >= set(column.ours)]
    if missing:
        suites = dict.fromkeys(suite for column in missing for suite in column.suites)
        commands = ", ".join(f"deltalab eval {results.record.name} suite={suite}" for suite in suites)
        remarks.append(f"What is missing is measured by: {commands}.")
    return remarks


RAW = (
    "source", "family", "system", "benchmark", "metric", "context", "mean", "low", "high", "seeds", "parameters",
    "tokens",
)  # fmt: skip


def raw_like(made: LikeTable) -> pd.DataFrame:
    """Every value in full precision, a row each; published ones as printed, with their source."""
    columns = {column.title: column for column in made.layout.columns}
    rows: list[tuple[object, ...]] = []
    for row in made.published:
        for title, value in row.values.items():
            who = f"{ARXIV} {made.layout.source}", row.family, row.system
            rows.append((*who, *_what(columns[title]), float(value), math.nan, math.nan, None, *BUDGET))
    for row in made.rows:
        for title, found in row.estimates.items():
            who = "this study", row.family, made.results.label(row.cell)
            numbers = found.mean, found.low, found.high, found.n, row.cell.parameters, row.tokens
            rows.append((*who, *_what(columns[title]), *numbers))
    return pd.DataFrame(rows, columns=list(RAW))


def _what(column: Column) -> tuple[str, str, str]:
    return column.benchmark, column.metric, column.context


def write_like(made: LikeTable) -> list[Path]:
    """``like-table3.md``, ``.tex``, ``.html`` and ``.csv`` beside the study's report."""
    name, table = f"like-{made.like.value}", made.table
    page = html_engine().get_template("like.html.j2").render(table=table)
    texts = {
        f"{name}.md": f"# {formats.markdown_escape(table.title)}\n\n{formats.to_markdown(table)}",
        f"{name}.tex": formats.to_latex(table, f"{made.results.record.name}-{name}"),
        f"{name}.html": page,
        f"{name}.csv": raw_like(made).to_csv(index=False),
    }
    folder = report_folder(made.results)
    for file, text in texts.items():
        write_atomic(folder / file, text)
    return [folder / file for file in texts]


def show_like(console: Console, made: LikeTable) -> None:
    """Print the table."""
    console.print()
    console.print(made.table.title, style="bold", highlight=False)
    print_table(console, made.table)
    console.print(made.table.provenance, style="bright_black", highlight=False)
