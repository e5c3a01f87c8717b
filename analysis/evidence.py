"""The tables behind a comparison: what each factor of a full model contributes, which factors matter at all, and how
fine a difference these seeds can see."""

import math

from analysis.collate import Metric, Results
from analysis.notes import Notes
from analysis.numbers import MISSING, number, p_value
from analysis.precision import POWER, Precision, precision, variance_terms
from analysis.statistics import Difference, Summary
from analysis.tables import SIGNIFICANT, Column, Item, Table, difference_items, places_of
from deltalab.study.blocks import Block
from deltalab.wording import listed


def contributions_table(results: Results, summaries: dict[str, Summary]) -> Table | None:
    """What the full model has over the one without each factor; None unless the design leaves factors out."""
    if results.left_out is None:
        return None
    book, places, rows = Notes(), places_of(results, summaries), []
    for metric in results.metrics:
        for group, found in summaries[metric.name].contributions.items():
            shift, p = difference_items(found, metric, places[metric.name], True, book)
            text = Item(text=metric.label, sort=metric.name), Item(text=group, sort=group)
            rows.append([*text, shift, Item(text=str(found.estimate.n), sort=found.estimate.n), p])
    columns = _columns("metric", "factor", "contribution [95 %]", "pairs", "p (Holm)", left=2)
    remark = (
        "Contribution: the full model minus the one with this factor at the baseline's level, paired by seed; "
        "p: paired t-test, Holm-corrected over the factors within a metric."
    )
    return Table(title="Contributions", columns=columns, rows=rows, notes=book.listed, remarks=[remark])


TESTED = {
    "blocks": "Complete metrics: analysis of variance with the seed as a block.",
    "mixed": "Metrics that lack values: mixed model (REML) with the seed as a random effect, over all values; "
    "F by Wald's statistic, with the degrees of freedom of the block design.",
}
"""Which model a metric's terms were tested in."""


def variance_table(results: Results) -> Table | None:
    """F-tests of factors and interactions; None where no metric has a value in every combination."""
    rows, kinds = [], set()
    for metric in results.metrics:
        terms = variance_terms(results.values(metric.name), results.levels, results.factors)
        for term in (term for term in terms if not set(term.factors) <= set(results.within)):
            name = " × ".join(term.factors)
            kinds.add(term.kind)
            rows.append(
                [
                    Item(text=metric.label, sort=metric.name),
                    Item(text=name, sort=name),
                    Item(text=number(term.f, 2), sort=term.f),
                    Item(text=f"{term.df[0]}, {term.df[1]}", sort=term.df[0]),
                    Item(text=p_value(term.p), sort=term.p),
                    Item(text=number(term.share, 2), sort=term.share),
                ]
            )
    if not rows:
        return None
    columns = _columns("metric", "term", "F", "df", "p", "partial η²", left=2)
    said = [TESTED[kind] for kind in TESTED if kind in kinds]
    said.append("Noise pooled over all cells; interactions of two factors at most, p not corrected for their number.")
    if results.within:
        said.append(f"A difference between levels of {listed(results.within)} alone is no effect and not tested.")
    return Table(title="Analysis of variance", columns=columns, rows=rows, remarks=said)


def precision_table(results: Results, summaries: dict[str, Summary]) -> Table | None:
    """The noise floor of each metric, and what it lets be seen; None where no metric has two seeds in two cells."""
    found = [
        (metric, block, _of_block(results, summaries, metric, block))
        for metric in results.metrics
        for block in results.blocks
    ]
    if all(math.isnan(one.noise) for *_, one in found):
        return None
    margin = summaries[results.metrics[0].name].margin
    places, rows = places_of(results, summaries), []
    for metric, block, one in found:
        digits = places[metric.name] + 1
        noise = f"{number(one.noise, digits)} [{number(one.low, digits)}, {number(one.high, digits)}]"
        row = [
            Item(text=metric.label, sort=metric.name),
            *(Item(text=level, sort=level) for level in block.levels.values()),
            Item(text=MISSING if math.isnan(one.noise) else noise, sort=one.noise),
            Item(text=number(one.detectable, digits), sort=one.detectable),
            Item(text=str(one.n), sort=one.n),
        ]
        rows.append(row + ([Item(text=_seeds(one), sort=one.needed)] if margin is not None else []))
    titles = ["metric", *results.within, "noise floor σ [95 %]", f"found at {POWER:.0%} power", "seeds"]
    titles += [f"seeds to find {margin:g}"] if margin is not None else []
    columns = _columns(*titles, left=1 + len(results.within))
    rules = tuple(range(len(results.blocks), len(rows), len(results.blocks))) if results.within else ()
    remark = _PRECISION.format(of=results.alike)
    return Table(title="Precision", columns=columns, rows=rows, rules=rules, remarks=[remark])


def _of_block(results: Results, summaries: dict[str, Summary], metric: Metric, block: Block) -> Precision:
    """Of the cells that are compared with one another; in one block of several α is divided over those of all."""
    values, summary = results.values(metric.name), summaries[metric.name]
    tested = len(summary.differences) if results.within else None
    return precision({cell.name: values[cell.name] for cell in block.cells}, summary.margin, tested)


def _same(difference: Difference, margin: float) -> bool:
    """A difference that is exact needs no test."""
    found = difference.estimate
    return difference.same < SIGNIFICANT or (found.exact and abs(found.mean) < margin)


_PRECISION = (
    "Noise floor: standard deviation that is left when every cell{of} and every seed has its mean, with its χ² "
    "interval; two equal cells differ by √2 σ in a seed. Found: the mean paired difference that these seeds find with "
    "this probability, by a two-sided t-test at 0.05 divided by the number of cells compared with a baseline."
)


def _seeds(one: Precision) -> str:
    if math.isnan(one.needed):
        return MISSING
    return "more than 10,000" if math.isinf(one.needed) else f"{one.needed:,.0f}"


def _columns(*titles: str, left: int) -> list[Column]:
    """Columns of a narrow table, the first ones aligned to the left."""
    return [Column(title=title, part="cell", right=place >= left) for place, title in enumerate(titles)]


def margin_remark(results: Results, summaries: dict[str, Summary]) -> str:
    """Which cells are the same as the baseline within the margin, and what was tested; nothing without a margin."""
    metric = results.metrics[0]
    summary = summaries[metric.name]
    if summary.margin is None or not summary.differences:
        return ""
    same = [c for c in results.cells if (d := summary.differences.get(c.name)) and _same(d, summary.margin)]
    said = ", ".join(map(results.label, same)) or "none"
    return (
        f"The same as {results.theirs} in {metric.name} within ±{summary.margin:g}: {said} (two one-sided "
        f"paired t-tests, Holm-corrected p < {SIGNIFICANT})."
    )
