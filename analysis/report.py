"""The report of a study: one self-contained HTML page, the same in Markdown, and every table and picture as a file.

STUDY/report/  table.md  table.csv  table.json  table.tex  trials.csv  effects.csv  report.md  report.html
               cross.md  cross.tex  rates.md  rates.tex  figures/*.png  figures/*.svg
"""

import base64
import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import formats, raw
from analysis.canvas import Picture
from analysis.collate import Results
from analysis.crossing import crossing_tables
from analysis.evidence import contributions_table, margin_remark, precision_table, variance_table
from analysis.figures import draw_all
from analysis.layout import Layout
from analysis.numbers import duration, number
from analysis.plan_table import plan_table
from analysis.rates import rates_table, sensitivity
from analysis.sources import commits, day, hardware, ran
from analysis.statistics import Summary
from analysis.tables import SIGNIFICANT, Table, comparison_table, differences_table, effects_table, places_of
from analysis.trials import trials_table, unfinished_table
from deltalab.study import ledger
from deltalab.track.files import write_atomic
from deltalab.track.journal import State
from deltalab.wording import many

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
RUNS = Path("runs")
"""The runs folder that ``compare`` takes by itself."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the pages say.

    Attributes:
        brief: the result in a sentence or two.
        facts: (what, value) of the design.
        plan: every cell with what it sets and its size.
        table: the comparison.
        crossed: a table per pair of crossed factors.
        rates: the sensitivity to the learning rate, or None where the study varies and tunes none.
        differences: every metric's differences, or None with a single cell.
        effects: or None with a single factor, where effects are the differences.
        contributions: or None unless the design leaves factors out.
        variance: or None unless all combinations have two seeds or more.
        precision: or None without two seeds of two cells.
        unfinished: the trials that are not completed, or None.
        commands: (what for, command).
        provenance: (what, value).
    """

    results: Results
    summaries: dict[str, Summary]
    brief: str
    facts: list[tuple[str, str]]
    plan: Table
    table: Table
    crossed: list[Table]
    rates: Table | None
    differences: Table | None
    effects: Table | None
    contributions: Table | None
    variance: Table | None
    precision: Table | None
    unfinished: Table | None
    trials: Table
    commands: list[tuple[str, str]]
    provenance: list[tuple[str, str]]

    @cached_property
    def pictures(self) -> list[Picture]:
        """Drawn when they are first asked for, which takes longer than everything else."""
        return draw_all(self.results, self.summaries)

    @property
    def layouts(self) -> dict[Layout, list[Table]]:
        """The layouts that the study has something for."""
        found = {
            Layout.cells: [self.table],
            Layout.cross: self.crossed,
            Layout.rates: [self.rates] if self.rates else [],
        }
        return {layout: tables for layout, tables in found.items() if tables}

    @property
    def unfinished_trials(self) -> int:
        """Trials that may still bring something."""
        return sum(n for state, n in self.results.count().items() if not State(state).terminal)

    @property
    def question(self) -> str:
        return str(self.results.record.study.get("question") or self.results.record.name)


def make_report(results: Results, summaries: dict[str, Summary], asked: Sequence[str] = ()) -> Report:
    """Everything the pages say.

    Args:
        asked: the options that the user gave, for the command that repeats this report.
    """
    several = any(summary.differences for summary in summaries.values())
    rates = sensitivity(results)
    has_effects = len(results.factors) > 1 and any(summary.effects for summary in summaries.values())
    return Report(
        results=results,
        summaries=summaries,
        brief=brief(results, summaries),
        facts=_facts(results),
        plan=plan_table(results),
        table=comparison_table(results, summaries),
        crossed=crossing_tables(results),
        rates=rates_table(rates) if rates else None,
        differences=differences_table(results, summaries) if several else None,
        effects=effects_table(results, summaries) if has_effects else None,
        contributions=contributions_table(results, summaries),
        variance=variance_table(results),
        precision=precision_table(results, summaries),
        unfinished=unfinished_table(results),
        trials=trials_table(results),
        commands=_commands(results, asked),
        provenance=_provenance(results),
    )


def brief(results: Results, summaries: dict[str, Summary]) -> str:
    """What the primary metric says, in words that do not say more than the p values do."""
    metric = results.metrics[0]
    summary = summaries[metric.name]
    done = sum(found.n for found in summary.estimates.values())
    planned = sum(len(cell.trials) for cell in results.cells)
    if not done:
        return f"No trial has a value of {metric.name} yet."
    so_far = "" if done == planned else f"{done} of {planned} values of {metric.name} are there. "
    if not summary.differences:
        alone = "One cell: there is nothing to compare it with."
        return so_far + (alone if len(results.cells) == 1 else f"No cell has a baseline{results.alike} beside it.")
    same = margin_remark(results, summaries)
    return so_far + " ".join([*_tested(results, summaries), *_exact(results, summaries), *([same] if same else [])])


def _tested(results: Results, summaries: dict[str, Summary]) -> list[str]:
    """What the tests of the primary metric say."""
    metric = results.metrics[0].name
    summary = summaries[metric]
    its = "its" if results.within else "the"
    if not summary.family:
        exact = any(found.estimate.exact for found in summary.differences.values())
        more = " whose differences are not all the same" if exact else ""
        return [f"No cell can be tested against {its} baseline in {metric}: that takes two seeds or more{more}."]
    clear = _named(results, summaries, [name for name, d in summary.differences.items() if d.holm < SIGNIFICANT])
    if clear:
        return [
            f"{len(clear)} of {summary.family} tested cells differ from {results.theirs} in {metric} "
            f"(Holm-corrected p < {SIGNIFICANT}): {', '.join(clear)}."
        ]
    pairs = max(found.estimate.n for found in summary.differences.values() if not math.isnan(found.p))
    return [
        f"None of {summary.family} tested cells differs from {its} baseline in {metric} at a Holm-corrected "
        f"p < {SIGNIFICANT}, paired over {pairs} seeds. That is no evidence that they are equal."
    ]


def _exact(results: Results, summaries: dict[str, Summary]) -> list[str]:
    """The cells no test can be made of because their difference in the primary metric has no variance."""
    exact = {n: d for n, d in summaries[results.metrics[0].name].differences.items() if d.estimate.exact}
    other = _named(results, summaries, [name for name, d in exact.items() if d.estimate.mean != 0])
    equal = [results.label(cell) for cell in results.cells if cell.name in exact and not exact[cell.name].estimate.mean]
    said = []
    if other:
        said.append(f"Untested, as the difference is the same in every paired seed: {', '.join(other)}.")
    if equal:
        said.append(f"Equal to {results.theirs} in every paired seed: {', '.join(equal)}.")
    return said


def _named(results: Results, summaries: dict[str, Summary], names: Sequence[str]) -> list[str]:
    """Label and mean difference in the primary metric of these cells, in the study's order."""
    metric = results.metrics[0].name
    places = places_of(results, summaries)[metric]
    return [
        f"{results.label(cell)} ({number(summaries[metric].differences[cell.name].estimate.mean, places, signed=True)})"
        for cell in results.cells
        if cell.name in names
    ]


def write_report(report: Report, summaries: dict[str, Summary], folder: Path) -> list[Path]:
    """Write every file of a report; pictures and layouts of an earlier report that no longer exist are removed.

    Returns:
        The paths, those a reader opens first in front.
    """
    figures = folder / "figures"
    texts = {
        "report.html": to_html(report),
        "report.md": to_markdown(report),
        "table.md": f"# {formats.markdown_escape(report.table.title)}\n\n{formats.to_markdown(report.table)}",
        "table.tex": formats.to_latex(report.table, report.results.record.name),
        "table.csv": raw.raw_table(report.results, summaries).to_csv(index=False),
        "table.json": raw.to_json(report.results, summaries, report.table),
        "trials.csv": report.results.trials.to_csv(index=False),
        "effects.csv": raw.raw_effects(summaries).to_csv(index=False),
    }
    for layout, tables in report.layouts.items():
        if layout is not Layout.cells:
            texts[f"{layout.value}.md"] = "\n\n".join(_markdown_tables(*tables)) + "\n"
            texts[f"{layout.value}.tex"] = formats.to_latex_file(tables, f"{report.results.record.name}-{layout.value}")
    for name, text in texts.items():
        write_atomic(folder / name, text)
    for picture in report.pictures:
        write_atomic(figures / f"{picture.name}.png", picture.png)
        write_atomic(figures / f"{picture.name}.svg", picture.svg)
    kept = {f"{picture.name}.{ending}" for picture in report.pictures for ending in ("png", "svg")}
    stale = [path for path in figures.glob("*") if path.suffix in (".png", ".svg") and path.name not in kept]
    for layout in Layout:
        stale += [path for path in folder.glob(f"{layout.value}.*") if path.name not in texts]
    for path in stale:
        path.unlink()
    return [folder / name for name in texts] + [figures / name for name in sorted(kept)]


def to_html(report: Report) -> str:
    """One page without any outside reference; every text is escaped by the template engine."""
    return (
        html_engine()
        .get_template("report.html.j2")
        .render(
            report=report,
            name=report.results.record.name,
            counts=[(state.value, n) for state in State if (n := report.results.count()[state.value])],
            markdown=formats.to_markdown(report.table),
            latex=formats.to_latex(report.table, report.results.record.name),
            line=report.table.provenance,
            now=f"{day(time.time())} {time.strftime('%H:%M', time.gmtime())} UTC",
        )
    )


def to_markdown(report: Report) -> str:
    """The same report for a pull request or a wiki; pictures by relative path."""
    escape = formats.markdown_escape
    parts = [f"# {escape(report.results.record.name)}", escape(report.question), f"**{escape(report.brief)}**"]
    parts += ["\n".join(f"- {escape(what)}: {escape(value)}" for what, value in report.facts)]
    parts += _markdown_tables(report.plan)
    parts += ["## Comparison", formats.to_markdown(report.table).rstrip()]
    parts += _markdown_tables(
        *report.crossed,
        report.rates,
        report.differences,
        report.effects,
        report.contributions,
        report.variance,
        report.precision,
    )
    if report.pictures:
        parts.append("## Pictures")
    for picture in report.pictures:
        image = f"![{escape(picture.title)}](figures/{picture.name}.png)"
        parts += [f"### {escape(picture.title)}", image, escape(picture.caption)]
    parts += _markdown_tables(report.unfinished)
    parts += ["## Reproduce", "\n\n".join(f"{what}:\n\n```\n{line}\n```" for what, line in report.commands)]
    parts += ["## Provenance", "\n".join(f"- {escape(what)}: {escape(value)}" for what, value in report.provenance)]
    parts += _markdown_tables(report.trials)
    return "\n\n".join(parts) + "\n"


def html_engine() -> "jinja2.Environment":
    """The template engine of all pages; it escapes every text."""
    import jinja2

    engine = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    engine.filters["svg_uri"] = lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    engine.filters["sort_key"] = _sort_key
    return engine


def _facts(results: Results) -> list[tuple[str, str]]:
    study = results.record.study
    seeds = study.get("seeds") or sorted({seed for cell in results.cells for seed in cell.trials})
    matched = str(study.get("match", "none"))
    to = f" (to {results.cells[0].name})" if results.within and matched != "none" else ""
    return [
        ("Design", f"{str(study.get('design', 'list')).replace('_', ' ')}, {len(results.cells)} cells"),
        *((f"Factor {factor}", ", ".join(levels)) for factor, levels in results.factors.items()),
        ("Baseline", ", ".join(f"{factor}={level}" for factor, level in results.against.items()) + results.alike),
        ("Seeds", f"{', '.join(map(str, seeds))} (the same data order and initial values in every cell)"),
        ("Matched", "nothing" if matched == "none" else f"{matched}{to}, tolerance {study.get('tolerance', 0):.2%}"),
        ("Metrics", ", ".join(f"{m.name} ({m.goal.value if m.goal else 'no goal'})" for m in results.metrics)),
    ]


def _commands(results: Results, asked: Sequence[str]) -> list[tuple[str, str]]:
    words = ["python", "-m", "analysis.compare", results.record.name]
    words += ["--runs", str(results.runs)] if results.runs != RUNS else []
    words += asked
    commit = str(results.record.provenance.get("commit", "unknown"))
    got = [("Get the code", f"git checkout {commit}")] if re.fullmatch("[0-9a-f]{7,64}", commit) else []
    return [
        *got,
        ("Install it", "python -m pip install -c constraints.txt -e ."),
        ("Run the study", results.record.command),
        ("Make this report", shlex.join(words)),
    ]


def _provenance(results: Results) -> list[tuple[str, str]]:
    launch = results.record.provenance
    packages = launch.get("packages") or {}
    alone = results.trials.drop_duplicates("trial")
    dirty = any(of_trial is True for of_trial in [*alone["dirty"], launch.get("dirty")])
    found = [
        ("Launched", day(results.record.created)),
        ("Ran", ran(results).removeprefix("ran ")),
        ("Commit", commits(results)),
        ("Local changes", "kept in runs/snapshots, under the digest in a trial's provenance.json" if dirty else "none"),
        ("Hardware", "; ".join(hardware(results))),
        ("Time", f"{duration(sum(alone['seconds']))} over {many(len(alone), 'trial')}"),
        ("Python", str(launch.get("python", "unknown"))),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
    ]
    return [(what, value) for what, value in found if value]


def _markdown_tables(*tables: Table | None) -> list[str]:
    return [text for t in tables if t is not None for text in (f"## {t.title}", formats.to_markdown(t).rstrip())]


def _sort_key(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def report_folder(results: Results) -> Path:
    """Where a study's report goes."""
    return ledger.study_dir(results.runs, results.record.name) / "report"
