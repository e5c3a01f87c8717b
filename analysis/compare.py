"""``python -m analysis.compare STUDY``: the comparison of a launched study, on the terminal and as a report.

Works while the study runs: it says what is there, and what is not.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from analysis.layout import Layout
from analysis.paper import Like
from analysis.trial_sources import Source
from deltalab.command import run_app
from deltalab.errors import UsageError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
WIDTH_WITHOUT_TERMINAL = 170
EVERY = 30.0
"""Seconds between reports of a running study."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is compared.

    Attributes:
        metrics: instead of the study's own; the first is primary.
        at: ``step=500``: where all trials are compared, instead of at their ends.
        margin: a difference in the primary metric that matters.
        source: where the trials are read from.
        layout: which table is printed; the report has all.
    """

    metrics: list[str] = field(default_factory=list)
    at: str = ""
    margin: float | None = None
    source: Source = Source.journals
    layout: Layout = Layout.cells

    def __post_init__(self) -> None:
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise UsageError(f"--margin {self.margin:g}: allowed is a number above 0")

    @property
    def words(self) -> list[str]:
        """The options that ask for this."""
        said = [word for name in self.metrics for word in ("--metric", name)]
        said += ["--at", self.at] if self.at else []
        said += ["--margin", f"{self.margin:.12g}"] if self.margin is not None else []
        return said + (["--from", self.source.value] if self.source is not Source.journals else [])


@app.command()
def compare(
    study: Annotated[str, typer.Argument(help="A launched study.")],
    runs: Annotated[Path, typer.Option(help="The runs folder.", envvar="DELTALAB_RUNS")] = Path("runs"),
    metric: Annotated[
        list[str] | None, typer.Option(help="Compare this metric instead of the study's own; the first is primary.")
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="step=N|tokens=N|seconds=N", help="Compare all trials here instead of at their ends.")
    ] = "",
    margin: Annotated[
        float | None,
        typer.Option(help="A difference in the primary metric that matters: tests sameness, counts seeds to find it."),
    ] = None,
    like: Annotated[
        Like | None,
        typer.Option(help="Print the layout of this table of the paper instead, with its published rows beside ours."),
    ] = None,
    source: Annotated[Source, typer.Option("--from", help="Where the trials are read from.")] = Source.journals,
    layout: Annotated[
        Layout, typer.Option(help="Print a row per cell, factor × factor, or the sensitivity to the learning rate.")
    ] = Layout.cells,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help=f"Write again every {EVERY:g} seconds until no trial is to come.")
    ] = False,
    mlflow: Annotated[bool, typer.Option(help="Put the report beside the study's MLflow run, if it has one.")] = True,
) -> None:
    """Compare the cells of a study: table, statistics, pictures and report under RUNS/studies/STUDY/report."""
    asked = Asked(metrics=metric or [], at=at, margin=margin, source=source, layout=layout)
    console = make_console()
    if like is not None:
        run_like(study, runs, like, asked, console, watch)
        return
    while run(study, runs, asked, mlflow, console) and watch:
        time.sleep(EVERY)


def run(study: str, runs: Path, asked: Asked, mlflow: bool, console: Console) -> int:
    """Read, compute, write, print.

    Returns:
        Trials that are not at their end, so that another report will say more.

    Raises:
        NotFoundError: the study was not launched from this runs folder.
        UsageError: a metric that was asked for is in no journal, or what was asked for is not allowed.
    """
    from analysis.budget import parse_budget
    from analysis.collate import collate
    from analysis.report import make_report, report_folder, write_report
    from analysis.statistics import summarise
    from analysis.terminal import show

    budget = parse_budget(asked.at) if asked.at else None
    results = collate(runs, study, asked.metrics, budget=budget, source=asked.source)
    summaries = summarise(results, asked.margin)
    report = make_report(results, summaries, asked.words)
    if asked.layout not in report.layouts:
        there = ", ".join(layout.value for layout in report.layouts)
        raise UsageError(f"--layout {asked.layout.value}: {study} {asked.layout.needs}; allowed here is {there}")
    folder = report_folder(results)
    paths = write_report(report, summaries, folder)
    show(console, report, summaries, asked.layout)
    names = [path.name for path in paths if path.parent == folder]
    _say(console, "Written", f"to {folder}: {', '.join(names)}, figures/ ({len(report.pictures)} as PNG and SVG)")
    if mlflow:
        from deltalab.track.mlflow import log_report

        address = log_report(runs, study, folder)
        if address is not None:
            _say(console, "MLflow", address)
    return report.unfinished_trials


def run_like(study: str, runs: Path, like: Like, asked: Asked, console: Console, watch: bool) -> None:
    """Lay out, write, print.

    Raises:
        NotFoundError: the study was not launched from this runs folder.
        UsageError: an option that a table of the paper leaves no room for.
    """
    from analysis.like import make_like, show_like, write_like

    if asked.metrics or asked.at or asked.margin is not None or asked.layout is not Layout.cells or watch:
        refused = "--metric, --at, --margin, --layout or --watch"
        raise UsageError(f"--like {like.value}: allowed is no {refused} beside it")
    made = make_like(runs, study, like, asked.source)
    paths = write_like(made)
    show_like(console, made)
    _say(console, "Written", f"to {paths[0].parent}: {', '.join(path.name for path in paths)}")


def make_console() -> Console:
    """As wide as the terminal, and wide enough for the table where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def _say(console: Console, what: str, text: str) -> None:
    console.print(Text.assemble((f"{what} ", "bold"), text), soft_wrap=True)


if __name__ == "__main__":
    run_app(app, "compare")
