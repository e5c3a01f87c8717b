"""Prepare a text: documents → tokens, a piece a shard, in as many processes as wanted and on as many machines.

Every file is a pure function of the plan: a shard that is there is whole and final, one that is not is made again, so
that whatever was interrupted ends with the same bytes.
"""

import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltalab.data.cache import build_once
from deltalab.data.manifest import MANIFEST, PLAN, TOKEN_BYTES, settled_paths, shard_folder, source_of, store_folder
from deltalab.data.sources import Piece, cut, pinned_revision, read
from deltalab.data.tokens import TOKENIZER, Encoder, load_encoder, make_encoder
from deltalab.errors import DeltalabError, DiskFull, UsageError
from deltalab.spec.data import TextSpec, Tokenizer

SPLITS = ("train", "validation", "test")
FORMAT = 1
"""Of a store's files; one of another format is refused."""
TOGETHER = 256
"""Documents tokenised at a time."""
LEARNING = 2**26
"""Bytes of train documents that a BPE learns from: the first ones."""

Report = Callable[[int, int], None]
"""Told bytes of text done and in all, from time to time."""


def document_split(key: str, held_out: float) -> str:
    """The split a document belongs to, from the hash of its name or text alone.

    Args:
        key: the name or the text.
        held_out: percent of the documents in validation and in test each.
    """
    whole, percent = divmod(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]), 100)
    place = percent + whole % 10**6 / 10**6
    return "validation" if place < held_out else "test" if place < 2 * held_out else "train"


def prepare(
    spec: TextSpec, share: tuple[int, int] = (1, 1), workers: int = 1, report: Report = lambda done, total: None
) -> Path:
    """Make the store of a text, or this process's share of it.

    Args:
        spec: the text.
        share: (i, n) makes every n-th shard from the i-th on, i from 1; whoever is last writes the manifest.
        workers: processes; 1 works in this one.
        report: told how far the share is.

    Returns:
        The store's folder; it is complete if it holds a manifest.

    Raises:
        ConfigError: the text or the tokenizer is not there.
        UsageError: the store was begun from something else.
        DiskFull: there is no room for it.
    """
    spec = settled_paths(spec)
    store = begin(spec)
    if not (store / MANIFEST).is_file():
        numbers = range(share[0] - 1, len(planned_pieces(store)), share[1])
        make_shards(spec, store, numbers, workers, report)
    return store


def begin(spec: TextSpec) -> Path:
    """Lay down a store's plan and tokenizer, unless they are there; every process that makes shards goes by them.

    Returns:
        The store's folder.

    Raises:
        ConfigError, UsageError, DiskFull: see ``prepare``.
    """
    spec = settled_paths(spec)
    store = store_folder(spec)
    if not (store / MANIFEST).is_file():
        with _failures_told(store):
            _plan(spec, store)
    return store


def make_shards(
    spec: TextSpec,
    store: Path,
    numbers: Sequence[int],
    workers: int = 1,
    report: Report = lambda done, total: None,
) -> None:
    """Make shards of a store that was begun; whoever makes the last one writes the manifest.

    Args:
        spec: the text.
        store: from ``begin``.
        numbers: of the shards; those that are there are left as they are.
        workers: processes; 1 works in this one.
        report: told how far it is.

    Raises:
        DiskFull: there is no room left.
        DeltalabError: a document cannot be read, or a process was killed.
    """
    pieces = planned_pieces(store)
    total, done = sum(pieces[number].size for number in numbers), 0
    with _failures_told(store):
        for number in _made(spec, store, pieces, list(numbers), workers):
            done += pieces[number].size
            report(done, total)
        finish(store)


def finish(store: Path) -> None:
    """Write the manifest of a store that has all its shards and none yet; leave any other as it is."""
    if not missing_shards(store):
        build_once(store / MANIFEST, partial(_write_manifest, store))


def planned_pieces(store: Path) -> list[Piece]:
    """The pieces of a store that was begun, a shard each."""
    pieces = json.loads((store / PLAN).read_text())["pieces"]
    return [Piece(parts=[(file, first, last) for file, first, last in p["parts"]], size=p["size"]) for p in pieces]


def missing_shards(store: Path) -> list[int]:
    """Numbers of the shards that a store that was begun does not have yet."""
    return [number for number in range(len(planned_pieces(store))) if not shard_folder(store, number).exists()]


@contextlib.contextmanager
def _failures_told(store: Path) -> Iterator[None]:
    """A full disk and a killed process in one line with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"{store}: the disk is full; make room, or set DELTALAB_DATA to another, and run again"
        ) from error
    except BrokenProcessPool as error:
        raise DeltalabError(
            f"{store}: a process was killed (out of memory?); run again, or with fewer --workers"
        ) from error


def clear_left(store: Path) -> None:
    """Remove what killed processes left half-made; nobody may be preparing the store."""
    for left in store.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def _plan(spec: TextSpec, store: Path) -> None:
    """Cut the text into pieces; lay down the plan, and before it the tokenizer, so that a plan has one.

    A data set of the hub that was begun without a revision goes on with the one that was the newest then.
    """
    begun = planned_pieces(store) if (store / PLAN).is_file() else []
    pieces = cut(replace(spec, hub_revision=spec.hub_revision or pinned_revision(begun)))
    _check_room(spec, store, pieces)

    def learn(folder: Path) -> None:
        folder.mkdir()
        encoder = make_encoder(spec, lambda: _to_learn_from(spec, pieces))
        encoder.save(folder)
        np.save(folder / TOKEN_BYTES, encoder.token_bytes)
        file = folder / TOKENIZER
        said = {
            "kind": spec.tokenizer.value,
            "vocab_size": encoder.vocab_size,
            "dtype": encoder.dtype.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
            "token_bytes_sha256": hashlib.sha256((folder / TOKEN_BYTES).read_bytes()).hexdigest(),
            "bos": spec.bos,
            "eos": spec.eos if spec.tokenizer is Tokenizer.given else f"id {encoder.end}",
        }
        (folder / "said.json").write_text(_json(said))

    build_once(store / "tokenizer", learn)
    plan = _json({"format": FORMAT, "source": source_of(spec), "pieces": [asdict(piece) for piece in pieces]})
    written = build_once(store / PLAN, partial(_write, text=plan)).read_text()
    if written != plan:
        raise UsageError(
            f"{store}: was begun from other files or another revision (see its plan.json); prepare from those, or "
            "remove the folder to begin again"
        )


def _check_room(spec: TextSpec, store: Path, pieces: list[Piece]) -> None:
    """Refuse what cannot fit: 2 bytes a token, a token for each byte, or for three of them with a vocabulary."""
    missing = [piece.size for number, piece in enumerate(pieces) if not shard_folder(store, number).exists()]
    need = sum(missing) * 2 // (1 if spec.tokenizer is Tokenizer.bytes else 3)
    root = next(folder for folder in store.parents if folder.exists())
    free = shutil.disk_usage(root).free
    if need > free:
        sizes = f"about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        raise DiskFull(f"{root}: {sizes}; set DELTALAB_DATA to a folder with more room")


def _to_learn_from(spec: TextSpec, pieces: list[Piece]) -> Iterator[str]:
    size = 0
    for piece in pieces:
        for key, text in read(spec, piece):
            if document_split(key, spec.held_out) == "train":
                size += len(text)
                yield text
                if size >= LEARNING:
                    return


def _made(spec: TextSpec, store: Path, pieces: list[Piece], numbers: list[int], workers: int) -> Iterator[int]:
    """Make shards; gives the number of each that is there, as they get done."""
    left = []
    for number in numbers:
        if shard_folder(store, number).exists():
            yield number
        else:
            left.append(number)
    if workers == 1 or len(left) < 2:
        for number in left:
            make_shard(spec, store, number, pieces[number])
            yield number
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(left)), context, initializer=begin_worker) as pool:
        futures = {pool.submit(make_shard, spec, store, number, pieces[number]): number for number in left}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def begin_worker() -> None:
    """In a process of the pool: one thread of tokenizing each, and an end with whoever began it, also by kill -9."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def make_shard(spec: TextSpec, store: Path, number: int, piece: Piece) -> None:
    """Tokenise a piece into its shard, whole or not at all."""
    build_once(shard_folder(store, number), partial(_write_shard, spec, store, piece))


def _write_shard(spec: TextSpec, store: Path, piece: Piece, folder: Path) -> None:
    encoder = _encoder(spec, store / "tokenizer")
    parts: dict[str, list[NDArray[np.integer]]] = {split: [] for split in SPLITS}
    digest = hashlib.sha256()
    documents = read(spec, piece)
    while batch := list(islice(documents, TOGETHER)):
        for (key, text), ids in zip(batch, encoder.encode([text for _, text in batch]), strict=True):
            digest.update(hashlib.sha256(text.encode()).digest())
            parts[document_split(key, spec.held_out)].append(ids)
    folder.mkdir()
    said = {split: _write_split(folder, split, parts[split], encoder.dtype) for split in SPLITS}
    _write(folder / "shard.json", _json({"text_sha256": digest.hexdigest(), "splits": said}))


def _write_split(folder: Path, split: str, parts: list[NDArray[np.integer]], dtype: np.dtype) -> dict[str, Any]:
    """Write a shard's tokens and the places where its documents begin; returns counts and checksums."""
    tokens = np.concatenate([np.empty(0, dtype), *parts])
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)[:-1]
    said: dict[str, Any] = {"tokens": len(tokens), "documents": len(parts)}
    for name, array in ((f"{split}.npy", tokens), (f"{split}.documents.npy", starts)):
        with (folder / name).open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        with (folder / name).open("rb") as file:
            said[f"sha256/{name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return said


def _write_manifest(store: Path, file: Path) -> None:
    plan = json.loads((store / PLAN).read_text())
    names = [shard_folder(store, number).name for number in range(len(plan["pieces"]))]
    shards = [{"name": name, **json.loads((store / name / "shard.json").read_text())} for name in names]
    texts = "".join(shard["text_sha256"] for shard in shards)
    totals = {
        split: {key: sum(shard["splits"][split][key] for shard in shards) for key in ("tokens", "documents")}
        for split in SPLITS
    }
    source = plan["source"]
    manifest = {
        "format": FORMAT,
        "source": source,
        "revision": source["hub_revision"] or pinned_revision(planned_pieces(store)),
        "files": list(dict.fromkeys(part[0] for piece in plan["pieces"] for part in piece["parts"])),
        "tokenizer": json.loads((store / "tokenizer" / "said.json").read_text()),
        "corpus_sha256": source["corpus_sha256"] or hashlib.sha256(texts.encode()).hexdigest(),
        "splits": totals,
        "shards": shards,
    }
    _write(file, _json(manifest))


@lru_cache(maxsize=1)
def _encoder(spec: TextSpec, folder: Path) -> Encoder:
    return load_encoder(spec, folder)


def _write(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _json(plain: Any) -> str:
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"
