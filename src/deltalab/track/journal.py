"""The journal: one append-only JSON-lines file per run directory, written before anything else is told. No torch.

A line is one of

    {"t": 1700000000.0, "event": "state", "state": "running", ...details}
    {"t": 1700000001.0, "event": "metrics", "step": 20, "values": {"train/loss": 0.69}}
    {"t": 1700000002.0, "event": "evaluation", "step": 20, "values": {"small/parity/64/accuracy": 0.98}, ...details}
    {"t": 1700000003.0, "event": "note", "step": 20, "text": "loss spike: 9.1, …", ...details}
    {"t": 1700000004.0, "event": "machine", "gauges": {"system/cpu_utilization_percentage": 97.0}}

A run directory holds

    config.json      the frozen, fully resolved TrialSpec (TrialSpec.to_dict)
    provenance.json  code commit, dirty diff, package versions, hardware, Python
    journal.jsonl    this file's subject
    claim.N          who runs the trial now; its mtime is the heartbeat (track.claim)
    cancel           asks whoever runs the trial to stop for good
    checkpoints/     step-XXXXXXXX folders, the newest complete one is the truth
    model.safetensors  final weights
    samples/         what the model wrote on at step-XXXXXXXX.txt
    profile/         trace and table of a few steps
    log.txt          standard output and error of the runs
"""

import contextlib
import errno
import json
import os
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

FILE = "journal.jsonl"
MEASURED = ("metrics", "evaluation")
"""Events whose values are metrics of a step."""
SYSTEM = "system/"
"""How names of gauges begin: what the machine was doing, no result."""
GLANCE_LINES = 16
"""Newest lines of a journal that tell the present metrics."""
STATE_LINE = b'"event":"state"'
CLOSED = ord("}")
"""How a whole line ends."""


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
        evaluations: what the finished trial was measured on (``deltalab eval``): the details of each, in order.
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
    evaluations: list[dict[str, Any]] = field(default_factory=list)
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

    @property
    def seconds_to_go(self) -> float | None:
        """What the trial said last of its time to go, None before it did."""
        return self.last("train/seconds_to_go")

    @property
    def early(self) -> str | None:
        """What ended a completed trial before its last step (``train.max_hours=2``), None if nothing did."""
        return self.details.get("early")


class Journal:
    """Appends to a run directory's journal. One writer at a time (the holder of the claim).

    A journal that is deleted meanwhile is not begun anew without its first lines: appending raises FileNotFoundError.

    Args:
        run_dir: made where it is not there.
        claim: the check of the writer's claim (``track.claim.claimed`` yields it), made before every line.
    """

    def __init__(self, run_dir: Path, claim: Callable[[], None] = lambda: None) -> None:
        self._claim = claim
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / FILE
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        weakref.finalize(self, os.close, self._file)
        self._mend_torn_line()

    def check(self) -> None:
        """Make sure that this is still the run directory's journal, and the run directory still ours.

        Raises:
            Busy: the claim is lost.
            FileNotFoundError: it was deleted; one that another process began there since is not ours.
        """
        self._claim()
        if os.fstat(self._file).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the run directory was deleted while its trial ran", str(self._path))

    def state(self, state: State, **details: Any) -> None:
        """Record a change of state; on disk when this returns (``queued`` soon after: a submission names it too)."""
        durable = state is not State.queued
        self._append({"t": time.time(), "event": "state", "state": state.value, **details}, durable=durable)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Record metrics of a step; survives a killed process."""
        self._append({"t": time.time(), "event": "metrics", "step": step, "values": values}, durable=False)

    def evaluation(self, step: int, values: dict[str, float], **details: Any) -> None:
        """Record what the model of a step was measured on, and how; on disk when this returns."""
        entry = {"t": time.time(), "event": "evaluation", "step": step, "values": values, **details}
        self._append(entry, durable=True)

    def machine(self, gauges: dict[str, float]) -> None:
        """Record what the machine is doing; no table reads it, MLflow shows it over time."""
        self._append({"t": time.time(), "event": "machine", "gauges": gauges}, durable=False)

    def note(self, step: int, text: str, **details: Any) -> None:
        """Record what happened at a step, in words; survives a killed process."""
        self._append({"t": time.time(), "event": "note", "step": step, "text": text, **details}, durable=False)

    def _append(self, entry: dict[str, Any], durable: bool) -> None:
        self.check()
        line = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        while line:
            line = line[os.write(self._file, line) :]
        if durable:
            os.fsync(self._file)

    def _mend_torn_line(self) -> None:
        """End a line that a killed process left half-written, so that the next one starts fresh."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")


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
        return glance_at((run_dir / FILE).read_bytes())
    except OSError:
        return Record()


def glance_at(content: bytes) -> Record:
    """``glance`` at a journal that was read already."""
    wanted, end = set(), content.rfind(b"\n")
    while end >= 0 and len(wanted) < GLANCE_LINES:
        line = _line(content, end)
        wanted.add(line)
        end = line[0] - 1
    found = content.find(STATE_LINE)
    while found >= 0 and (end := content.find(b"\n", found)) >= 0:
        line = before = _line(content, end)
        while before[0] > 0 and (before is line or content[before[1] - 1] != CLOSED):  # torn by a killed process
            before = _line(content, before[0] - 1)
        wanted |= {line, before}
        found = content.find(STATE_LINE, end)
    record = Record()
    extend(record, _parsed(content[start:end] for start, end in sorted(wanted)))
    return record


def _line(content: bytes, end: int) -> tuple[int, int]:
    """Where the line that ends at ``end`` begins, and that end."""
    return content.rfind(b"\n", 0, end) + 1, end


def extend(record: Record, lines: list[dict[str, Any]]) -> None:
    """Fold further journal lines into a record."""
    for line in lines:
        moment = line["t"]
        resumed = line.get("state") == State.running.value
        if record.state is State.running and record.updated is not None and not resumed:
            record.seconds += max(0.0, moment - record.updated)
        record.updated = moment
        if line["event"] == "evaluation":
            record.evaluations.append({k: v for k, v in line.items() if k not in ("t", "event")})
        if line["event"] in MEASURED:
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
