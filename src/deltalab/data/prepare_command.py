"""``deltalab prepare``: which text, how far it is, what came out."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from deltalab.data.manifest import MANIFEST
from deltalab.data.prepare import SPLITS, clear_left, prepare
from deltalab.errors import ConfigError
from deltalab.spec.data import TextSpec
from deltalab.spec.load import compose, trial_spec


def run_prepare(overrides: Sequence[str], shard: str | None, workers: int | None, as_json: bool) -> None:
    """Prepare the text that overrides choose and say what is there.

    Args:
        overrides: Hydra overrides, as ``python launch.py`` takes them.
        shard: ``i/n`` for the i-th of n shares, i from 1; everything when left out.
        workers: processes; a core each when left out.
        as_json: print the totals as JSON.

    Raises:
        UsageError: see ``deltalab.data.prepare.prepare``; a task that is no text, a share that is none.
    """
    spec = trial_spec(compose(overrides)).data
    if not isinstance(spec, TextSpec):
        chosen = next((part.partition("=")[2] for part in overrides if part.startswith("data=")), "parity")
        raise ConfigError("data", chosen, "a text: text, fineweb_edu, or data=text with data.files or data.hub")
    share = read_share(shard)
    if workers is not None and workers < 1:
        raise ConfigError("--workers", workers, "a whole number from 1")
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("tokens", total=None)
        store = prepare(
            spec, share, workers or _cores(), lambda done, total: bar.update(task, completed=done, total=total)
        )
    if share == (1, 1):
        clear_left(store)
    _tell(store, as_json)


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
        pieces = len(json.loads((store / "plan.json").read_text())["pieces"])
        there = len(list(store.glob("shard-*")))
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
