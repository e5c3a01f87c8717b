"""Steering: what a text names, what cancelling takes out of the queue, which code has changed, what a log shows."""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deltalab import cli
from deltalab.dispatch import snapshot, steer
from deltalab.dispatch.job import CANCEL, LOG
from deltalab.dispatch.retry import Retry, retry_trials
from deltalab.dispatch.states import Observer
from deltalab.errors import NotFoundError, UsageError
from deltalab.spec.study import StudySpec
from deltalab.study import ledger
from deltalab.study.design import cell_name
from deltalab.study.ledger import CellRecord
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.journal import Journal, State
from tests.dispatch.slurm_programs import SlurmPrograms, queued

TRIALS = ["abcde1", "abcde2", "bcdef1", "bcdef2", "cdefa1", "cdefa2"]
Cells = list[tuple[dict[str, str], dict[int, str]]]
"""Levels and trials of each cell."""
CELLS: Cells = [
    ({"variant": "kda", "pattern": "recurrent"}, {0: "abcde1", 1: "abcde2"}),
    ({"variant": "kda", "pattern": "hybrid"}, {0: "bcdef1", 1: "bcdef2"}),
    ({"variant": "delta_net", "pattern": "hybrid"}, {0: "cdefa1", 1: "cdefa2"}),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmPrograms:
    return SlurmPrograms(tmp_path / "bin", monkeypatch)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder from which the study ``ask`` was launched."""
    folder = tmp_path / "runs"
    launched(folder, "ask", CELLS)
    return folder


def launched(runs: Path, study: str, cells: Cells, tuning: dict[str, dict[int, str]] | None = None) -> None:
    """Record a study; its trials have run directories. ``tuning`` is the first cell's."""
    records = [
        CellRecord(name=cell_name(levels), levels=levels, overrides={}, trials=trials) for levels, trials in cells
    ]
    records[0] = replace(records[0], tuning=tuning or {})
    ledger.write_study(runs, StudySpec(name=study, baseline={}, factors={}), records, "python launch.py", {})
    for cell in records:
        for _, trial in cell.named_trials():
            ledger.trial_dir(runs, trial).mkdir(parents=True, exist_ok=True)


def found(runs: Path, text: str, study: str | None = None) -> list[str]:
    return [named.trial for named in steer.find(runs, text, study)]


@pytest.mark.parametrize(
    ("text", "trials"),
    [
        ("ask", TRIALS),
        ("bcdef2", ["bcdef2"]),
        ("abcde1", ["abcde1"]),
        ("variant=kda pattern=hybrid", ["bcdef1", "bcdef2"]),
        ("pattern=hybrid variant=kda", ["bcdef1", "bcdef2"]),
        ("variant=kda", ["abcde1", "abcde2", "bcdef1", "bcdef2"]),
        ("variant=kda seed=1", ["abcde2", "bcdef2"]),
        ("seed=0", ["abcde1", "bcdef1", "cdefa1"]),
        ("variant=delta_net seed=1", ["cdefa2"]),
    ],
)
def test_trials_are_named_by_study_id_or_levels(runs: Path, text: str, trials: list[str]) -> None:
    assert found(runs, text) == trials


def test_an_id_may_be_shortened_as_long_as_it_is_one(runs: Path) -> None:
    ledger.trial_dir(runs, "ffff00").mkdir()  # named by no study
    launched(runs, "other", [({"variant": "kda"}, {0: "d00d00"})])
    assert steer.find(runs, "d0") == [steer.Named("d00d00", "variant=kda seed=0", "other")]
    assert steer.find(runs, "bcdef1") == [steer.Named("bcdef1", "variant=kda pattern=hybrid seed=0", "ask")]
    with pytest.raises(NotFoundError) as caught:
        steer.find(runs, "bcdef")
    assert str(caught.value) == "bcdef: 2 trials begin so (bcdef1, bcdef2); allowed is a longer prefix"
    with pytest.raises(NotFoundError, match="ffff00: no launched study asks for this trial"):
        steer.find(runs, "ffff")
    with pytest.raises(NotFoundError, match="d00d00: no launched study ask asks for this trial"):
        steer.find(runs, "d0", "ask")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "nothing: no trial, cell or study of "),
        ("zz", "launched studies: ask"),
        ("../..", "launched studies: ask"),
        ("*", "launched studies: ask"),
        ("", "launched studies: ask"),
        (
            "variant=kdaa",
            "variant=kdaa: no such cell in study ask; allowed is levels and a seed, as in variant=kda pat",
        ),
        ("variant=kda seed=7", "no such cell in study ask"),
        ("variant=kda pattern=recurrent pattern=hybrid", "no such cell in study ask"),
    ],
)
def test_what_names_nothing_is_one_line_with_what_there_is(runs: Path, text: str, said: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        steer.find(runs, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cell_is_looked_for_in_the_newest_study_unless_one_is_given(runs: Path) -> None:
    launched(runs, "newer", [({"variant": "kda"}, {0: "d00d00"})])
    assert found(runs, "variant=kda") == ["d00d00"]
    assert found(runs, "variant=kda seed=0", "ask") == ["abcde1", "bcdef1"]
    with pytest.raises(NotFoundError, match="study=nope: not launched yet"):
        found(runs, "variant=kda", "nope")


def test_before_anything_was_launched_nothing_is_named(tmp_path: Path) -> None:
    for text in ("variant=kda", "ask", "abc"):
        with pytest.raises(NotFoundError):
            steer.find(tmp_path, text)


def test_a_level_with_spaces_names_its_own_cell_only(runs: Path) -> None:
    gates = {"channel": "e1", "channel wide": "e2", "wide open": "e3"}
    launched(runs, "spaced", [({"gates": level}, {0: trial}) for level, trial in gates.items()])
    assert found(runs, "gates=channel wide seed=0") == ["e2"]
    assert found(runs, "gates=wide open") == ["e3"]
    assert found(runs, "gates=channel") == ["e1"]


def test_tuning_trials_are_named_by_the_value_tried(runs: Path) -> None:
    tuning = {"train.lr=1e-3": {7: "e1"}, "train.lr=3e-3": {7: "e2"}}
    launched(runs, "tuned", [({"variant": "kda"}, {0: "e3"}), ({"variant": "delta_net"}, {0: "e4"})], tuning)
    assert steer.find(runs, "train.lr=3e-3") == [steer.Named("e2", "variant=kda train.lr=3e-3 seed=7", "tuned")]
    assert found(runs, "variant=kda") == ["e1", "e2", "e3"]
    assert found(runs, "tuned") == ["e1", "e2", "e3", "e4"]


def test_a_trial_that_cells_share_is_found_once(runs: Path) -> None:
    launched(runs, "shared", [({"narrowing": level}, {0: "e1"}) for level in ("project", "pool")])
    assert found(runs, "shared") == ["e1"]
    assert found(runs, "narrowing=project") == ["e1"]
    assert found(runs, "narrowing=pool") == ["e1"]


def test_one_trial_must_be_named_alone(runs: Path) -> None:
    assert steer.find_one(runs, "variant=delta_net seed=1").trial == "cdefa2"
    with pytest.raises(NotFoundError) as caught:
        steer.find_one(runs, "variant=delta_net")
    assert str(caught.value) == (
        "variant=delta_net: names 2 trials: cdefa1 (variant=delta_net pattern=hybrid seed=0), "
        "cdefa2 (variant=delta_net pattern=hybrid seed=1); allowed is one: add seed=… or give its id"
    )
    with pytest.raises(NotFoundError, match=r"names 6 trials: .*bcdef1 .* …; allowed"):
        steer.find_one(runs, "ask")


def state(runs: Path, trial: str) -> State:
    return journal.read(ledger.trial_dir(runs, trial)).state


def test_cancelling_ends_what_waits_and_asks_what_runs(runs: Path, slurm: SlurmPrograms) -> None:
    one, two, three, four, *_ = TRIALS
    queued(runs, [[one], [two], [three]], [("24", 0, 3)])
    Journal(ledger.trial_dir(runs, three)).state(State.running)
    Journal(ledger.trial_dir(runs, four)).state(State.completed)
    with claimed(ledger.trial_dir(runs, three)):
        assert steer.cancel(Observer(runs), [one, three, four]) == ([one], [three], "")
    assert [state(runs, t) for t in (one, two, three, four)] == [
        State.cancelled, State.queued, State.running, State.completed,
    ]  # fmt: skip
    assert [(ledger.trial_dir(runs, t) / CANCEL).exists() for t in (one, two, three, four)] == [
        False, False, True, False,
    ]  # fmt: skip


def test_a_cancelled_task_leaves_the_queue_in_one_call(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [[trial] for trial in TRIALS], [("24", 0, 4), ("25", 4, 2)], follower="26")
    Journal(ledger.trial_dir(runs, TRIALS[0])).state(State.completed)  # whose job may still be at its end
    steer.cancel(Observer(runs), [TRIALS[1], TRIALS[4], TRIALS[5]])
    (call,) = slurm.calls("scancel")
    assert sorted(call) == ["--quiet", "24_1", "25"]
    steer.cancel(Observer(runs), TRIALS)
    assert sorted(slurm.calls("scancel")[1]) == ["--quiet", "24", "25", "26"]


def test_a_task_with_other_trials_left_stays_in_the_queue(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [TRIALS[:2], TRIALS[2:]], [("24", 0, 2)])
    steer.cancel(Observer(runs), TRIALS[:1])
    assert slurm.calls("scancel") == []
    steer.cancel(Observer(runs), TRIALS[1:2])
    assert slurm.calls("scancel") == [["--quiet", "24_0"]]


def test_jobs_of_a_launch_that_died_are_cancelled_by_the_id_slurm_gives(runs: Path, slurm: SlurmPrograms) -> None:
    submission = queued(runs, [[trial] for trial in TRIALS[:3]], [("", 0, 3)])
    name = submission.job_name(0)
    slurm.says("squeue", [f"31|{index}|PENDING|{name}|Priority" for index in range(3)])
    steer.cancel(Observer(runs), TRIALS[:1])
    assert slurm.calls("scancel") == [["--quiet", "31_0"]]
    steer.cancel(Observer(runs), TRIALS[:3])
    assert set(slurm.calls("scancel")[1]) <= {"--quiet", "31", "31_0", "31_1", "31_2"}
    assert len(slurm.calls("scancel")[1]) > 1


def test_without_slurm_there_is_nothing_to_cancel_in_it(runs: Path, slurm: SlurmPrograms) -> None:
    Journal(ledger.trial_dir(runs, TRIALS[0])).state(State.preempted)
    assert steer.cancel(Observer(runs), TRIALS[:2]) == (TRIALS[:2], [], "")
    assert [state(runs, trial) for trial in TRIALS[:2]] == [State.cancelled] * 2
    assert slurm.calls("scancel") == []


def test_trials_are_cancelled_though_slurm_does_not_answer(runs: Path, slurm: SlurmPrograms) -> None:
    queued(runs, [[TRIALS[0]]], [("24", 0, 1)])
    slurm.says("squeue", code=1, error="down")
    slurm.says("scancel", code=8, error="scancel: error: Unable to contact slurm controller")
    done, _, refused = steer.cancel(Observer(runs), TRIALS[:1])
    assert (done, refused) == (TRIALS[:1], "scancel: Unable to contact slurm controller")
    assert state(runs, TRIALS[0]) is State.cancelled


def test_cancelling_twice_is_cancelling_once(runs: Path) -> None:
    assert steer.cancel(Observer(runs), TRIALS[:1]) == (TRIALS[:1], [], "")
    before = journal.entries(ledger.trial_dir(runs, TRIALS[0]))
    assert steer.cancel(Observer(runs), TRIALS[:1]) == ([], [], "")
    assert journal.entries(ledger.trial_dir(runs, TRIALS[0])) == before


@pytest.mark.parametrize(
    ("failed", "lost", "chosen"),
    [
        (False, False, {State.failed, State.lost}),
        (True, False, {State.failed}),
        (False, True, {State.lost}),
        (True, True, {State.failed, State.lost}),
    ],
)
def test_a_retry_takes_failed_and_lost_trials_or_those_of_one_kind(
    failed: bool, lost: bool, chosen: set[State]
) -> None:
    assert {one for one in State if steer.wants_retry(one, failed, lost)} == chosen


def retried(runs: Path, *texts: str, launcher: Sequence[str] = ()) -> int:
    return retry_trials(
        Retry(
            runs=runs, texts=list(texts), study=None, failed=False, lost=False, code="current",
            launcher=list(launcher), ask=None,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("train.steps=3", "--set train.steps=3: allowed is hydra/launcher=… or hydra.launcher.KEY=…"),
        ("hydra.launcherworkers=3", "--set hydra.launcherworkers=3: allowed is hydra/launcher=… or hydra.launcher.KEY"),
        ("hydra.run.dir=here", "--set hydra.run.dir=here: allowed is"),
        ("hydra/launcher=moon", "hydra/launcher=moon: allowed is one of inline, local, slurm"),
        ("hydra.launcher.workers=0", "hydra.launcher.workers=0: allowed is"),
    ],
)
def test_a_retry_sets_the_launcher_and_nothing_else(runs: Path, given: str, said: str) -> None:
    for trial in TRIALS:  # though there is nothing to run again
        Journal(ledger.trial_dir(runs, trial)).state(State.completed)
    with pytest.raises(UsageError) as caught:
        retried(runs, "ask", launcher=[given])
    assert said in str(caught.value)


def test_a_retry_that_runs_nothing_says_what_would(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trial in TRIALS:
        Journal(ledger.trial_dir(runs, trial)).state(State.completed)
    assert retried(runs, "ask") == 0
    assert capsys.readouterr().out == "Nothing to run again.\nask: 6 completed\n"
    for trial, end in zip(TRIALS, (State.preempted, State.preempted, State.cancelled), strict=False):
        Journal(ledger.trial_dir(runs, trial)).state(end)
    assert retried(runs, "ask") == 0
    said = capsys.readouterr().out.splitlines()
    assert sorted(said[1].removeprefix("ask: ").split(", ")) == ["1 cancelled", "2 preempted", "3 completed"]
    assert said[2:] == [
        "  what is preempted goes on with: python launch.py",
        "  what is cancelled runs again when named: deltalab retry TRIAL, or a cell",
    ]


def test_cancelling_says_what_runs_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Journal(ledger.trial_dir(runs, "abcde1")).state(State.completed)
    cli.cancel(["abcde1"], runs)
    assert capsys.readouterr().out == "1 had ended already (1 completed)\n"
    Journal(ledger.trial_dir(runs, "abcde2")).state(State.failed)
    cli.cancel(["abcde1", "abcde2", "bcdef1"], runs)
    assert capsys.readouterr().out == (
        "1 cancelled, 2 had ended already (1 completed, 1 failed); deltalab retry TRIAL, or a cell, runs again what is "
        "not completed\n"
    )


def test_changed_code_is_that_of_the_trials_asked_for(runs: Path, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "src").mkdir(parents=True)
    (root / "src" / "one.py").write_text("1")
    for trial, content in (("abcde1", "1"), ("abcde2", "2")):
        (root / "src" / "two.py").write_text(content)
        origin = {"snapshot": snapshot.take(root, runs)}
        (ledger.trial_dir(runs, trial) / "provenance.json").write_text(json.dumps(origin))
    observer = Observer(runs)
    assert steer.changed_code(root, observer, ["abcde2", "bcdef1"]) == []
    assert steer.changed_code(root, observer, ["abcde1", "abcde2"]) == ["src/two.py"]
    gone = json.loads((ledger.trial_dir(runs, "abcde1") / "provenance.json").read_text())["snapshot"]
    snapshot.folder_of(runs, gone).rename(tmp_path / "elsewhere")
    assert steer.changed_code(root, observer, ["abcde1"]) == ["all of it (the code it ran is gone)"]


def test_a_log_is_shown_as_far_as_it_goes_or_followed_to_the_trials_end(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = ledger.trial_dir(runs, "abcde1"), bytearray()
    with pytest.raises(NotFoundError, match="abcde1: no log yet, it is planned; -f waits for it"):
        steer.read_log(Observer(runs), "abcde1", False, said.extend)
    (folder / LOG).write_bytes(b"")
    steer.read_log(Observer(runs), "abcde1", False, said.extend)
    assert (said, capsys.readouterr().err) == (b"", f"abcde1 has printed nothing ({folder / LOG})\n")
    (folder / LOG).write_bytes(b"one\n")
    steer.read_log(Observer(runs), "abcde1", False, said.extend)
    assert said == b"one\n"
    said.clear()
    follower = threading.Thread(target=steer.read_log, args=(Observer(runs), "abcde1", True, said.extend), daemon=True)
    follower.start()
    with (folder / LOG).open("ab") as log:
        log.write("zwölf\n".encode())
    Journal(folder).state(State.completed)
    follower.join(20)
    assert not follower.is_alive()
    assert said == "one\nzwölf\n".encode()
