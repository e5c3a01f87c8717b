"""Columns of points say what the journal's record says, through Arrow and line by line."""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltalab.track import journal, points
from deltalab.track.journal import Journal, State
from deltalab.track.points import history
from tests.track.test_journal import EXECUTIONS, Execution, lines_of


@settings(max_examples=60, deadline=None)
@given(EXECUTIONS, st.lists(st.integers(0, 9), min_size=1, max_size=7), st.sampled_from(["0.5", "NaN", "-Infinity"]))
@example([(True, 8, 0, None, True), (False, 6, 5, State.completed, False)], [1], "0.5")
@example([(True, 8, 0, State.preempted, False), (False, 6, 5, State.completed, False)], [3], "0.5")
def test_points_are_the_records(executions: list[Execution], ticks: list[int], accuracy: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(f"{line}\n" for line in lines_of(executions, ticks)) + '{"t":1,"event":"st'
        (Path(folder) / journal.FILE).write_text(text.replace('"eval/accuracy":0.5', f'"eval/accuracy":{accuracy}'))
        whole, found = journal.read(Path(folder)), history(Path(folder))
    assert found.points.keys() == whole.metrics.keys()
    for name, of_metric in found.points.items():
        steps = sorted(whole.metrics[name])
        assert of_metric.step.tolist() == steps
        assert np.array_equal(of_metric.value, [whole.metrics[name][step] for step in steps], equal_nan=True)
        assert of_metric.seconds.max() <= whole.seconds


def test_running_time_leaves_pauses_out(tmp_path: Path) -> None:
    lines = [
        {"t": 10.0, "event": "state", "state": "running"},
        {"t": 12.0, "event": "metrics", "step": 1, "values": {"loss": 3}},
        {"t": 13.0, "event": "state", "state": "preempted"},
        {"t": 50.0, "event": "state", "state": "running"},
        {"t": 54.0, "event": "metrics", "step": 2, "values": {"loss": 2.5}},
    ]
    (tmp_path / journal.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss = history(tmp_path).points["loss"]
    assert loss.seconds.tolist() == [2.0, 7.0]
    assert loss.value.tolist() == [3.0, 2.5]


def test_both_ways_of_reading_agree_on_a_real_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Journal(tmp_path)
    written.state(State.running, steps=3, device="cpu")
    for step in (1, 2, 2, 3):
        written.metrics(step, {"train/loss": 1 / step, "train/lr": 1e-3})
    written.metrics(3, {"eval/loss": math.pi})
    written.state(State.completed, summary={"eval/loss": math.pi})
    written.evaluation(3, {"suite/accuracy": 0.5}, name="suite")
    fast = history(tmp_path).points
    monkeypatch.setattr(points, "_arrow", lambda lines: None)
    slow = history(tmp_path).points
    assert list(fast) == list(slow) == ["train/loss", "train/lr", "eval/loss", "suite/accuracy"]
    for name in fast:
        for column in ("step", "value", "seconds"):
            assert getattr(fast[name], column).tolist() == getattr(slow[name], column).tolist()
            assert getattr(fast[name], column).dtype == getattr(slow[name], column).dtype


def test_nothing_has_run(tmp_path: Path) -> None:
    found = history(tmp_path)
    assert found.record.state is State.planned
    assert found.points == {}
