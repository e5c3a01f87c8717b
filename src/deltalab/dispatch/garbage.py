"""What lies in the runs folder that nothing needs any more.

``plan_garbage`` only looks; ``remove`` looks again, just before, and removes what both looks agree on. A trial that
runs is never touched; one that can be resumed keeps its newest complete checkpoints.
"""

import contextlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from deltalab.data.manifest import shard_folder
from deltalab.errors import NotFoundError
from deltalab.spec.train import TrainSpec
from deltalab.study import ledger, submissions
from deltalab.track import claim
from deltalab.track.claim import alive
from deltalab.track.journal import State
from deltalab.wording import many

SETTLED_SECONDS = 3600.0
"""Snapshots, submissions and temporary files touched since then may belong to a launch that is just being made."""


class Kind(Enum):
    """What can go, and why, in the order it is shown."""

    checkpoint = "checkpoints of completed trials: the weights are in model.safetensors"
    superseded = "complete checkpoints that newer ones replace (train.keep_checkpoints of a trial stay)"
    half = "half-written checkpoints of processes that are gone"
    claim = "claims of processes that are gone"
    temporary = "temporary files of processes that are gone"
    submission = "submissions whose trials all ended, or whose shards are all there, and whose launcher is gone"
    trial = "run directories that no study names, their results included"
    snapshot = "code snapshots that no trial and no unfinished submission names"


@dataclass(frozen=True)
class Waste:
    """A file or folder that nothing needs.

    Attributes:
        path: below the runs folder.
        kind: why it can go.
        size: bytes.
        note: what else to know of it.
    """

    path: Path
    kind: Kind
    size: int
    note: str = ""


@dataclass(frozen=True)
class GarbagePlan:
    """What can go, and one line for each thing kept that a reader might have expected to go."""

    waste: list[Waste]
    kept: list[str]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(waste.size for waste in self.waste)


def plan_garbage(runs: Path, trials: bool = False) -> GarbagePlan:
    """Look for what nothing needs.

    Args:
        runs: the runs folder.
        trials: also run directories that no study names, unless they run or could be resumed.

    Raises:
        NotFoundError: there is no such folder.
    """
    if not runs.is_dir():
        raise NotFoundError(f"runs={runs}: no such folder; name another with --runs, or DELTALAB_RUNS")
    return _Look(runs, trials).plan()


def remove(runs: Path, plan: GarbagePlan, trials: bool = False) -> tuple[list[Waste], list[str]]:
    """Remove what was planned and still nothing needs.

    Args:
        runs: the runs folder.
        plan: from ``plan_garbage``.
        trials: as the plan was made.

    Returns:
        What is gone, and one line for each thing that could not be removed.
    """
    planned = {(waste.path, waste.kind) for waste in plan.waste}
    gone, failed = [], []
    for waste in plan_garbage(runs, trials).waste:
        if (waste.path, waste.kind) not in planned or _woke(runs, waste):
            continue
        try:
            _delete(waste.path)
            gone.append(waste)
        except OSError as error:
            failed.append(f"{waste.path}: {error.strerror or error}")
    return gone, failed


class _Look:
    """One look at a runs folder."""

    def __init__(self, runs: Path, trials: bool) -> None:
        self.runs = runs
        self.folders = {path.name: path for path in _inside(runs / "trials") if path.is_dir()}
        self.awake = {name for name, path in self.folders.items() if alive(path)}
        self.records = ledger.glances(runs, self.folders)
        self.waste: list[Waste] = []
        self.kept: list[str] = []
        self._doubtful = False
        self._with_trials = trials
        for path in _inside(runs / "trials"):
            if path.is_symlink() and not path.exists():  # to a disk that is not mounted, say
                self._doubt(path)
        self.studies = {name: self._cells(name) for name in ledger.list_studies(runs)}

    def plan(self) -> GarbagePlan:
        """Everything, each path once: submissions first, as unfinished ones keep trials and snapshots."""
        unfinished = self._submissions()
        busy = {trial for plain in unfinished for task in plain.get("tasks", []) for trial in task}
        gone = self._unnamed(busy) if self._with_trials else set()
        for name in sorted(self.folders.keys() - gone - self.awake):
            self._inside_trial(name)
        self._temporary()
        self._snapshots(gone, unfinished)
        order = list(Kind)
        return GarbagePlan(sorted(self.waste, key=lambda w: (order.index(w.kind), w.path)), self.kept)

    def _add(self, path: Path, kind: Kind, note: str = "") -> None:
        if not path.is_symlink():
            self.waste.append(Waste(path, kind, _bytes(path), note))

    def _cells(self, study: str) -> list[ledger.CellRecord]:
        try:
            return ledger.read_study(self.runs, study).cells
        except (OSError, ValueError, KeyError, TypeError):
            self._doubt(ledger.study_dir(self.runs, study) / "study.json")
            return []

    def _doubt(self, path: Path) -> None:
        self._doubtful = True
        self.kept.append(f"{path} cannot be read, so whatever it might name stays")

    def _submissions(self) -> list[dict]:
        """List the finished ones, return the others."""
        unfinished = []
        for folder in _inside(self.runs / submissions.FOLDER):
            if not folder.is_dir():
                continue
            plain = _read(folder / submissions.FILE)
            if plain is None:
                self._doubt(folder / submissions.FILE)
            elif alive(folder) or _age(folder) < SETTLED_SECONDS or not self._ended(plain):
                unfinished.append(plain)
                if not alive(folder):
                    self._claims(folder)
            else:
                self._add(folder, Kind.submission, f"study {plain.get('study', '?')}")
        return unfinished

    def _ended(self, submission: dict) -> bool:
        """Whether each of its trials ended after it was made; one that had ended before is to run again.

        With a follower (the job that launches the study again once it knows what tuning chose) the study must be past
        its tuning too. Of a text every shard must be there, unless the whole store is gone.
        """
        if store := submission.get("store"):
            numbers = [int(number) for task in submission["tasks"] for number in task]
            return not Path(store).exists() or all(shard_folder(Path(store), number).exists() for number in numbers)
        if submission.get("follower") and any(cell.waits for cell in self.studies.get(submission["study"], [])):
            return False
        for trial in (trial for task in submission.get("tasks", []) for trial in task):
            record = self.records.get(trial)
            gone = record is None and not ledger.trial_dir(self.runs, trial).is_symlink()
            ended = record and record.state.terminal and (record.updated or 0) >= submission.get("created", 0)
            if not (gone or ended):
                return False
        return True

    def _unnamed(self, busy: set[str]) -> set[str]:
        """List run directories that no study and no unfinished submission names; returns their names."""
        named = busy | {trial for cells in self.studies.values() for cell in cells for _, trial in cell.named_trials()}
        if self._doubtful:
            return set()
        links = {name for name, path in self.folders.items() if path.is_symlink()}
        unnamed = self.folders.keys() - named - self.awake - links
        gone = {name for name in unnamed if self.records[name].state.terminal or self._never_began(name)}
        for name in gone:
            record = self.records[name]
            step = f" at step {record.step}" if record.step else ""
            self._add(self.folders[name], Kind.trial, record.state.value + step)
        if resumable := len(unnamed - gone):
            trials = many(resumable, "trial")
            self.kept.append(f"{trials} of no study can still be resumed and stay; once cancelled they go")
        return gone

    def _never_began(self, name: str) -> bool:
        return self.records[name].state is State.planned and _age(self.folders[name]) > SETTLED_SECONDS

    def _inside_trial(self, name: str) -> None:
        """What a trial that does not run left behind."""
        folder, record = self.folders[name], self.records[name]
        self._claims(folder)
        checkpoints = folder / "checkpoints"
        if record.state is State.completed and (folder / "model.safetensors").exists() and checkpoints.is_dir():
            self._add(checkpoints, Kind.checkpoint)
            return
        for path in checkpoints.glob(".*"):
            if _age(path) > claim.STALE_SECONDS:
                self._add(path, Kind.half)
        train = (_read(folder / "config.json") or {}).get("train") or {}
        for path in sorted(checkpoints.glob("step-*"))[: -train.get("keep_checkpoints", TrainSpec.keep_checkpoints)]:
            self._add(path, Kind.superseded)

    def _claims(self, folder: Path) -> None:
        """Of a folder that is not alive, so that none of them beats."""
        for path in folder.glob(f"{claim.PREFIX}*"):
            self._add(path, Kind.claim)

    def _temporary(self) -> None:
        removed = {waste.path for waste in self.waste}
        awake = {self.folders[name] for name in self.awake}
        parents = [self.runs / name for name in ("trials", "studies", submissions.FOLDER)]
        folders = [self.runs, self.runs / "snapshots", self.runs / "timings", *parents]
        folders += [path for parent in parents for path in _inside(parent) if path not in removed | awake]
        for path in (path for folder in folders if folder.is_dir() for path in folder.glob(".*")):
            if _abandoned(path):
                self._add(path, Kind.temporary)

    def _snapshots(self, gone: set[str], unfinished: list[dict]) -> None:
        """Snapshots that neither a trial that stays nor an unfinished submission names, with the files beside them."""
        named = {plain.get("snapshot") for plain in unfinished}
        for name in self.folders.keys() - gone:
            for origin in self.folders[name].glob("provenance*.json"):
                plain = _read(origin)
                if plain is None:
                    self._doubt(origin)
                else:
                    named.add(plain.get("snapshot"))
        if self._doubtful:
            return
        for path in _inside(self.runs / "snapshots"):
            settled = time.time() - path.lstat().st_ctime > SETTLED_SECONDS  # a copy may have its source's mtime
            if path.name.split(".")[0] not in named and settled and _age(path) > SETTLED_SECONDS:
                self._add(path, Kind.snapshot)


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, without hidden files."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def _read(path: Path) -> dict | None:
    """A JSON object, or None where there is none to read."""
    try:
        plain = json.loads(path.read_text())
        return plain if isinstance(plain, dict) else None
    except (OSError, ValueError):
        return None


def _abandoned(path: Path) -> bool:
    """Whether it is a ``.NAME.PID`` that was left half-written: long ago, and its process is not on this machine."""
    match = re.fullmatch(r"\..+\.(\d+)(\.[0-9a-f]{8})?", path.name)
    return bool(match) and _age(path) > SETTLED_SECONDS and not Path(f"/proc/{match[1]}").exists()


def _woke(runs: Path, waste: Waste) -> bool:
    """Whether a process has taken the trial or the submission since the look."""
    parts = waste.path.relative_to(runs).parts
    return len(parts) > 1 and parts[0] in ("trials", "submissions") and alive(runs / parts[0] / parts[1])


def _delete(path: Path) -> None:
    """Remove a file or a folder; a folder first gets a temporary name, so that no half of it is ever taken for it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}")
    path.rename(aside)
    shutil.rmtree(aside)


def _walk(path: Path) -> Iterator[os.stat_result]:
    with contextlib.suppress(OSError):
        yield path.lstat()
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(OSError):
                yield (Path(folder) / name).lstat()


def _bytes(path: Path) -> int:
    return sum(found.st_size for found in _walk(path) if stat.S_ISREG(found.st_mode))


def _age(path: Path) -> float:
    """Seconds since anything of it was written."""
    return time.time() - max((found.st_mtime for found in _walk(path)), default=time.time())
