"""The journal: append-only, whole lines only, a resumed step counts once."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltalab.track import journal
from deltalab.track.journal import GLANCE_LINES, Journal, Record, State


def test_what_was_written_is_read(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.state(State.running, steps=10)
    log.metrics(1, {"train/loss": 2.0})
    log.metrics(2, {"train/loss": 1.0})
    log.state(State.completed, step=2)
    record = journal.read(tmp_path)
    assert record.state is State.completed
    assert record.metrics == {"train/loss": {1: 2.0, 2: 1.0}}
    assert record.last("train/loss") == 1.0
    assert record.last("nothing") is None
    assert record.details == {"step": 2}


def test_an_evaluation_leaves_the_state_and_keeps_how_it_was_made(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.metrics(2, {"train/loss": 1.0})
    log.state(State.completed)
    for value in (0.25, 0.5):
        log.evaluation(2, {"small/s3/64/accuracy": value}, name="small/s3/64", samples=9)
    record = journal.read(tmp_path)
    assert record.state is State.completed
    assert record.metrics["small/s3/64/accuracy"] == {2: 0.5}
    assert [one["values"]["small/s3/64/accuracy"] for one in record.evaluations] == [0.25, 0.5]
    assert record.evaluations[0] | {"values": {}} == {"step": 2, "values": {}, "name": "small/s3/64", "samples": 9}
    assert journal.glance(tmp_path).last("train/loss") == 1.0


def test_nothing_written_is_planned(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "nowhere").state is State.planned


def test_a_step_logged_again_after_a_resume_counts_once_the_newest(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    for value in (1.0, 3.0):
        log.metrics(5, {"loss": value})
    assert journal.read(tmp_path).metrics["loss"] == {5: 3.0}


def test_a_line_torn_by_a_kill_is_passed_over_and_mended(tmp_path: Path) -> None:
    Journal(tmp_path).metrics(1, {"loss": 1.0})
    path = tmp_path / journal.FILE
    with path.open("a") as file:
        file.write('{"t": 1, "event": "metr')
    lines, offset = journal.entries(tmp_path)
    assert len(lines) == 1
    assert offset < path.stat().st_size
    Journal(tmp_path).metrics(2, {"loss": 0.5})
    assert journal.read(tmp_path).metrics["loss"] == {1: 1.0, 2: 0.5}


def test_reading_on_from_an_offset_sees_only_what_is_new(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.metrics(1, {"loss": 1.0})
    _, offset = journal.entries(tmp_path)
    log.metrics(2, {"loss": 0.5})
    lines, _ = journal.entries(tmp_path, offset)
    assert [line["step"] for line in lines] == [2]


def test_time_between_a_kill_and_the_next_run_is_not_running_time(tmp_path: Path) -> None:
    record = journal.Record()
    at = [{"t": t, "event": "state", "state": "running"} for t in (0.0, 100.0)]
    step = [{"t": t, "event": "metrics", "step": 1, "values": {}} for t in (5.0, 107.0)]
    journal.extend(record, [at[0], step[0], at[1], step[1]])
    assert record.seconds == 12.0
    assert record.started == 0.0


def test_what_queued_a_trial_last_is_known_while_it_runs(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    for token in ("first", "second"):
        log.state(State.queued, submission=token, kind="slurm")
        log.state(State.running, steps=20)
    record = journal.read(tmp_path)
    assert (record.submission, record.steps) == ("second", 20)


ENDS = (State.preempted, State.completed, State.failed, State.diverged, State.cancelled, State.planned)
Execution = tuple[bool, int, int, State | None, bool]
"""Queued before, steps logged, steps back at its start, the state it came to (None: killed), its last line torn."""
EXECUTIONS = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 3 * GLANCE_LINES),
        st.integers(0, 9),
        st.sampled_from([None, *ENDS]),
        st.booleans(),
    ),
    max_size=4,
)


def lines_of(executions: list[Execution], ticks: list[int]) -> list[str]:
    """A journal's lines, some of them torn by a kill and mended by the next run, with times that never go back."""
    lines: list[str] = []
    t, step = 0.0, 0

    def write(entry: dict[str, Any]) -> None:
        nonlocal t
        t += ticks[len(lines) % len(ticks)]
        lines.append(json.dumps({"t": t, **entry}, separators=(",", ":")))

    for number, (queued, steps, back, end, torn) in enumerate(executions):
        if queued:
            write({"event": "state", "state": "queued", "submission": f"s{number}", "kind": "local"})
        write({"event": "state", "state": "running", "device": "cpu", "steps": 100 + number})
        step = max(0, step - back)
        for _ in range(steps):
            step += 1
            write({"event": "metrics", "step": step, "values": {"train/loss": 1 / step}})
            if step % 5 == 0:
                write({"event": "metrics", "step": step, "values": {"eval/loss": 2 / step, "eval/accuracy": 0.5}})
        if torn:
            write({"event": "metrics", "step": step + 1, "values": {"train/loss": 9.0}})
            lines[-1] = lines[-1][: len(lines[-1]) // 2]
        elif end is not None:
            write({"event": "state", "state": end.value, "step": step, "error": "why"})
    return lines


@settings(max_examples=150, deadline=None)
@given(EXECUTIONS, st.lists(st.integers(0, 9), min_size=1, max_size=7), st.booleans())
@example([(True, 40, 0, None, True), (False, 40, 5, State.completed, False)], [1], False)
def test_a_glance_says_what_reading_says(executions: list[Execution], ticks: list[int], unfinished: bool) -> None:
    lines = lines_of(executions, ticks)
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(f"{line}\n" for line in lines)
        (Path(folder) / journal.FILE).write_text(text + ('{"t":1,"event":"st' if unfinished else ""))
        whole, glance = journal.read(Path(folder)), journal.glance(Path(folder))
    newest = [json.loads(line) for line in lines[-GLANCE_LINES:] if line.endswith("}")]
    assert replace(glance, metrics={}) == replace(whole, metrics={})
    for line in newest:
        for name in line.get("values", {}):
            assert glance.metrics[name][line["step"]] == whole.metrics[name][line["step"]]
            if whole.step == max(max(points) for points in whole.metrics.values()):  # past what a resume repeats
                assert glance.last(name) == whole.last(name)


def test_a_journal_that_was_deleted_is_not_begun_anew_without_its_head(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.state(State.running)
    (tmp_path / journal.FILE).unlink()
    with pytest.raises(FileNotFoundError):
        log.metrics(1, {"loss": 1.0})
    assert not (tmp_path / journal.FILE).exists()


def test_a_glance_at_nothing_is_planned(tmp_path: Path) -> None:
    assert journal.glance(tmp_path / "nowhere") == Record()
    (tmp_path / journal.FILE).write_bytes(b"")
    assert journal.glance(tmp_path) == Record()


@pytest.mark.parametrize("state", list(State))
def test_states_that_end_a_trial_are_terminal(state: State) -> None:
    ended = {State.completed, State.failed, State.diverged, State.cancelled}
    assert state.terminal == (state in ended)
