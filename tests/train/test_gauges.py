"""What the machine did: read now and then, told under MLflow's names."""

import pytest

from deltalab.track.journal import SYSTEM
from deltalab.train import gauges
from deltalab.train.gauges import Gauges


def test_a_reading_is_due_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []
    now = 100.0
    monkeypatch.setattr(gauges.time, "monotonic", lambda: now)
    meter = Gauges(told.append)
    for now in (100.5, 101.5, 102.0, 111.0, 111.6, 112.0):  # noqa: B007, the clock reads it
        meter.look()
    assert len(told) == 2
    assert all(name.startswith(SYSTEM) for name in told[0])
    assert 0 < told[0]["system/system_memory_usage_percentage"] < 100
    assert told[0]["system/process_memory_usage_megabytes"] > 10


def test_a_machine_that_does_not_tell_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []
    monkeypatch.setattr(gauges, "FIRST_SECONDS", 0.0)

    def refuse() -> None:
        raise PermissionError("/proc/meminfo")

    monkeypatch.setattr(gauges.psutil, "virtual_memory", refuse)
    Gauges(told.append).look()
    assert told == []
