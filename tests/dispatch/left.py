"""A runs folder as trials, launches and time leave it."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from deltalab.dispatch import garbage
from deltalab.study import ledger
from deltalab.track.journal import Journal, State

LONG_AGO = time.time() - 10 * garbage.SETTLED_SECONDS


def write(path: Path, content: str = "x" * 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def age(path: Path) -> Path:
    for each in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.utime(each, (LONG_AGO, LONG_AGO))
    return path


def trial(runs: Path, name: str, *states: State, snapshot: str | None = None) -> Path:
    """A run directory with two complete checkpoints, a half-written one, and weights where it completed."""
    folder = ledger.trial_dir(runs, name)
    write(folder / "config.json", "{}")
    write(folder / "provenance.json", json.dumps({"commit": "c", "snapshot": snapshot}))
    for state in states:
        Journal(folder).state(state, step=200)
    if states:
        for step in (100, 200):
            write(folder / f"checkpoints/step-{step:08d}/model.safetensors")
        age(write(folder / "checkpoints/.part-00000300-1/model.safetensors").parent)
    if State.completed in states:
        write(folder / "model.safetensors")
    return folder


def study(runs: Path, *trials: str, tuning: dict[str, dict[int, str]] | None = None) -> None:
    cell = ledger.CellRecord(name="a", levels={}, overrides={}, trials=dict(enumerate(trials)), tuning=tuning or {})
    record = ledger.StudyRecord(
        study={"name": "ask"}, cells=[cell], created=0.0, command="", provenance={}, launcher={}, tracking={}
    )
    write(ledger.study_dir(runs, "ask") / "study.json", json.dumps(asdict(record)))


def submission(runs: Path, token: str, *trials: str, snapshot: str = "s", **others: object) -> Path:
    plain = {"token": token, "study": "ask", "created": 0.0, "snapshot": snapshot, "tasks": [[t] for t in trials]}
    return age(write(runs / "submissions" / token / "submission.json", json.dumps(plain | others)).parent)


def everything(runs: Path) -> list[Path]:
    return sorted(runs.rglob("*"))
