"""What a worker says of a trial that cannot begin."""

from pathlib import Path

import pytest

from deltalab.dispatch.job import StopSignal, Worker
from deltalab.errors import NotFoundError
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.track.journal import State

WORKER = Worker(Device.cpu, 1, StopSignal())


def test_a_run_directory_that_was_emptied_stays_planned(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        WORKER.run(tmp_path)
    assert journal.glance(tmp_path).state is State.planned
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_cannot_be_read_has_failed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        WORKER.run(tmp_path)
    assert journal.glance(tmp_path).state is State.failed
