"""The journal: append-only, whole lines only, a resumed step counts once."""

from pathlib import Path

from deltalab.track import journal
from deltalab.track.journal import Journal, State


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
