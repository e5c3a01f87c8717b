"""The report on a terminal: question, table, footnotes, effects."""

from rich.console import Console
from rich.text import Text

from analysis.collate import Results
from analysis.formats import superscript, to_rich
from analysis.layout import Layout
from analysis.notes import BOLD
from analysis.report import Report
from analysis.sources import provenance_line
from analysis.statistics import Summary
from analysis.tables import Table, effects_table


def show(console: Console, report: Report, summaries: dict[str, Summary], layout: Layout = Layout.cells) -> None:
    """Print what a reader looks at first, in a layout that the report has; the rest is in the files."""
    console.print()
    console.print(Text.assemble((report.results.record.name, "bold"), "  ", (report.question, "")))
    for table in report.layouts[layout]:
        if table is not report.table:
            console.print()
            console.print(Text(table.title, style="bold"))
        print_table(console, table)
    primary = report.results.metrics[:1]
    if report.effects is not None and summaries[primary[0].name].effects:
        console.print()
        console.print(Text(f"Effects on {primary[0].name}", style="bold"))
        print_table(console, effects_table(report.results, summaries, primary))
    for table in (report.contributions, report.precision):
        if table is not None:
            console.print()
            console.print(Text(table.title, style="bold"))
            print_table(console, table)
    _print_errors(console, report.results)
    console.print()
    console.print(Text(report.brief, style="bold"))
    console.print(Text(provenance_line(report.results), style="bright_black"))


def print_table(console: Console, table: Table) -> None:
    """Print a table as wide as the terminal, footnotes and remarks below."""
    for part in to_rich(table, console):
        console.print(part)
    for mark, text in table.notes:
        console.print(Text.assemble((superscript((mark,)), "yellow"), " ", text))
    for remark in (remark for remark in table.remarks if console.is_terminal or not remark.startswith(BOLD)):
        console.print(Text(remark, style="bright_black"))


def _print_errors(console: Console, results: Results) -> None:
    told = [row for row in results.trials.to_dict("records") if row["error"]]
    if told:
        console.print()
    for row in told:
        line = f"{row['cell']} seed {row['seed']} {row['state']} at step {row['step']}: {row['error']}"
        console.print(Text.assemble((row["trial"], "bold"), " ", line), soft_wrap=True)
