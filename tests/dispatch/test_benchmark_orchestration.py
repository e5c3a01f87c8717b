"""The orchestration benchmark at toy size, and its verdict; the times themselves are not tested."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.orchestration import __main__ as orchestration
from benchmarks.orchestration.desk import Failed
from benchmarks.orchestration.rows import Row

SLOW = Row(what="status", figure="wall time", unit="s", ours=2.5, most=2.0)
FAST = Row(what="status", figure="wall time", unit="s", ours=2.0, most=2.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (SLOW, "status, wall time: 2.5 s; must be at most 2 s"),
        (FAST, None),
        (Row(what="Slurm", figure="calls", ours=3, peer=1, most=2), "Slurm, calls: 3; must be at most 2"),
        (Row(what="Slurm", figure="calls", ours=2, peer=1, most=2), None),
        (
            Row(what="pool", figure="wall", unit="ms", ours=600, peer=500, beats=True),
            "pool, wall: 600 ms; must not be more than the peer's 500 ms",
        ),
        (Row(what="pool", figure="wall", unit="ms", ours=500, peer=500, beats=True), None),
        (Row(what="pool", figure="wall", unit="ms", ours=600, beats=True), None),
    ],
)
def test_what_is_missed(row: Row, said: str | None):
    assert row.shortfall() == said


@pytest.mark.parametrize(("row", "code"), [(FAST, 0), (SLOW, 1)])
def test_a_missed_promise_fails_and_is_named(
    row: Row, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(orchestration, "measure", lambda *_: [[row]])
    assert orchestration.main(["--only", "status"]) == code
    out, err = capsys.readouterr()
    assert "wall time" in out
    assert err == (f"orchestration: {row.shortfall()}\n" if code else "")


def test_what_was_measured_before_a_failure_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def half(*_: object) -> Iterator[list[Row]]:
        yield [FAST]
        raise Failed("up.sh: no room")

    monkeypatch.setattr(orchestration, "measure", half)
    assert orchestration.main([]) == 1
    out, err = capsys.readouterr()
    assert "wall time" in out
    assert err == "orchestration: up.sh: no room\n"


def test_an_odd_number_of_trials_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        orchestration.main(["--trials", "3"])
    assert end.value.code == 2
    assert "--trials 3: allowed is an even number from 2" in capsys.readouterr().err


@pytest.mark.slow
def test_planning_relaunching_and_looking_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    figures = tmp_path / "figures.json"
    names = [f"--only={name}" for name in ("plan", "relaunch", "status")]
    assert orchestration.main(["--quick", f"--json={figures}", *names]) == 0
    rows = {(row["what"], row["figure"]): row["ours"] for row in json.loads(figures.read_text())["figures"]}
    timed = {what for what, figure in rows if figure == "wall time"}
    assert timed == {
        "deltalab plan --json, 20 trials",
        "launch.py again, 20 complete",
        "deltalab status, 20 complete",
        "deltalab status --json, 20 complete",
    }
    assert all(rows[what, "wall time"] > 0 for what in timed)
    assert rows["launch.py again, 20 complete", "modules of torch it imports"] == 0
    assert "20 complete" in capsys.readouterr().out
