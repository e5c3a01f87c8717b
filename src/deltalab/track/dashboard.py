"""``deltalab dashboard``: MLflow's own server over the runs folder or a database, and the links to a study's pages."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from deltalab.errors import NotFoundError, UsageError
from deltalab.track.book import read_book
from deltalab.track.connection import tracking_uri
from deltalab.track.labels import REPORT
from deltalab.track.views import LOOPBACK, run_page, runs_page

NEWEST = 5
"""Studies whose links are shown when none is named."""


def links(runs: Path, studies: Sequence[str], uri: str, base: str) -> Iterator[tuple[str, str, str]]:
    """(study, page, address) of those studies that are mirrored to a tracking URI.

    Args:
        runs: the runs folder.
        studies: names, in the order to show.
        uri: the tracking URI.
        base: the dashboard's address.
    """
    shown = 0
    for study in studies:
        book = read_book(runs / "studies" / study)
        if book is None or book.uri != uri or shown == NEWEST:
            continue
        shown += 1
        yield study, "curves", f"{base}/{runs_page(book.experiment_id)}"
        if (runs / "studies" / study / REPORT).exists():
            yield study, "report", f"{base}/{run_page(book.experiment_id, book.parent, REPORT)}"


def command(runs: Path, uri: str, port: int) -> list[str]:
    """The server's command line.

    Raises:
        NotFoundError: the database in the runs folder is not there yet.
        UsageError: another program listens on the port.
    """
    database = runs / "mlflow.db"
    if uri == tracking_uri(runs, f"sqlite:///{database.resolve()}") and not database.exists():
        raise NotFoundError(f"runs={runs}: no mlflow.db there yet; python launch.py -m study=quickstart fills it")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UsageError(f"--port={port}: {error.strerror}; allowed is a free port of {LOOPBACK}") from error
    server = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
    # one worker: ready in a third of the time and of the memory that MLflow takes by itself
    server += ["--workers", "1", "--uvicorn-opts", "--no-access-log --log-level warning"]
    return [*server, "--backend-store-uri", uri, "--artifacts-destination", str((runs / "mlflow-artifacts").resolve())]


def serve(server: Sequence[str]) -> None:
    """Become the server; without its runner of jobs, which nothing here uses."""
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.execve(server[0], list(server), {**os.environ, **quiet, "PYTHONWARNINGS": "ignore"})
