"""Claims: one runner at a time, dead ones are seen and taken over."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from deltalab.errors import Busy
from deltalab.track import claim
from deltalab.track.claim import alive, claimed


def hold(folder: str, ready: object) -> None:
    with claimed(Path(folder)):
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def contend(folder: str, start: object, won: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        with claimed(Path(folder)):
            with won.get_lock():  # type: ignore[attr-defined]
                won.value += 1  # type: ignore[attr-defined]
            time.sleep(0.5)
    except Busy:
        pass


def test_a_held_claim_refuses_a_second_runner_and_is_gone_afterwards(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert alive(tmp_path)
        with pytest.raises(Busy), claimed(tmp_path):
            pass
    assert not alive(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_killed_holder_is_seen_at_once_and_taken_over(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(30)
    assert alive(tmp_path)
    with pytest.raises(Busy), claimed(tmp_path):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not alive(tmp_path)
    with claimed(tmp_path):
        assert alive(tmp_path)


def test_a_claim_of_another_machine_dies_with_its_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / f"{claim.PREFIX}7"
    path.write_text('{"host": "elsewhere", "pid": 1, "born": "1"}')
    assert alive(tmp_path)
    past = time.time() - claim.STALE_SECONDS - 1
    os.utime(path, (past, past))
    assert not alive(tmp_path)


@pytest.mark.parametrize("round_", range(5))
def test_of_many_at_once_no_two_win_over_a_stale_claim(tmp_path: Path, round_: int) -> None:
    (tmp_path / f"{claim.PREFIX}0").write_text('{"host": "elsewhere", "pid": 1, "born": "1"}')
    os.utime(tmp_path / f"{claim.PREFIX}0", (1, 1))
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.Value("i", 0)
    runners = [context.Process(target=contend, args=(str(tmp_path), start, won)) for _ in range(8)]
    for runner in runners:
        runner.start()
    start.set()
    for runner in runners:
        runner.join(30)
    assert won.value <= 1
    with claimed(tmp_path):  # and the next one does
        assert alive(tmp_path)


def owner(folder: Path, **instead: object) -> dict[str, object]:
    """What this process writes into a claim, some of it otherwise."""
    with claimed(folder):
        (path,) = folder.glob(f"{claim.PREFIX}*")
        return {**json.loads(path.read_text()), **instead}


def left(folder: Path, owner: dict[str, object], age: float = 0.0) -> Path:
    """A claim that somebody left, last touched so many seconds ago."""
    path = folder / f"{claim.PREFIX}3"
    path.write_text(json.dumps(owner))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_of_this_machine_only_the_process_that_wrote_a_claim_holds_it(tmp_path: Path) -> None:
    mine = owner(tmp_path)
    left(tmp_path, mine)
    assert alive(tmp_path)
    left(tmp_path, {**mine, "born": "1"})  # its number has been given to another process since
    assert not alive(tmp_path)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    left(tmp_path, {**mine, "pid": ended.pid})
    assert not alive(tmp_path)


def test_a_process_that_ended_and_was_not_reaped_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "0"]) as ended:
        born = Path(f"/proc/{ended.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
        while Path(f"/proc/{ended.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            time.sleep(0.01)
        left(tmp_path, owner(tmp_path, pid=ended.pid, born=born))
        assert not alive(tmp_path)


@pytest.mark.parametrize("other", ["boot", "namespace", "host"])
def test_where_process_numbers_mean_something_else_the_heartbeat_alone_counts(tmp_path: Path, other: str) -> None:
    mine = owner(tmp_path)
    parts = dict(zip(("host", "boot", "namespace"), str(mine["host"]).split(), strict=True))
    host = " ".join((parts | {other: "else"}).values())
    for pid in (os.getpid(), 2**22 + 1):  # ours, and none's
        left(tmp_path, {**mine, "host": host, "pid": pid, "born": "1"}, age=claim.STALE_SECONDS - 5)
        assert alive(tmp_path)
        with pytest.raises(Busy), claimed(tmp_path):
            pass
        left(tmp_path, {**mine, "host": host, "pid": pid}, age=claim.STALE_SECONDS + 1)
        assert not alive(tmp_path)


def test_a_claim_that_is_just_being_written_counts(tmp_path: Path) -> None:
    path = tmp_path / f"{claim.PREFIX}0"
    path.write_text("")
    assert alive(tmp_path)
    os.utime(path, (1, 1))
    assert not alive(tmp_path)


def test_a_stale_claim_is_taken_over_and_cleared_away(tmp_path: Path) -> None:
    left(tmp_path, {"host": "elsewhere", "pid": 1, "born": "1"}, age=claim.STALE_SECONDS + 1)
    with claimed(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [f"{claim.PREFIX}4"]


def test_patience_waits_for_a_claim_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(claim.random, "random", lambda: 0.05)
    path = left(tmp_path, {"host": "elsewhere", "pid": 1, "born": "1"})
    with pytest.raises(Busy), claimed(tmp_path, patience=0.1):
        pass
    timer = threading.Timer(0.3, path.unlink)
    timer.start()
    began = time.monotonic()
    with claimed(tmp_path, patience=30):
        assert 0.2 < time.monotonic() - began < 20
        assert alive(tmp_path)
    timer.join()


def test_patience_outlasts_a_holder_that_died_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "POLL_SECONDS", 0.01)
    left(tmp_path, {"host": "elsewhere", "pid": 1, "born": "1"}, age=claim.STALE_SECONDS - 0.5)
    with claimed(tmp_path, patience=20):
        assert alive(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "HEARTBEAT_SECONDS", 0.02)


def until(holds: threading.Event) -> None:
    assert holds.wait(10), "no heartbeat came"


def test_a_claim_beats_and_so_does_whoever_listens(tmp_path: Path, quick: None) -> None:
    twice, beats = threading.Event(), []

    def beat() -> None:
        beats.append(threading.current_thread())
        if len(beats) == 2:
            twice.set()

    with claimed(tmp_path, each_beat=beat):
        (path,) = tmp_path.iterdir()
        os.utime(path, (1, 1))
        until(twice)
        assert time.time() - path.stat().st_mtime < claim.STALE_SECONDS
        assert threading.current_thread() not in beats
    heard = len(beats)
    time.sleep(0.1)
    assert len(beats) == heard


def test_a_heart_goes_on_beating_when_what_listens_to_it_fails(tmp_path: Path, quick: None) -> None:
    again, beats = threading.Event(), []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 1:
            raise OSError("stale file handle")  # a shared file system with a hiccup
        again.set()

    with claimed(tmp_path, each_beat=beat):
        until(again)


def test_a_claim_is_given_back_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claimed(tmp_path):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_holder_whose_folder_is_deleted_is_told(tmp_path: Path, quick: None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with claimed(folder) as check:
        check()
        shutil.rmtree(folder)
        with pytest.raises(Busy, match="run: another process took this trial over, or its run directory was deleted"):
            check()


def test_a_holder_whose_trial_another_took_over_is_told_at_its_next_look(tmp_path: Path) -> None:
    with claimed(tmp_path) as check:
        (mine,) = tmp_path.glob(f"{claim.PREFIX}*")
        os.utime(mine, (1, 1))  # as one that was frozen
        with claimed(tmp_path) as others:
            with pytest.raises(Busy):
                check()
            others()
        with pytest.raises(Busy):
            check()
