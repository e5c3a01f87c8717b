"""Claims: one runner at a time, dead ones are seen and taken over."""

import multiprocessing
import os
import signal
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
