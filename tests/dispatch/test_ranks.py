"""What a user is told who starts ranks by hand; how they train is in tests/exchange/test_end_to_end.py."""

import os
from pathlib import Path

import pytest

from deltalab.dispatch.launch import launch_jobs
from deltalab.dispatch.ranks import threads_of, together
from deltalab.errors import UsageError
from deltalab.spec.launcher import LauncherSpec
from tests.dispatch.launching import jobs, settings_for


def test_a_study_is_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    line = "WORLD_SIZE=2: torchrun starts a single trial; allowed is 1 with -m or study=NAME"
    with pytest.raises(UsageError) as refused:
        launch_jobs(jobs(("seed=0",), ("seed=1",)), LauncherSpec(), settings_for(tmp_path))
    assert str(refused.value) == line
    assert not [*tmp_path.iterdir()]


def test_alone_there_is_nobody_to_train_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together(LauncherSpec()) as world:
        assert world is None


def test_ranks_of_a_machine_divide_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    assert threads_of(LauncherSpec()) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert threads_of(LauncherSpec()) == 1
    assert threads_of(LauncherSpec(threads=3)) == 3
