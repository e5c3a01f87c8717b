"""``deltalab doctor``: what works on this machine and how to mend what does not.

Groups of checks run in threads. What loads torch, Triton or MLflow, or asks another program, does so in a subprocess
with a timeout, so that whatever hangs is reported and not waited for.
"""

import json
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from deltalab.dispatch.doctor.cluster import check_slurm
from deltalab.dispatch.doctor.devices import check_gpu
from deltalab.dispatch.doctor.findings import MARKS, Check, Groups, Verdict
from deltalab.dispatch.doctor.machine import check_folder, check_git, check_machine, check_mlflow, check_python
from deltalab.dispatch.show import make_console

DEADLINE_SECONDS = 28.0
"""When a group that has not answered (a file system that hangs, say) is given up."""
WITHOUT = ("git", "MLflow", "Slurm")
"""Groups that the local pool does without."""


def run_doctor(runs: Path, uri: str | None, as_json: bool) -> int:
    """Examine this machine and print what was found.

    Args:
        runs: the runs folder, which need not exist yet.
        uri: MLflow tracking URI; see ``track.mlflow.tracking_uri``.
        as_json: print one JSON object instead of a table.

    Returns:
        Exit code: 1 when something the local pool needs is broken, else 0.
    """
    runs = runs.absolute()  # resolving it would ask the file system, which may hang
    groups: Groups = {
        "Python": check_python,
        "git": check_git,
        "machine": check_machine,
        "runs folder": lambda: check_folder(runs),
        "MLflow": lambda: [check_mlflow(runs, uri)],
        "GPU": check_gpu,
        "Slurm": check_slurm,
    }
    done = dict(examine(groups)) if as_json else _watched(groups, runs)
    checks = [check for name in groups for check in done[name]]
    broken = [check.name for check in checks if check.verdict is Verdict.broken]
    if as_json:
        plain = [{**asdict(check), "verdict": check.verdict.value} for check in checks]
        print(json.dumps({"host": platform.node(), "runs": str(runs), "ok": not broken, "checks": plain}, indent=1))
    else:
        fine, notes = (sum(check.verdict is verdict for check in checks) for verdict in (Verdict.ok, Verdict.note))
        counts = f"{fine} ok, {notes} note{'s' * (notes != 1)}, {len(broken)} broken"
        said = f"mend first: {', '.join(broken)}" if broken else "trials can run on this machine"
        make_console().print(f"\n{counts}: {said}", style="bold", highlight=False, soft_wrap=True)
    return int(bool(broken))


def examine(groups: Groups) -> Iterator[tuple[str, list[Check]]]:
    """Run groups of checks side by side; yields each as it ends, at the deadline those that did not."""
    answers: queue.SimpleQueue[tuple[str, list[Check]]] = queue.SimpleQueue()

    def run(name: str, group: Callable[[], list[Check]]) -> None:
        try:
            answers.put((name, group()))
        except Exception as error:  # a check that fails must not hide the others
            answers.put((name, [_unanswered(name, f"{type(error).__name__}: {error}")]))

    for name, group in groups.items():
        threading.Thread(target=run, args=(name, group), daemon=True).start()  # daemons: one that hangs is left
    end, waiting = time.monotonic() + DEADLINE_SECONDS, set(groups)
    while waiting:
        try:
            name, checks = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            yield from ((name, [_unanswered(name, f"no answer in {DEADLINE_SECONDS:g} s")]) for name in waiting)
            return
        waiting.remove(name)
        yield name, checks


def _unanswered(name: str, why: str) -> Check:
    verdict = Verdict.note if name in WITHOUT else Verdict.broken
    return Check(name, verdict, why, "run it again; if it stays, look at the programs and the file system it asks")


def _watched(groups: Groups, runs: Path) -> dict[str, list[Check]]:
    """Examine, showing on a terminal what is known so far, and in the end all of it."""
    done: dict[str, list[Check]] = {}
    console = make_console()
    console.print(f"deltalab doctor on {platform.node()}, runs folder {runs}\n", highlight=False, soft_wrap=True)
    with Live(_table(groups, done), console=console, transient=True, auto_refresh=False) as live:
        for name, checks in examine(groups):
            done[name] = checks
            live.update(_table(groups, done), refresh=console.is_terminal)
        live.update("")
    console.print(_table(groups, done))
    return done


def _table(groups: Groups, done: dict[str, list[Check]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in groups:
        if name not in done:
            table.add_row(Text("… asking", "dim"), Text(name, "dim"), "")
        for check in done.get(name, []):
            mark, style = MARKS[check.verdict]
            table.add_row(Text(f"{mark} {check.verdict.value}", style), check.name, Text(check.found))
            if check.mend:
                table.add_row("", "", Text(f"→ {check.mend}", style="cyan"))
    return table
