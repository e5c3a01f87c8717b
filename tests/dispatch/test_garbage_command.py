"""``deltalab gc``: what it lists, asks and removes."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deltalab.dispatch.garbage_command import run_gc
from deltalab.track.journal import State
from tests.dispatch.launching import Desk
from tests.dispatch.left import everything, trial


class TestCommand:
    @pytest.fixture
    def desk(self, tmp_path: Path) -> Desk:
        desk = Desk(tmp_path)
        trial(desk.runs, "done", State.running, State.completed)
        trial(desk.runs, "stopped", State.preempted)
        return desk

    def test_without_a_terminal_and_without_yes_it_only_lists(self, desk: Desk) -> None:
        before = everything(desk.runs)
        done = desk.deltalab("gc")
        assert done.returncode == 0, done.stderr
        assert "trials/done/checkpoints" in done.stdout
        assert "5.0 kB in 3 items can go" in done.stdout
        assert "add --yes" in done.stdout
        assert everything(desk.runs) == before

    def test_yes_removes_and_a_second_time_there_is_nothing(self, desk: Desk) -> None:
        done = desk.deltalab("gc", "--yes")
        assert done.returncode == 0, done.stderr
        assert "Removed 3 items, 5.0 kB." in done.stdout
        assert not (desk.runs / "trials/done/checkpoints").exists()
        assert (desk.runs / "trials/stopped/checkpoints/step-00000200").exists()
        assert "nothing to remove" in desk.deltalab("gc").stdout

    def test_json_lists_and_with_yes_removes(self, desk: Desk) -> None:
        listed = json.loads(desk.deltalab("gc", "--json").stdout)
        assert {item["kind"] for item in listed["items"]} == {"checkpoint", "superseded", "half"}
        assert not any(item["removed"] for item in listed["items"])
        assert (desk.runs / "trials/done/checkpoints").exists()
        removed = json.loads(desk.deltalab("gc", "--json", "--yes").stdout)
        assert all(item["removed"] for item in removed["items"])
        assert not (desk.runs / "trials/done/checkpoints").exists()

    @pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("\n", False), ("n\n", False)])
    def test_on_a_terminal_it_asks(self, desk: Desk, answer: str, removed: bool) -> None:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "deltalab", "gc"]
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=desk.env, cwd=desk.folder, close_fds=True
        )
        os.close(theirs)
        said, end = b"", time.monotonic() + 60
        while b"[y/N]" not in said and time.monotonic() < end:
            if select.select([ours], [], [], 1)[0]:
                said += os.read(ours, 4096)
        os.write(ours, answer.encode())
        process.wait(timeout=60)
        os.close(ours)
        assert process.returncode == 0
        assert (desk.runs / "trials/done/checkpoints").exists() is not removed

    def test_a_missing_runs_folder_is_one_line(self, desk: Desk) -> None:
        done = desk.deltalab("gc", "--runs", "nothing")
        assert done.returncode == 2
        assert done.stderr.startswith("deltalab: runs=nothing: no such folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_what_cannot_be_removed_is_said(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trial(runs, "done", State.completed)
    folder.chmod(0o500)
    code = run_gc(runs, yes=True, trials=False, as_json=False)
    folder.chmod(0o700)
    assert code == 1
    assert f"not removed: {folder / 'checkpoints'}: Permission denied" in capsys.readouterr().out
