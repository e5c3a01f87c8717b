"""The orchestration benchmark at toy size, and its verdict; the times themselves are not tested."""

import json
from pathlib import Path

import pytest

from benchmarks.orchestration import __main__ as orchestration
from benchmarks.orchestration.rows import Row

SLOW = Row(what="deltalab status, 1,000 complete", figure="wall time", unit="s", ours=2.5, most=2.0)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (SLOW, "2.5 s; must be at most 2 s"),
        (Row(what="plan", figure="wall time", unit="s", ours=10.0, most=10.0), None),
        (Row(what="Slurm", figure="calls", ours=3, peer=1, most=2), "3; must be at most 2"),
        (Row(what="Slurm", figure="calls", ours=2, peer=1, most=2), None),
        (
            Row(what="pool", figure="wall", unit="ms", ours=600, peer=500, beats=True),
            "must not be more than the peer's",
        ),
        (Row(what="pool", figure="wall", unit="ms", ours=500, peer=500, beats=True), None),
        (Row(what="pool", figure="wall", unit="ms", ours=600, beats=True), None),
    ],
)
def test_what_is_missed(row: Row, said: str | None):
    line = row.shortfall()
    assert (said in line if line and said else line == said) and (line is None or row.what in line)


@pytest.mark.parametrize("slow", [False, True])
def test_a_missed_promise_fails_and_is_named(
    slow: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        orchestration, "measure", lambda *_: [[SLOW if slow else SLOW.__class__(what="a", figure="b", ours=1)]]
    )
    assert orchestration.main(["--only", "status"]) == slow
    assert ("deltalab status, 1,000 complete, wall time: 2.5 s" in capsys.readouterr().err) == slow


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
