"""A study's trials as MLflow has them: the mirror read back, in the terms of the journals it was made from.

What MLflow does not keep is not there: details of a state (errors), and running time, of which it has only the first
beginning and the end (``Record.seconds`` is what lies between, pauses included).
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltalab.track.book import read_book
from deltalab.track.connection import MirrorFailed, connect, failing_as_mirror, runs_under
from deltalab.track.journal import SYSTEM, Record, State
from deltalab.track.points import History, Points, latest
from deltalab.wording import without_password


@dataclass(frozen=True, kw_only=True)
class MirroredTrial:
    """A trial's run: its history, and MLflow's parameters and tags."""

    history: History
    params: Mapping[str, str]
    tags: Mapping[str, str]


class _Curves(Mapping[str, Points]):
    """The curves of a run, each fetched when it is asked for: MLflow lists runs at once, histories one by one."""

    def __init__(self, client: Any, uri: str, study: str, run_id: str, names: list[str]) -> None:
        self._client, self._uri, self._study, self._run_id = client, uri, study, run_id
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> Points:
        if name not in self._names:
            raise KeyError(name)
        with failing_as_mirror(self._uri, self._study):
            logged = self._client.get_metric_history(self._run_id, name)
        step = np.array([point.step for point in logged], dtype=np.int64)
        order = np.argsort(step, kind="stable")
        value = np.array([_value(point.value) for point in logged], dtype=np.float64)
        return latest(step[order], value[order], np.full(step.size, math.nan))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def mirrored(runs: Path, study: str) -> dict[str, MirroredTrial]:
    """Trial id → what the study's MLflow experiment holds of it.

    Raises:
        MirrorFailed: the study was never mirrored, or the server could not be reached.
    """
    book = read_book(runs / "studies" / study)
    if book is None:
        raise MirrorFailed(f"study={study}: nothing of it is in MLflow; deltalab sync {study} puts it there")
    uri = book.uri
    with failing_as_mirror(uri, study):
        client = connect(runs, uri)
        found = runs_under(client, book.experiment_id, book.parent)
    if not found:
        raise MirrorFailed(f"MLflow at {without_password(uri)}: no trial of study {study} is there")
    return {run.data.tags["deltalab.trial"]: _trial(client, uri, study, run) for run in found}


def _trial(client: Any, uri: str, study: str, run: Any) -> MirroredTrial:
    names = [name for name in run.data.metrics if not name.startswith(SYSTEM)]
    began = run.info.start_time / 1000
    ended = (run.info.end_time or run.info.start_time) / 1000
    last_steps = [metric.step for metric in run.data.to_proto().metrics if metric.key in names]
    record = Record(
        state=State(run.data.tags.get("deltalab.state", State.planned.value)),
        started=began,
        updated=ended,
        seconds=ended - began,
        step=max(last_steps, default=0),
        details={"early": early} if (early := run.data.tags.get("deltalab.early")) else {},
    )
    curves = _Curves(client, uri, study, run.info.run_id, names)
    return MirroredTrial(history=History(record=record, points=curves), params=run.data.params, tags=run.data.tags)


def _value(value: float) -> float:
    """SQL stores keep infinity as the largest number there is."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
