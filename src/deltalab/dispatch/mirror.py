"""The MLflow mirror beside a launch: a process of its own, so that MLflow never slows or stops a trial.

``deltalab sync`` catches up later, in its own process.
"""

import subprocess
import sys
from pathlib import Path

from rich.console import Console

from deltalab.spec.evaluation import measured_study
from deltalab.spec.tracking import TrackingSpec
from deltalab.study.ledger import read_study
from deltalab.track.book import read_book
from deltalab.track.views import runs_page, where
from deltalab.wording import many, without_password

FLUSH_SECONDS = 60
"""How long the end of a launch waits for the last batches."""


class Mirror:
    """Runs ``deltalab.track.mlflow`` while the block runs, then lets it send the rest and end.

    Args:
        runs: the runs folder.
        study: its name.
        tracking: with ``mlflow: false`` nothing is started.
        console: where to say that something was left unsent.
    """

    def __init__(self, runs: Path, study: str, tracking: TrackingSpec, console: Console) -> None:
        self._study, self._tracking, self._console = study, tracking, console
        self._runs = runs
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Mirror":
        if self._tracking.mlflow:
            log = self._runs / "studies" / self._study / "mlflow.log"
            command = [sys.executable, "-m", "deltalab.track.mlflow", str(self._runs), self._study]
            command += ["--every", str(self._tracking.flush_seconds)]
            if self._tracking.uri:
                command += ["--uri", self._tracking.uri]
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()  # the end of the launch, also when the launcher is killed
        try:
            ended = self._process.wait(FLUSH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            ended = 1
        if ended != 0:
            log = self._runs / "studies" / self._study / "mlflow.log"
            self._console.print(
                f"MLflow was not brought up to date ({log}); nothing is lost, "
                f"`deltalab sync {self._study}` does it later",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )


def say_curves(console: Console, runs: Path, study: str) -> None:
    """One line: how to come to a mirrored study's curves."""
    book = read_book(runs / "studies" / study)
    if book is not None:
        console.print(f"Curves: {where(book.uri, runs_page(book.experiment_id))}", highlight=False, soft_wrap=True)


def sync_study(console: Console, runs: Path, study: str, uri: str | None, fresh: bool) -> None:
    """Bring MLflow up to date, and say how much was new and where the curves are.

    Args:
        console: where to say it.
        runs: the runs folder.
        study: a launched study, or the evaluation of one.
        uri: MLflow's tracking URI; None takes the study's.
        fresh: write new MLflow runs instead of continuing.

    Raises:
        NotFoundError: no such study was launched.
    """
    measured = measured_study(study)
    read_study(runs, measured)
    from deltalab.track import mlflow
    from deltalab.track.connection import quiet_mlflow

    quiet_mlflow()
    mirror = mlflow.Mirror(runs, measured, uri, fresh)
    sent = mirror.sync()
    console.print(
        f"{study}: {many(sent, 'trial')} had something new for {without_password(mirror.uri)}", highlight=False
    )
    say_curves(console, runs, measured)
