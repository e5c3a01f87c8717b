"""The journal: one append-only JSON-lines file per run directory, written before anything else is told. No torch.

A line is one of

    {"t": 1700000000.0, "event": "state", "state": "running", ...details}
    {"t": 1700000001.0, "event": "metrics", "step": 20, "values": {"train/loss": 0.69}}

A run directory holds

    config.json      the frozen, fully resolved TrialSpec (TrialSpec.to_dict)
    provenance.json  code commit, dirty diff, package versions, hardware, Python
    journal.jsonl    this file's subject
    claim.N          who runs the trial now; its mtime is the heartbeat (track.claim)
    cancel           asks whoever runs the trial to stop for good
    checkpoints/     step-XXXXXXXX folders, the newest complete one is the truth
    model.safetensors  final weights
    log.txt          standard output and error of the runs
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

FILE = "journal.jsonl"
GLANCE_LINES = 16
"""Newest lines of a journal that tell the present metrics."""


class State(Enum):
    """States of a trial. ``completed``, ``failed``, ``diverged`` and ``cancelled`` are terminal."""

    planned = "planned"
    queued = "queued"
    running = "running"
    preempted = "preempted"
    completed = "completed"
    failed = "failed"
    diverged = "diverged"
    cancelled = "cancelled"
    lost = "lost"

    @property
    def terminal(self) -> bool:
        return self in (State.completed, State.failed, State.diverged, State.cancelled)


@dataclass
class Record:
    """What a journal says.

    Attributes:
        state: the last state written (``planned`` when there is no journal).
        details: the fields written with that state (error, traceback, summary …).
        metrics: metric name → {step: value}; a step logged again after a resume counts once, the newest.
        started: time of the first ``running``, seconds since the epoch.
        updated: time of the last line.
        seconds: running time summed over all executions.
        step: the last step logged.
        steps: steps the trial takes in all, as its last run said; 0 before the first.
        submission: token of the submission that last queued it, or None.
    """

    state: State = State.planned
    details: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    started: float | None = None
    updated: float | None = None
    seconds: float = 0.0
    step: int = 0
    steps: int = 0
    submission: str | None = None

    def last(self, metric: str) -> float | None:
        """The newest value, of the present step or before (a resumed run repeats steps), None when there is none."""
        points = self.metrics.get(metric, {})
        step = max((step for step in points if step <= self.step), default=None)
        return None if step is None else points[step]


class Journal:
    """Appends to a run directory's journal. One writer at a time (the holder of the claim).

    A journal that is deleted meanwhile is not begun anew without its first lines: appending raises FileNotFoundError.
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / FILE
        self._path.touch()
        self._mend_torn_line()

    def state(self, state: State, **details: Any) -> None:
        """Record a change of state; on disk when this returns (``queued`` soon after: a submission names it too)."""
        durable = state is not State.queued
        self._append({"t": time.time(), "event": "state", "state": state.value, **details}, durable=durable)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record metrics of a step; survives a killed process."""
        self._append({"t": time.time(), "event": "metrics", "step": step, "values": values}, durable=False)

    def _append(self, entry: dict[str, Any], durable: bool) -> None:
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND), "ab") as file:
            file.write(line.encode())
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def _mend_torn_line(self) -> None:
        """End a line that a killed process left half-written, so that the next one starts fresh."""
        if self._path.stat().st_size == 0:
            return
        with self._path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def entries(run_dir: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Whole journal lines from a byte offset on, and the offset after them. Torn lines are passed over."""
    path = run_dir / FILE
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read()
    whole = block[: block.rfind(b"\n") + 1]
    return _parsed(whole.splitlines()), offset + len(whole)


def _parsed(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # half-written by a killed process, mended by the next writer
            found.append(json.loads(line))
    return found


def read(run_dir: Path) -> Record:
    """The record of a run directory (an empty one, ``planned``, where nothing has run)."""
    record = Record()
    extend(record, entries(run_dir)[0])
    return record


def glance(run_dir: Path) -> Record:
    """``read`` for a state at a glance: of the metrics only the newest lines, whatever the journal's length."""
    try:
        lines = (run_dir / FILE).read_bytes().split(b"\n")[:-1]
    except OSError:
        return Record()
    wanted = set(range(max(0, len(lines) - GLANCE_LINES), len(lines)))
    for place, line in enumerate(lines):
        if b'"event":"state"' in line:
            before = place - 1
            while before > 0 and not lines[before].endswith(b"}"):  # torn by a killed process
                before -= 1
            wanted |= {place, max(0, before)}
    record = Record()
    extend(record, _parsed(lines[place] for place in sorted(wanted)))
    return record


def extend(record: Record, lines: list[dict[str, Any]]) -> None:
    """Fold further journal lines into a record."""
    for line in lines:
        moment = line["t"]
        resumed = line.get("state") == State.running.value
        if record.state is State.running and record.updated is not None and not resumed:
            record.seconds += max(0.0, moment - record.updated)
        record.updated = moment
        if line["event"] == "metrics":
            record.step = line["step"]
            for name, value in line["values"].items():
                record.metrics.setdefault(name, {})[line["step"]] = value
        elif line["event"] == "state":
            record.state = State(line["state"])
            record.details = {k: v for k, v in line.items() if k not in ("t", "event", "state")}
            if record.state is State.queued:
                record.submission = record.details.get("submission")
            if record.state is State.running:
                record.started = moment if record.started is None else record.started
                record.steps = record.details.get("steps", record.steps)
