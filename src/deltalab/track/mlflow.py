"""MLflow as a mirror of the journals: an experiment per study, a parent run, a child run per trial.

Journals come first; this copies what they say, in batches, and remembers how far it came in
RUNS/studies/STUDY/mlflow.json. ``python -m deltalab.track.mlflow RUNS STUDY`` follows a launch until standard input
ends. The only importer of mlflow.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deltalab.errors import DeltalabError
from deltalab.spec.trial import flatten
from deltalab.track import journal
from deltalab.track.files import write_atomic
from deltalab.track.journal import State
from deltalab.wording import without_password

METRICS_PER_BATCH = 1000
"""What one log_batch call of MLflow takes."""
TAGS_PER_BATCH = 100
STATUS = {
    State.planned: "SCHEDULED",
    State.queued: "SCHEDULED",
    State.completed: "FINISHED",
    State.failed: "FAILED",
    State.diverged: "FAILED",
    State.cancelled: "KILLED",
    State.preempted: "SCHEDULED",
    State.lost: "KILLED",
}


class MirrorFailed(DeltalabError):
    """The tracking server could not be reached or refused; the journals still hold everything."""


@dataclass
class Cursor:
    """How much of one trial is in MLflow.

    Attributes:
        run_id: MLflow's run.
        offset: bytes of the journal that were sent.
        steps: metric → largest step sent; steps that a resume logs again are not sent twice.
        state: last state sent.
        described: parameters, tags and config are there.
    """

    run_id: str
    offset: int = 0
    described: bool = False
    steps: dict[str, int] = field(default_factory=dict)
    state: str = ""


@dataclass
class Book:
    """What mlflow.json holds: the server the runs are on, the experiment, the parent run, a cursor per trial."""

    uri: str
    experiment_id: str
    parent: str
    trials: dict[str, Cursor] = field(default_factory=dict)


def tracking_uri(runs: Path, uri: str | None = None) -> str:
    """The URI asked for, else MLFLOW_TRACKING_URI, else SQLite in the runs folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


class Mirror:
    """Sends what is new in a study's journals.

    Args:
        runs: the runs folder.
        study: a launched study.
        uri: see ``tracking_uri``.
        fresh: forget what was sent and write new runs.
    """

    def __init__(self, runs: Path, study: str, uri: str | None = None, fresh: bool = False) -> None:
        self.folder = runs / "studies" / study
        self.trials = runs / "trials"
        self.uri = tracking_uri(runs, uri)
        self._artifacts = str((runs / "mlflow-artifacts").resolve()) if self.uri.startswith("sqlite:") else None
        self._client: Any = None
        self._book: Book | None = None
        self._fresh = fresh

    @property
    def record(self) -> dict[str, Any]:
        """The study's record, read again each time: a later launch may have added cells."""
        return json.loads((self.folder / "study.json").read_text())

    def sync(self) -> int:
        """Send everything that is new.

        Returns:
            Trials that had something new.

        Raises:
            MirrorFailed: the server could not be reached or refused.
        """
        with self._at_work() as book:
            record = self.record
            sent = 0
            for cell in record["cells"]:
                for stage, seed, trial in _trials(cell):
                    sent += self._sync_trial(book, record, cell, stage, seed, trial)
            self._end_parent(book, record)
        return sent

    def log_folder(self, folder: Path) -> str:
        """Put a folder (the report) beside the parent run; returns the parent's run id.

        Raises:
            MirrorFailed: the server could not be reached or refused.
        """
        with self._at_work() as book:
            self._client.log_artifacts(book.parent, str(folder), folder.name)
            return book.parent

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[Book]:
        """Connected and alone: mirrors of one study take turns, each reading the book as the last one left it."""
        with _locked(self.folder / ".mlflow.lock"), failing_as_mirror(self.uri, self.folder.name):
            self._client = self._client or connect(self.trials.parent, self.uri)
            self._book = self._read_book() or self._new_book()
            self._save()
            yield self._book

    def _read_book(self) -> Book | None:
        """What was sent so far to this server; None when nothing was, or when ``fresh`` asks to start again."""
        path = self.folder / "mlflow.json"
        if self._fresh or not path.exists():
            self._fresh = False
            return None
        plain = json.loads(path.read_text())
        cursors = {trial: Cursor(**cursor) for trial, cursor in plain.pop("trials").items()}
        return Book(**plain, trials=cursors) if plain["uri"] == self.uri else None

    def _new_book(self) -> Book:
        record = self.record
        name = record["study"]["name"]
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, self._artifacts)
        tags = {
            "deltalab.kind": "study",
            "deltalab.study": name,
            "deltalab.commit": record["provenance"]["commit"],
            "mlflow.note.content": record["study"]["question"] or name,
        }
        parent = self._client.create_run(experiment, run_name=name, tags=tags)
        return Book(uri=self.uri, experiment_id=experiment, parent=parent.info.run_id)

    def _sync_trial(
        self, book: Book, record: dict[str, Any], cell: dict[str, Any], stage: str, seed: int, trial: str
    ) -> int:
        run_dir = self.trials / trial
        if not (run_dir / journal.FILE).exists():
            return 0
        if trial not in book.trials:
            book.trials[trial] = Cursor(run_id=self._new_run(book, record, cell, stage, seed, trial))
            self._save()  # at once: a run whose description fails below is not made a second time
        cursor = book.trials[trial]
        if not cursor.described:
            self._describe(cursor, cell, seed, run_dir)
            cursor.described = True
            self._save()
        lines, offset = journal.entries(run_dir, cursor.offset)
        if not lines:
            return 0
        self._send(cursor, lines)
        self._send_files(cursor, run_dir, lines)
        cursor.offset = offset
        self._save()
        return 1

    def _new_run(
        self, book: Book, record: dict[str, Any], cell: dict[str, Any], stage: str, seed: int, trial: str
    ) -> str:
        run_dir = self.trials / trial
        config = json.loads((run_dir / "config.json").read_text())
        origin = run_dir / "provenance.json"
        commit = json.loads(origin.read_text())["commit"] if origin.exists() else "unknown"
        tags = {
            "mlflow.parentRunId": book.parent,
            "deltalab.kind": "trial",
            "deltalab.study": record["study"]["name"],
            "deltalab.trial": trial,
            "deltalab.cell": cell["name"],
            "deltalab.stage": stage,
            "deltalab.commit": commit,
            "variant": config["variant"]["name"],
            "seed": str(seed),
            **{f"level.{factor}": level for factor, level in cell["levels"].items()},
        }
        name = " ".join([*cell["levels"].values(), f"s{seed}"])
        began = int((journal.read(run_dir).started or time.time()) * 1000)
        return self._client.create_run(book.experiment_id, began, tags, run_name=name).info.run_id

    def _describe(self, cursor: Cursor, cell: dict[str, Any], seed: int, run_dir: Path) -> None:
        from mlflow.entities import Param, RunTag

        config = json.loads((run_dir / "config.json").read_text())
        params = {**flatten(config), "parameters": cell["parameters"], "state_size": cell["state_size"]}
        self._client.log_batch(
            cursor.run_id,
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag("mlflow.note.content", f"{cell['name']} seed={seed}")],
        )
        self._client.log_artifact(cursor.run_id, str(run_dir / "config.json"))

    def _send(self, cursor: Cursor, lines: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, RunTag

        points = [
            Metric(name, value, int(line["t"] * 1000), line["step"])
            for line in lines
            if line["event"] in journal.MEASURED
            for name, value in line["values"].items()
            if line["event"] == "evaluation" or line["step"] > cursor.steps.get(name, -1)
        ]
        for start in range(0, len(points), METRICS_PER_BATCH):
            self._client.log_batch(cursor.run_id, metrics=points[start : start + METRICS_PER_BATCH])
        for point in points:
            cursor.steps[point.key] = max(point.step, cursor.steps.get(point.key, -1))
        tags = [
            RunTag(f"deltalab.evaluation.{line['name']}", json.dumps(_details(line), sort_keys=True))
            for line in lines
            if line["event"] == "evaluation"
        ]
        for start in range(0, len(tags), TAGS_PER_BATCH):
            self._client.log_batch(cursor.run_id, tags=tags[start : start + TAGS_PER_BATCH])
        if early := next((line["early"] for line in lines if "early" in line), None):
            self._client.log_batch(cursor.run_id, tags=[RunTag("deltalab.early", early)])
        state = next((line["state"] for line in reversed(lines) if line["event"] == "state"), cursor.state)
        if state != cursor.state:
            cursor.state = state
            self._client.log_batch(cursor.run_id, tags=[RunTag("deltalab.state", state)])
            if State(state).terminal:
                self._client.set_terminated(cursor.run_id, STATUS[State(state)], int(lines[-1]["t"] * 1000))
            else:
                self._client.update_run(cursor.run_id, status=STATUS.get(State(state), "RUNNING"))

    def _send_files(self, cursor: Cursor, run_dir: Path, lines: list[dict[str, Any]]) -> None:
        """The files that notes name: samples, profiles."""
        named = (file for line in lines if line["event"] == "note" for file in line.get("files", ()))
        for path in (run_dir / file for file in dict.fromkeys(named)):
            if path.is_file():
                self._client.log_artifact(cursor.run_id, str(path), str(path.parent.relative_to(run_dir)))

    def _end_parent(self, book: Book, record: dict[str, Any]) -> None:
        wanted = {trial for cell in record["cells"] for _, _, trial in _trials(cell)}
        states = {State(c.state) for t, c in book.trials.items() if t in wanted and c.state}
        all_there = wanted <= set(book.trials) and all(state.terminal for state in states)
        if all_there:
            self._client.set_terminated(book.parent, "FINISHED")
        else:
            self._client.update_run(book.parent, status="RUNNING")

    def _save(self) -> None:
        assert self._book is not None
        write_atomic(self.folder / "mlflow.json", json.dumps(asdict(self._book), indent=1))


def _details(line: dict[str, Any]) -> dict[str, Any]:
    """How an evaluation was made, without what it measured."""
    return {key: value for key, value in line.items() if key not in ("t", "event", "step", "values", "name")}


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
        raise MirrorFailed(f"MLflow at {without_password(uri)}: {said}") from error


def connect(runs: Path, uri: str) -> Any:
    """MLflow's client, its store ready."""
    from mlflow import MlflowClient

    with _locked(runs / ".mlflow.lock"):  # a fresh SQLite store must be initialised by one process
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _trials(cell: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """(stage, seed, trial id) of a recorded cell's trials: those that tune, then those compared."""
    for seeds in cell.get("tuning", {}).values():
        yield from (("tuning", int(seed), trial) for seed, trial in seeds.items())
    yield from (("compared", int(seed), trial) for seed, trial in cell["trials"].items())


def log_report(runs: Path, study: str, folder: Path) -> str | None:
    """Put the report beside the study's parent run.

    Returns:
        Where it is, in words, or None when the study has no MLflow mirror or it cannot be reached.
    """
    if not (runs / "studies" / study / "mlflow.json").exists():
        return None
    quiet_mlflow()
    uri = json.loads((runs / "studies" / study / "mlflow.json").read_text())["uri"]
    try:
        run = Mirror(runs, study, uri).log_folder(folder)
        return f"experiment {study}, run {run}, at {without_password(uri)}"
    except DeltalabError:
        return None


def _reason(error: BaseException) -> str:
    """One phrase: what the system said where it said something, else the first line of what MLflow makes of it."""
    inner = error
    while cause := inner.__cause__ or inner.__context__:
        inner = cause
    told = inner if isinstance(inner, OSError) else error
    return (str(told) or type(told).__name__).splitlines()[0].removesuffix(".")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
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


def follow(runs: Path, study: str, uri: str | None, every: float) -> int:
    """Mirror until standard input ends, then once more; exit code 1 when the last attempt failed.

    The launcher holds the other end of standard input, so it ends with the launch, however that ends.
    """
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    quiet_mlflow()
    mirror = Mirror(runs, study, uri)
    while True:
        last = ended.is_set()
        try:
            mirror.sync()
            failed = False
        except MirrorFailed as error:
            print(error, file=sys.stderr, flush=True)
            failed = True
        if last:
            return int(failed)
        ended.wait(every)


def _main() -> int:
    parser = argparse.ArgumentParser(description="Mirror a study's journals to MLflow until stdin ends.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("study")
    parser.add_argument("--uri")
    parser.add_argument("--every", type=float, default=5.0)
    arguments = parser.parse_args()
    return follow(arguments.runs, arguments.study, arguments.uri, arguments.every)


if __name__ == "__main__":
    sys.exit(_main())
