"""What ``deltalab status`` makes of journals and of Slurm's answers: rows, rates, time to go, notes."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deltalab.dispatch.states import Observer
from deltalab.dispatch.status import MANY, Status
from deltalab.errors import NotFoundError
from deltalab.spec.study import Equivalence, Goal, StudySpec
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.journal import State
from tests.dispatch.slurm_programs import DOWN, SlurmPrograms, queued

SPEC = StudySpec(name="ask", baseline={}, factors={}, metrics={"eval/accuracy": Goal.max})


def cell(name: str, trials: dict[int, str], **more: Any) -> CellRecord:
    return CellRecord(name=name, levels={}, overrides={}, trials=trials, **more)


def launched(runs: Path, *cells: CellRecord, study: StudySpec = SPEC) -> None:
    ledger.write_study(runs, study, list(cells), "python launch.py", {})


def ran(runs: Path, trial: str, seconds: float, step: int, state: State = State.running, **details: Any) -> None:
    """Journal a run of 100 steps as far as one of them, and a state it came to."""
    folder = ledger.trial_dir(runs, trial)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = [{"t": 1000.0, "event": "state", "state": "running", "steps": 100}]
    values = {"train/loss": 0.75}
    lines.append({"t": 1000.0 + seconds, "event": "metrics", "step": step, "values": values})
    if state is not State.running:
        values = {"eval/loss": 0.25, "eval/accuracy": 0.875}
        lines.append({"t": 1000.0 + seconds, "event": "metrics", "step": step, "values": values})
        lines.append({"t": 1000.0 + seconds, "event": "state", "state": state.value, **details})
    (folder / journal.FILE).write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def shown(status: Status, every: bool = False) -> list[str]:
    """What a wide terminal shows."""
    console = Console(file=io.StringIO(), width=220)
    console.print(status.table(every))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def row_of(lines: list[str], trial: str) -> list[str]:
    """A row's columns."""
    (line,) = (line for line in lines if f"│ {trial} " in line)
    return [column.strip() for column in line.strip("│").split("│")]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmPrograms:
    return SlurmPrograms(tmp_path / "bin", monkeypatch)


def test_rows_say_state_step_figures_rate_and_time_to_go(tmp_path: Path) -> None:
    launched(tmp_path, cell("variant=kda", {0: "aa", 1: "bb"}), cell("variant=delta_net", {0: "cc", 1: "dd"}))
    ran(tmp_path, "aa", 50, 100, State.completed)
    ran(tmp_path, "bb", 30, 60)
    ran(tmp_path, "cc", 20, 40, State.failed, error="boom")
    with claimed(ledger.trial_dir(tmp_path, "bb")):
        status = Status(Observer(tmp_path), "ask")
        lines = shown(status)
        plain = {trial["trial"]: trial for trial in status.json()["trials"]}
    assert lines[0].strip() == "ask: 4 trials, 1 planned, 1 running, 1 completed, 1 failed, about 20 s to go"
    assert row_of(lines, "aa") == [
        "aa", "variant=kda", "0", "completed", "100/100", "0.2500", "0.8750", "2.0", "50 s", "", "",
    ]  # fmt: skip
    assert row_of(lines, "bb") == [
        "bb", "variant=kda", "1", "running", "60/100", "0.7500", "", "2.0", "30 s", "20 s", "",
    ]  # fmt: skip
    assert row_of(lines, "cc")[3:] == ["failed", "40/100", "0.2500", "0.8750", "2.0", "20 s", "", "boom"]
    assert row_of(lines, "dd") == ["dd", "variant=delta_net", "1", "planned", *[""] * 7]
    assert not status.over
    assert plain["bb"]["steps_per_second"] == 2.0
    assert plain["bb"]["seconds_to_go"] == 20.0
    assert plain["bb"]["metrics"] == {"train/loss": 0.75}
    assert plain["aa"]["metrics"]["eval/accuracy"] == 0.875
    assert plain["aa"]["seconds_to_go"] is None
    assert plain["cc"]["error"] == "boom"
    assert (plain["dd"]["state"], plain["dd"]["steps_per_second"]) == ("planned", None)
    json.dumps(plain)


def test_a_resumed_trial_shows_the_figures_of_the_step_it_is_at(tmp_path: Path) -> None:
    launched(tmp_path, cell("variant=kda", {0: "aa"}))
    ran(tmp_path, "aa", 40, 80)
    path = ledger.trial_dir(tmp_path, "aa") / journal.FILE
    path.write_text(path.read_text() + path.read_text().replace("0.75", "0.85").replace('"step":80', '"step":60'))
    with claimed(ledger.trial_dir(tmp_path, "aa")):
        row = row_of(shown(Status(Observer(tmp_path), "ask")), "aa")
    assert row[4:6] == ["60/100", "0.8500"]


def test_a_trial_says_its_time_to_go_itself_and_what_ended_it_early(tmp_path: Path) -> None:
    launched(tmp_path, cell("variant=kda", {0: "aa", 1: "bb"}))
    ran(tmp_path, "aa", 30, 60)
    ran(tmp_path, "bb", 50, 70, State.completed, early="train.max_hours=2")
    path = ledger.trial_dir(tmp_path, "aa") / journal.FILE
    path.write_text(path.read_text().replace('"train/loss"', '"train/seconds_to_go":300,"train/loss"'))
    with claimed(ledger.trial_dir(tmp_path, "aa")):
        status = Status(Observer(tmp_path), "ask")
        lines = shown(status)
    assert row_of(lines, "aa")[9:] == ["5 min 00 s", ""]
    assert row_of(lines, "bb")[10] == "ended early: train.max_hours=2"
    assert [trial["early"] for trial in status.json()["trials"]] == [None, "train.max_hours=2"]


def test_a_study_is_over_when_nothing_runs_or_waits(tmp_path: Path) -> None:
    launched(tmp_path, cell("variant=kda", {0: "aa", 1: "bb"}))
    ran(tmp_path, "aa", 50, 100, State.diverged, error="loss nan")
    ran(tmp_path, "bb", 50, 100, State.preempted)
    assert Status(Observer(tmp_path), "ask").over
    with claimed(ledger.trial_dir(tmp_path, "bb")):
        ran(tmp_path, "bb", 50, 50)
        assert not Status(Observer(tmp_path), "ask").over


def test_time_to_go_counts_what_waits_with_as_many_at_a_time_as_run(tmp_path: Path, slurm: SlurmPrograms) -> None:
    launched(tmp_path, cell("variant=kda", dict(enumerate(["aa", "bb", "cc", "dd"]))))
    submission = queued(tmp_path, [["cc"], ["dd"]], [("24", 0, 2)])
    slurm.says("squeue", [f"24|{index}|PENDING|{submission.job_name(0)}|Priority" for index in range(2)])
    ran(tmp_path, "bb", 30, 60)
    with claimed(ledger.trial_dir(tmp_path, "bb")):
        assert "to go" not in shown(Status(Observer(tmp_path), "ask"))[0]  # nothing says yet how long those take
        ran(tmp_path, "aa", 50, 100, State.completed)
        lines = shown(Status(Observer(tmp_path), "ask"))
    assert lines[0].strip().endswith("2 queued, 1 running, 1 completed, about 2 min 00 s to go")  # 20 s, then twice 50


def test_a_queued_trial_says_its_job_and_why_it_waits(tmp_path: Path, slurm: SlurmPrograms) -> None:
    launched(tmp_path, cell("variant=kda", {0: "aa", 1: "bb"}))
    submission = queued(tmp_path, [["aa"], ["bb"]], [("24", 0, 2)])
    slurm.says("squeue", [f"24|0|PENDING|{submission.job_name(0)}|QOSMaxJobsPerUserLimit"])
    status = Status(Observer(tmp_path), "ask")
    assert row_of(shown(status), "aa")[-1] == "24_0 QOSMaxJobsPerUserLimit"
    assert row_of(shown(status), "bb")[-1] == "its Slurm job is gone"
    first, second = status.json()["trials"]
    assert (first["state"], first["slurm_job"], first["submission"]) == ("queued", "24_0", submission.token)
    assert second["state"] == "planned"


def test_slurm_that_does_not_answer_is_said_below_the_table(tmp_path: Path, slurm: SlurmPrograms) -> None:
    launched(tmp_path, cell("variant=kda", {0: "aa"}))
    queued(tmp_path, [["aa"]], [("24", 0, 1)])
    slurm.says("squeue", code=1, error=DOWN)
    status = Status(Observer(tmp_path), "ask")
    note = f"Slurm did not answer (squeue: {DOWN}): queued trials are shown as last known"
    assert status.json()["notes"] == [note]
    assert shown(status)[-1].strip() == note
    assert row_of(shown(status), "aa")[3] == "queued"


def test_many_trials_are_shown_by_cell_unless_all_are_wanted(tmp_path: Path) -> None:
    names = {f"variant={name}": {seed: f"{name}{seed:02}" for seed in range(31)} for name in ("aa", "bb")}
    launched(tmp_path, *(cell(name, trials) for name, trials in names.items()))
    for seed in range(10):
        ran(tmp_path, f"aa{seed:02}", 60, 100, State.completed)
    ran(tmp_path, "aa10", 60, 50, State.preempted)
    status = Status(Observer(tmp_path), "ask")
    assert len(status.rows) > MANY
    lines = shown(status)
    assert len(lines) < 10
    assert row_of(lines, "variant=aa") == [
        "variant=aa", "10 completed, 1 preempted, 20 planned", "34%", "0.8750", "11 min 00 s",
    ]  # fmt: skip
    assert row_of(lines, "variant=bb")[1:3] == ["31 planned", "0%"]
    assert row_of(shown(status, every=True), "bb30")[1:4] == ["variant=bb", "30", "planned"]


def test_tuning_trials_have_rows_and_waiting_cells_are_said(tmp_path: Path) -> None:
    tuning = {"train.lr=1e-3": {7: "aa"}, "train.lr=3e-3": {7: "bb"}}
    launched(tmp_path, cell("variant=kda", {}, tuning=tuning), cell("variant=delta_net", {0: "cc"}))
    status = Status(Observer(tmp_path), "ask")
    assert [(row.trial, row.cell, row.seed) for row in status.rows] == [
        ("aa", "variant=kda train.lr=1e-3 (tuning)", 7),
        ("bb", "variant=kda train.lr=3e-3 (tuning)", 7),
        ("cc", "variant=delta_net", 0),
    ]
    (line,) = status.lines
    assert line.startswith("1 cell waits for tuning")


def test_trials_that_cells_share_have_one_row(tmp_path: Path) -> None:
    launched(tmp_path, cell("n=project", {0: "aa"}), cell("n=pool", {0: "aa"}, equivalent="n=project"))
    assert [(row.trial, row.cell) for row in Status(Observer(tmp_path), "ask").rows] == [("aa", "n=project")]


def test_cells_that_should_be_equal_and_are_not_are_said(tmp_path: Path) -> None:
    study = StudySpec(name="ask", baseline={}, factors={}, equivalence=Equivalence.assert_)
    cells = [cell("n=project", {0: "aa"}), cell("n=pool", {0: "bb"}, equivalent="n=project")]
    launched(tmp_path, *cells, study=study)
    for trial in ("aa", "bb"):
        ran(tmp_path, trial, 50, 100, State.completed)
    assert Status(Observer(tmp_path), "ask").lines == []
    path = ledger.trial_dir(tmp_path, "bb") / journal.FILE
    path.write_text(path.read_text().replace('"eval/loss":0.25', '"eval/loss":0.26'))
    (line,) = Status(Observer(tmp_path), "ask").lines
    assert line.startswith("n=pool seed=0: eval/loss 0.26 differs from 0.25 of n=project")


def test_the_newest_study_is_the_one_launched_last(tmp_path: Path) -> None:
    assert ledger.newest_study(tmp_path) is None
    with pytest.raises(NotFoundError, match="study=ask: not launched yet"):
        Status(Observer(tmp_path), "ask")
    launched(tmp_path, cell("variant=kda", {0: "aa"}))
    assert ledger.newest_study(tmp_path) == "ask"
    measured = ledger.study_dir(tmp_path, "ask-calibration") / "study.json"
    measured.parent.mkdir()
    measured.write_text("{}")
    os.utime(measured, (2**32, 2**32))
    assert ledger.newest_study(tmp_path) == "ask"
    (ledger.study_dir(tmp_path, "ask") / "study.json").unlink()
    assert ledger.newest_study(tmp_path) == "ask-calibration"
