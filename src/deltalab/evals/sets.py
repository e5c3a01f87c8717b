"""The data sets of the paper's tables: what they are called on the hub, and the folders they are kept in.

FOLDER/piqa/piqa.parquet      the rows of the split that is measured
FOLDER/piqa/manifest.json     hub name, configuration, split, revision, rows, SHA-256 of the parquet file

``deltalab prepare-eval`` fills such a folder where the hub can be reached; without one an evaluation fills that of the
cache. A data set that is there is whole and final, so whatever was interrupted goes on with those that are missing.
"""

import contextlib
import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deltalab.data.cache import build_once, cache_root
from deltalab.errors import ConfigError, DeltalabError, DiskFull
from deltalab.spec.suite import Suite

MANIFEST = "manifest.json"
SECONDS = 20.0
"""How long the hub has to say which revision is the newest."""


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """A data set of the hub.

    Attributes:
        hub: its name there.
        config: its configuration; None takes the default one.
        split: the split that is measured.
    """

    hub: str
    config: str | None = None
    split: str = "validation"


class OutOfReach(DeltalabError):
    """A data set cannot be had.

    Args:
        wanted: which.
        cause: what the hub or the network said.
    """

    def __init__(self, wanted: HubSet, cause: str) -> None:
        self.wanted, self.cause = wanted, cause
        super().__init__(f"{wanted.hub}, split {wanted.split}: {cause}")


LANGUAGE = {
    "wikitext": HubSet(hub="EleutherAI/wikitext_document_level", config="wikitext-2-raw-v1", split="test"),
    "lambada_openai": HubSet(hub="EleutherAI/lambada_openai", config="default", split="test"),
    "piqa": HubSet(hub="baber/piqa"),
    "hellaswag": HubSet(hub="Rowan/hellaswag"),
    "winogrande": HubSet(hub="allenai/winogrande", config="winogrande_xl"),
    "arc_easy": HubSet(hub="allenai/ai2_arc", config="ARC-Easy", split="test"),
    "arc_challenge": HubSet(hub="allenai/ai2_arc", config="ARC-Challenge", split="test"),
    "openbookqa": HubSet(hub="allenai/openbookqa", config="main", split="test"),
    "social_iqa": HubSet(hub="lighteval/siqa"),
    "boolq": HubSet(hub="aps/super_glue", config="boolq"),
}
"""Of Table 2, by lm-eval's names of its tasks."""
READ_TWICE = {
    "swde": HubSet(hub="hazyresearch/based-swde-v2", config="default"),
    "squad": HubSet(hub="hazyresearch/based-squad", config="default"),
    "fda": HubSet(hub="hazyresearch/based-fda", config="default"),
    "triviaqa": HubSet(hub="hazyresearch/based_triviaqa"),
    "nq": HubSet(hub="hazyresearch/based_nq_2048"),
    "drop": HubSet(hub="hazyresearch/based_drop"),
}
"""Of Table 4."""
ESSAYS = {"essays": HubSet(hub="baber/paul_graham_essays", split="train")}
"""RULER's haystack."""
SETS: dict[Suite, dict[str, HubSet]] = {Suite.table2: LANGUAGE, Suite.table3: ESSAYS, Suite.table4: READ_TWICE}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A data set that is on this machine.

    Attributes:
        file: its rows, parquet.
        manifest: hub, config, split, revision, rows, sha256.
    """

    file: Path
    manifest: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its rows."""
        return {key: self.manifest[key] for key in ("hub", "config", "split", "revision")}


def find(name: str, data_dir: str | None) -> Kept:
    """A data set from a prepared folder; without one from the cache, downloaded when it is first asked for.

    Args:
        name: a key of one of ``SETS``.
        data_dir: what ``deltalab prepare-eval`` made.

    Raises:
        ConfigError: the folder does not hold it or it has changed; without a folder, the hub is out of reach.
        DiskFull: there is no room for it.
    """
    command = f"deltalab prepare-eval suite={next(suite.value for suite, sets in SETS.items() if name in sets)} out=DIR"
    if data_dir is None:
        try:
            return keep(name, cache_root() / "eval")
        except OutOfReach as error:
            said = f"a folder that {command} made where the hub can be reached ({error})"
            raise ConfigError("data_dir", "null", said) from error
    try:
        return _read(Path(data_dir) / name)
    except FileNotFoundError as error:
        raise ConfigError("data_dir", data_dir, f"a folder that {command} made; {name} is not in this one") from error


def keep(name: str, folder: Path) -> Kept:
    """Download a data set unless it is there.

    Args:
        name: a key of one of ``SETS``.
        folder: where it is kept, in a folder of its own.

    Raises:
        OutOfReach: it cannot be had.
        ConfigError: what is there has changed.
        DiskFull: there is no room for it.
    """
    try:
        return _read(build_once(folder / name, partial(_download, _set(name))))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(f"{folder}: the disk is full; make room and run again, it goes on from what is there") from error


def _set(name: str) -> HubSet:
    return next(sets[name] for sets in SETS.values() if name in sets)


def _read(folder: Path) -> Kept:
    manifest = json.loads((folder / MANIFEST).read_text())
    file = folder / f"{folder.name}.parquet"
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != manifest["sha256"]:
            raise ConfigError("data_dir", file, f"as it was prepared: its SHA-256 is no longer {manifest['sha256']}")
    return Kept(file=file, manifest=manifest)


def _download(wanted: HubSet, folder: Path) -> None:
    """Write rows and manifest into a new folder.

    Raises:
        OutOfReach: see ``keep``.
    """
    from datasets import load_dataset
    from huggingface_hub import HfApi

    folder.mkdir()
    file = folder / f"{folder.name}.parquet"
    scratch = folder.parent / "scratch"  # goes with the unfinished folder; downloads stay in the hub's own cache
    try:
        with quiet():
            # asked for here first, where the client gives up at once: datasets goes on trying for half a minute
            revision = HfApi().dataset_info(wanted.hub, timeout=SECONDS).sha
            rows: Any = load_dataset(
                wanted.hub, wanted.config, split=wanted.split, revision=revision, cache_dir=str(scratch)
            )
            rows.to_parquet(file)
    except Exception as error:  # whatever datasets, the hub and the network raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfReach(wanted, " ".join(str(error).split())[:160] or type(error).__name__) from error
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    said = {"hub": wanted.hub, "config": wanted.config, "split": wanted.split, "revision": revision}
    said |= {"rows": len(rows), "sha256": digest}
    (folder / MANIFEST).write_text(json.dumps(said, indent=1) + "\n")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and retries that ``datasets`` and the hub's client show."""
    import datasets

    logger = logging.getLogger("huggingface_hub")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
