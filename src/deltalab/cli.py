"""``deltalab``: plan a study, follow it, bring MLflow up to date. No torch is loaded here."""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.table import Table

from deltalab.dispatch.show import make_console
from deltalab.errors import DeltalabError, NotFoundError
from deltalab.study import ledger
from deltalab.track.journal import Record, State

app = typer.Typer(
    help="Plan and follow ablation studies of gated delta-rule language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Runs = Annotated[Path, typer.Option(help="The runs folder.", envvar="DELTALAB_RUNS")]
RUNS = Path("runs")
STYLES = {State.completed: "green", State.failed: "red", State.lost: "red", State.diverged: "yellow"}


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="A study in sweeps/, or a file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides for every cell.")] = None,
    runs: Runs = RUNS,
) -> None:
    """Print what a study would run and what it costs."""
    from deltalab.dispatch.launch import plan_named
    from deltalab.dispatch.show import show_plan

    show_plan(make_console(), plan_named(study, overrides or [], runs))


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A launched study; the newest when left out.")] = None,
    runs: Runs = RUNS,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh every two seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show states and present figures of a study's trials."""
    launched = ledger.list_studies(runs)
    if study is None and not launched:
        raise NotFoundError(f"runs={runs}: no study was launched from here; start with python launch.py -m study=NAME")
    name = study or launched[0]
    if as_json:
        rows = [{"trial": t, "cell": c, "seed": s, **_plain(r)} for t, c, s, r in _rows(runs, name)]
        print(json.dumps({"study": name, "trials": rows}, indent=1))
    elif watch:
        with Live(_status_table(runs, name), console=make_console(), refresh_per_second=2) as live:
            while True:
                time.sleep(2)
                live.update(_status_table(runs, name))
    else:
        make_console().print(_status_table(runs, name))


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="A launched study.")],
    runs: Runs = RUNS,
    uri: Annotated[str | None, typer.Option(help="MLflow tracking URI.")] = None,
    fresh: Annotated[bool, typer.Option(help="Write new MLflow runs instead of continuing.")] = False,
) -> None:
    """Bring MLflow up to date from the journals."""
    ledger.read_study(runs, study)
    from deltalab.track.mlflow import Mirror, quiet_mlflow, without_password

    quiet_mlflow()
    mirror = Mirror(runs, study, uri, fresh)
    sent = mirror.sync()
    make_console().print(
        f"{study}: {sent} trials had something new for {without_password(mirror.uri)}", highlight=False
    )


def main() -> None:
    """Entry point; mistakes are one line with exit code 2, failures 1."""
    try:
        app()
    except DeltalabError as error:
        print(f"deltalab: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (BrokenPipeError, KeyboardInterrupt):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(130)
    except OSError as error:
        print(f"deltalab: {error}", file=sys.stderr)
        sys.exit(1)


def _rows(runs: Path, name: str) -> list[tuple[str, str, int, Record]]:
    cells = ledger.read_study(runs, name).cells
    return [(t, c.name, s, ledger.record_of(runs, t)) for c in cells for s, t in c.trials.items()]


def _plain(record: Record) -> dict[str, object]:
    return {
        "state": record.state.value,
        "step": record.step,
        "seconds": round(record.seconds, 1),
        "error": record.details.get("error"),
        "metrics": {name: record.last(name) for name in record.metrics},
    }


def _status_table(runs: Path, name: str) -> Table:
    rows = _rows(runs, name)
    counts = Counter(record.state for *_, record in rows)
    said = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    table = Table(title=f"{name}: {len(rows)} trials, {said}", title_justify="left")
    for column, justify in (("trial", "left"), ("cell", "left"), ("seed", "right"), ("state", "left")):
        table.add_column(column, justify=justify)  # pyright: ignore[reportArgumentType]
    for column in ("step", "loss", "accuracy", "seconds"):
        table.add_column(column, justify="right")
    for trial, cell, seed, record in rows:
        loss = record.last("eval/loss") or record.last("train/loss")
        accuracy = record.last("eval/accuracy") or record.last("train/accuracy")
        table.add_row(
            trial,
            cell,
            str(seed),
            f"[{STYLES.get(record.state, 'default')}]{record.state.value}[/]",
            str(record.step),
            "" if loss is None else f"{loss:.4f}",
            "" if accuracy is None else f"{accuracy:.4f}",
            f"{record.seconds:.0f}",
        )
    return table
