"""MLflow as a mirror of the journals: an experiment per study, a parent run, a child run per trial.

Journals come first; this copies what they say, in batches, and remembers how far it came in
RUNS/studies/STUDY/mlflow.json. ``python -m deltalab.track.mlflow RUNS STUDY`` follows a launch until standard input
ends.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deltalab.errors import DeltalabError
from deltalab.track import journal, labels, views
from deltalab.track.book import Book, Cursor, read_book, write_book
from deltalab.track.connection import (
    MirrorFailed,
    connect,
    failing_as_mirror,
    is_database,
    locked,
    quiet_mlflow,
    runs_under,
    tracking_uri,
)
from deltalab.track.journal import State
from deltalab.track.labels import Place

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


class Mirror:
    """Sends what is new in a study's journals.

    Args:
        runs: the runs folder.
        study: a launched study.
        uri: instead of the launch's own; see ``tracking_uri``.
        fresh: forget what was sent and write new runs.
    """

    def __init__(self, runs: Path, study: str, uri: str | None = None, fresh: bool = False) -> None:
        self.folder = runs / "studies" / study
        self.trials = runs / "trials"
        tracking = self.record.get("tracking") or {}
        self.uri = tracking_uri(runs, uri or tracking.get("uri"))
        here = str((runs / "mlflow-artifacts").resolve()) if is_database(self.uri) else None
        self._artifacts = tracking.get("artifacts") or here
        self._client: Any = None
        self._book: Book | None = None
        self._fresh = fresh
        self._there: dict[str, str] | None = None

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
            record, self._there = self.record, None
            sent = sum(self._sync_trial(book, record, place) for place in labels.places(record))
            self._tell(book, record)
            self._sum_up(book, record)
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
        with locked(self.folder / ".mlflow.lock"), failing_as_mirror(self.uri, self.folder.name):
            self._client = self._client or connect(self.trials.parent, self.uri)
            self._book = self._read_book() or self._new_book()
            self._save()
            yield self._book

    def _read_book(self) -> Book | None:
        """What was sent so far to this server; None when nothing was, or when ``fresh`` asks to start again."""
        book = None if self._fresh else read_book(self.folder)
        self._fresh = False
        return book if book is not None and book.uri == self.uri else None

    def _new_book(self) -> Book:
        record = self.record
        name = record["study"]["name"]
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name, self._artifacts)
        parent = self._client.create_run(experiment, run_name=name, tags=labels.study_tags(record))
        return Book(uri=self.uri, experiment_id=experiment, parent=parent.info.run_id)

    def _tell(self, book: Book, record: dict[str, Any]) -> None:
        """Describe the study, where another launch or a first trial has made that different."""
        study = record["study"]
        note = labels.study_note(record, book)
        pages = views.saved_views(
            study["metrics"], list(study["factors"]), self._measured_often(book), bool(study["tune"]), record["created"]
        )
        kind = {"mlflow.experimentKind": "custom_model_development"}  # which MLflow asks for that has no workflowType
        tags = {"mlflow.note.content": note, **kind, **pages}
        digest = hashlib.sha256(json.dumps(tags).encode()).hexdigest()
        if book.told == digest:
            return
        for key, value in tags.items():
            self._client.set_experiment_tag(book.experiment_id, key, value)
        self._client.set_tag(book.parent, "mlflow.note.content", note)
        book.told = digest
        self._save()

    def _measured_often(self, book: Book) -> bool:
        """Whether trials are evaluated while they train."""
        return any(_config(self.trials / trial)["eval"]["every"] > 0 for trial in list(book.trials)[:1])

    def _sync_trial(self, book: Book, record: dict[str, Any], place: Place) -> int:
        run_dir = self.trials / place.trial
        if not (run_dir / journal.FILE).exists():
            return 0
        if place.trial not in book.trials:
            run_id = self._made(book).get(place.trial) or self._new_run(book, record, place)
            book.trials[place.trial] = Cursor(run_id=run_id)
            self._save()  # at once: a run whose description fails below is not made a second time
        cursor = book.trials[place.trial]
        if not cursor.described:
            self._describe(book, cursor, record, place)
            cursor.described = True
            self._save()
        lines, offset = journal.entries(run_dir, cursor.offset)
        if not lines:
            return 0
        self._send(cursor, lines, record["study"]["metrics"])
        self._send_evaluations(book, cursor, [line for line in lines if line["event"] == "evaluation"])
        self._send_state(cursor, lines)
        self._send_files(cursor, run_dir, lines)
        cursor.offset = offset
        self._save()
        return 1

    def _made(self, book: Book) -> dict[str, str]:
        """Trial id → run that the server made, also where its answer was lost."""
        if self._there is None:
            runs = runs_under(self._client, book.experiment_id, book.parent)
            self._there = {run.data.tags["deltalab.trial"]: run.info.run_id for run in runs}
        return self._there

    def _new_run(self, book: Book, record: dict[str, Any], place: Place) -> str:
        run_dir = self.trials / place.trial
        tags = labels.trial_tags(record, place, _config(run_dir), _commit(run_dir))
        began = int((journal.read(run_dir).started or time.time()) * 1000)
        tags["mlflow.parentRunId"] = book.parent
        return self._client.create_run(book.experiment_id, began, tags, run_name=place.name).info.run_id

    def _describe(self, book: Book, cursor: Cursor, record: dict[str, Any], place: Place) -> None:
        from mlflow.entities import Param, RunTag

        run_dir = self.trials / place.trial
        params = labels.trial_params(place, _config(run_dir))
        self._client.log_batch(
            cursor.run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag("mlflow.note.content", labels.trial_note(record, place, book, _commit(run_dir)))],
        )
        self._client.log_artifact(cursor.run_id, str(run_dir / "config.json"))

    def _send(self, cursor: Cursor, lines: list[dict[str, Any]], kept: Mapping[str, str]) -> None:
        """Send what was measured; of the study's metrics the newest value is kept for the summary."""
        from mlflow.entities import Metric

        points = []
        for line in lines:
            moment = int(line["t"] * 1000)
            for name, value in line.get("gauges", {}).items():  # of no step of training: they are counted
                cursor.steps[name] = cursor.steps.get(name, -1) + 1
                points.append(Metric(name, value, moment, cursor.steps[name]))
            measured = line["values"] if line["event"] in journal.MEASURED else {}
            points += [
                Metric(name, value, moment, line["step"])
                for name, value in measured.items()
                if line["event"] == "evaluation" or line["step"] > cursor.steps.get(name, -1)
            ]
        self._log_metrics(cursor.run_id, points)
        for point in points:
            cursor.steps[point.key] = max(point.step, cursor.steps.get(point.key, -1))
            if point.key in kept:
                cursor.values[point.key] = point.value

    def _log_metrics(self, run_id: str, points: list[Any]) -> None:
        for start in range(0, len(points), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=points[start : start + METRICS_PER_BATCH])

    def _send_evaluations(self, book: Book, cursor: Cursor, lines: list[dict[str, Any]]) -> None:
        """A run for every suite, nested in the trial's: what came out, and how it was measured."""
        from mlflow.entities import Metric, Param, RunTag

        suites: dict[str, list[dict[str, Any]]] = {}
        for line in lines:
            suites.setdefault(line["name"].partition("/")[0], []).append(line)
        for suite, measured in suites.items():
            if suite not in cursor.evaluations:
                tags = {"deltalab.kind": "evaluation", "mlflow.parentRunId": cursor.run_id}
                began = int(measured[0]["t"] * 1000)
                run = self._client.create_run(book.experiment_id, began, tags, run_name=suite)
                cursor.evaluations[suite] = run.info.run_id
                self._save()
                params = [Param(key, value) for key, value in labels.evaluation_params(measured).items()]
                self._client.log_batch(run.info.run_id, params=params)
            run_id = cursor.evaluations[suite]
            points = [
                Metric(name, value, int(line["t"] * 1000), line["step"])
                for line in measured
                for name, value in line["values"].items()
            ]
            self._log_metrics(run_id, points)
            tags = [
                RunTag(f"deltalab.evaluation.{line['name']}", json.dumps(labels.evaluation_details(line)))
                for line in measured
            ]
            for start in range(0, len(tags), TAGS_PER_BATCH):
                self._client.log_batch(run_id, tags=tags[start : start + TAGS_PER_BATCH])
            self._client.set_terminated(run_id, "FINISHED", int(measured[-1]["t"] * 1000))

    def _send_state(self, cursor: Cursor, lines: list[dict[str, Any]]) -> None:
        from mlflow.entities import RunTag

        if early := next((line["early"] for line in lines if "early" in line), None):
            self._client.log_batch(cursor.run_id, tags=[RunTag("deltalab.early", early)])
        state = next((line["state"] for line in reversed(lines) if line["event"] == "state"), cursor.state)
        if state == cursor.state:
            return
        cursor.state = state
        self._client.log_batch(cursor.run_id, tags=[RunTag("deltalab.state", state)])
        if State(state).terminal:
            self._client.set_terminated(cursor.run_id, STATUS[State(state)], int(lines[-1]["t"] * 1000))
        else:
            self._client.update_run(cursor.run_id, status=STATUS.get(State(state), "RUNNING"))

    def _sum_up(self, book: Book, record: dict[str, Any]) -> None:
        """The study's own run: counts and means, and whether everything has ended."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = {name: told for name, told in labels.summary(record, book).items() if book.summary.get(name) != told}
        if new:
            self._log_metrics(book.parent, [Metric(name, value, now, step) for name, (step, value) in new.items()])
            book.summary |= new
            self._save()
        self._end_parent(book, record)

    def _send_files(self, cursor: Cursor, run_dir: Path, lines: list[dict[str, Any]]) -> None:
        """The files that notes name: samples, profiles."""
        named = (file for line in lines if line["event"] == "note" for file in line.get("files", ()))
        for path in (run_dir / file for file in dict.fromkeys(named)):
            if path.is_file():
                self._client.log_artifact(cursor.run_id, str(path), str(path.parent.relative_to(run_dir)))

    def _end_parent(self, book: Book, record: dict[str, Any]) -> None:
        wanted = {place.trial for place in labels.places(record)}
        states = {State(c.state) for t, c in book.trials.items() if t in wanted and c.state}
        all_there = wanted <= set(book.trials) and all(state.terminal for state in states)
        if all_there:
            self._client.set_terminated(book.parent, "FINISHED")
        else:
            self._client.update_run(book.parent, status="RUNNING")

    def _save(self) -> None:
        assert self._book is not None
        write_book(self.folder, self._book)


def _config(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "config.json").read_text())


def _commit(run_dir: Path) -> str:
    origin = run_dir / "provenance.json"
    return json.loads(origin.read_text())["commit"] if origin.exists() else "unknown"


def log_report(runs: Path, study: str, folder: Path) -> str | None:
    """Put the report beside the study's own run.

    Returns:
        Where it is, in words, or None when the study has no MLflow mirror or it cannot be reached.
    """
    book = read_book(runs / "studies" / study)
    if book is None:
        return None
    quiet_mlflow()
    try:
        run = Mirror(runs, study, book.uri).log_folder(folder)
    except DeltalabError:
        return None
    return views.where(book.uri, views.run_page(book.experiment_id, run, labels.REPORT))


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
