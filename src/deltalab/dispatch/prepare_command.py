"""``deltalab prepare``: which text, here or by an array, how far it is, whether it is whole, what came out."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deltalab.data.manifest import MANIFEST, store_folder
from deltalab.data.prepare import SPLITS, Report, clear_left, missing_shards, planned_pieces, prepare
from deltalab.data.verify import verify
from deltalab.dispatch.prepare_array import standing, submit_prepare
from deltalab.errors import ConfigError, UsageError
from deltalab.spec.data import TextSpec
from deltalab.spec.launcher import Kind, LauncherSpec, SlurmSpec
from deltalab.spec.load import compose, launcher, trial_spec
from deltalab.wording import many


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for.

    Attributes:
        overrides: Hydra overrides, as ``python launch.py`` takes them, and of the launcher.
        runs: the runs folder, where submissions are kept.
        shard: ``i/n`` for the i-th of n shares, i from 1; everything when left out.
        workers: processes; the launcher's, or a core each, when left out.
        status: only say how far it is.
        verify: only hold what is there against its checksums.
        as_json: print the outcome as JSON.
    """

    overrides: Sequence[str]
    runs: Path
    shard: str | None = None
    workers: int | None = None
    status: bool = False
    verify: bool = False
    as_json: bool = False


def run_prepare(request: Request) -> None:
    """Prepare the text that overrides choose, or look after it, and say what is there.

    Raises:
        UsageError: see ``deltalab.data.prepare.prepare``; a task that is no text, a share that is none.
        DeltalabError: a store is not what was written.
    """
    how = launcher([part for part in request.overrides if part.startswith("hydra")])
    spec = _text([part for part in request.overrides if not part.startswith("hydra")])
    share, workers = read_share(request.shard), _workers(request.workers, how)
    if request.status and request.verify:
        raise UsageError("--status: allowed without --verify")
    if request.status:
        now = standing(spec, request.runs)
        print(json.dumps(now.json(), indent=1) if request.as_json else "\n".join(now.lines()))
    elif request.verify:
        with _bar("bytes") as report:
            files = verify(store := store_folder(spec), workers, report)
        said = {"store": str(store), "files": files, "whole": True}
        line = f"{store}: {many(files, 'file', 'is', 'are')} as written"
        print(json.dumps(said, indent=1) if request.as_json else line)
    elif isinstance(how, SlurmSpec):
        if request.shard or request.workers:
            given = "--shard" if request.shard else "--workers"
            raise UsageError(f"{given}: allowed without hydra/launcher=slurm, whose tasks share the work by themselves")
        submit_prepare(spec, how, request.runs, Console(stderr=request.as_json, soft_wrap=True, highlight=False).print)
        if request.as_json:
            print(json.dumps(standing(spec, request.runs).json(), indent=1))
    else:
        with _bar("tokens") as report:
            store = prepare(spec, share, workers, report)
        if share == (1, 1):
            clear_left(store)
        _tell(store, request.as_json)


def _text(overrides: list[str]) -> TextSpec:
    spec = trial_spec(compose(overrides)).data
    if not isinstance(spec, TextSpec):
        chosen = next((part.partition("=")[2] for part in overrides if part.startswith("data=")), "parity")
        raise ConfigError("data", chosen, "a text: text, fineweb_edu, or data=text with data.files or data.hub")
    return spec


def _workers(asked: int | None, how: LauncherSpec) -> int:
    if asked is not None and asked < 1:
        raise ConfigError("--workers", asked, "a whole number from 1")
    return asked or how.workers or (1 if how.kind is Kind.inline else _cores())


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Report]:
    """A bar on a terminal; what it gives is told how far things are."""
    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def read_share(text: str | None) -> tuple[int, int]:
    """``i/n`` as (i, n); (1, 1) for None.

    Raises:
        ConfigError: it is no share.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text or "1/1")
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError("--shard", text, "i/n with i from 1 to n, as in 3/16")
    return int(match[1]), int(match[2])


def _tell(store: Path, as_json: bool) -> None:
    file = store / MANIFEST
    if not file.is_file():
        pieces = len(planned_pieces(store))
        there = pieces - len(missing_shards(store))
        said = {"store": str(store), "complete": False, "shards": there, "of": pieces}
        line = f"{store}: {there} of {pieces} shards are there; the other shares make the rest"
    else:
        manifest: dict[str, Any] = json.loads(file.read_text())
        said = {"store": str(store), "complete": True, "splits": manifest["splits"], "tokenizer": manifest["tokenizer"]}
        counts = [f"{split} {manifest['splits'][split]['tokens']:,}" for split in SPLITS]
        documents = sum(manifest["splits"][split]["documents"] for split in SPLITS)
        line = f"{store}: {documents:,} documents; tokens: {', '.join(counts)}"
    print(json.dumps(said, indent=1) if as_json else line)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
