"""The way to MLflow: which server or database, whether it answers, and what it says when it does not."""

import contextlib
import fcntl
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltalab.errors import DeltalabError
from deltalab.wording import without_password

PAGE = 1000
"""Runs that MLflow lists at a time."""


class MirrorFailed(DeltalabError):
    """The tracking server could not be reached or refused; the journals still hold everything."""


def tracking_uri(runs: Path, uri: str | None = None) -> str:
    """The URI asked for, else MLFLOW_TRACKING_URI, else SQLite in the runs folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def is_database(uri: str) -> bool:
    """Whether the mirror writes to a database itself, with no server between."""
    return uri.startswith(("sqlite", "postgresql", "mysql", "mssql"))


@contextlib.contextmanager
def failing_as_mirror(uri: str, study: str) -> Iterator[None]:
    """Turn whatever MLflow, its stores and their drivers raise into one line.

    Raises:
        MirrorFailed: in place of it.
    """
    try:
        yield
    except Exception as error:
        said = without_password(_reason(error))
        if re.match(r"(Run|No Experiment) with id=", said):  # another database than the one written to
            said += f"; deltalab sync {study} --fresh writes new runs"
        if isinstance(error, ModuleNotFoundError) and error.name in ("psycopg", "psycopg2"):
            said += "; pip install 'deltalab[postgres]' brings it"
        raise MirrorFailed(f"MLflow at {without_password(uri)}: {said}") from error


def connect(runs: Path, uri: str) -> Any:
    """MLflow's client, its store ready."""
    from mlflow import MlflowClient

    if is_database(uri) and not uri.startswith("sqlite"):
        _knock(uri)
    with locked(runs / ".mlflow.lock"):  # a fresh SQLite store must be initialised by one process
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _knock(uri: str) -> None:
    """Raise what the driver says of a database that is away; MLflow would first try it for minutes."""
    from sqlalchemy import create_engine

    engine = create_engine(uri)
    with engine.connect():
        pass
    engine.dispose()


def runs_under(client: Any, experiment_id: str, parent: str) -> list[Any]:
    """The trials' runs under a study's run."""
    query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`deltalab.kind` = 'trial'"
    found, token = [], None
    while not found or token:
        page = client.search_runs([experiment_id], query, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not page:
            break
    return found


def _reason(error: BaseException) -> str:
    """One phrase: what the system said where it said something, else the first line of what MLflow makes of it."""
    inner = error
    while cause := inner.__cause__ or inner.__context__:
        inner = cause
    told = inner if isinstance(inner, OSError) else error
    return (str(told) or type(told).__name__).splitlines()[0].removesuffix(".")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among the processes that lock this file."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def quiet_mlflow() -> None:
    """Few retries, so that an unreachable server is noticed in seconds; no chatter on standard error."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # which MLflow sets itself, as it is imported
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
