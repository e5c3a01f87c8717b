"""A text that is not prepared before: its tokens are made while a trial trains, a shard ahead of where it reads.

    files → pieces, in an order of their own in every epoch → shard → windows, in an order of their own → batches

The shards are those of ``deltalab prepare``, made by the same function and kept in the same store; once all of them are
there, the store is prepared. Window number n of all epochs laid end to end follows from the text, the seed and n alone,
so batches are the same for any number of ranks, workers or restarts: a process that begins at step s looks up how many
windows the shards before have, and makes those that are gone. A shard's last token predicts nothing.
"""

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
from bisect import bisect_right
from dataclasses import replace
from functools import lru_cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import Batch
from deltalab.data.generated import Stream, generator
from deltalab.data.manifest import DECIDING, PLAN, shard_folder, store_folder
from deltalab.data.prepare import begin, begin_worker, make_shards, planned_pieces
from deltalab.data.store import TokenStream
from deltalab.data.text import TextTask, refuse_short, windows_of
from deltalab.errors import ConfigError, DeltalabError
from deltalab.spec.data import TextSpec, Tokenizer


class StreamedText(TextTask):
    """A text whose shards are made as they are read.

    Args:
        spec: text, tokenizer and lengths.
        seed: of the order of shards and of their windows.

    Raises:
        ConfigError: the text is not there, or is another one than the spec says.
    """

    def __init__(self, spec: TextSpec, seed: int) -> None:
        store = store_folder(spec)
        if (
            spec.corpus_sha256 is None or not (store / PLAN).is_file()
        ):  # else the plan is what the trial was resolved to
            begin(spec)
        _refuse_other(spec, store)
        super().__init__(spec, seed, store)
        self._shards = _Shards(spec, store)
        self._course = _Course(self._shards, seed, spec.train_length)
        self._stream = lru_cache(maxsize=4)(lambda shard: TokenStream(store, "train", [self._shards.record(shard)]))

    def train_batch(self, step: int, rows: int) -> Batch:
        """See ``TextTask.train_batch``."""
        places = [self._course.locate(number) for number in range(step * rows, (step + 1) * rows)]
        return self._windows([(self._stream(shard), window) for shard, window in places], self.spec.train_length)

    def _held_out(self, sequences: int) -> TokenStream:
        """The validation documents of the first shards, as many as are needed: the same for every seed and cell."""
        records: list[dict[str, Any]] = []
        wanted, tokens = sequences * self.spec.test_length, 0
        while tokens <= wanted and len(records) < len(self._shards):
            records.append(self._shards.record(len(records)))
            tokens += records[-1]["splits"]["validation"]["tokens"]
        stream = TokenStream(self.store, "validation", records)
        refuse_short("test_length", self.spec.test_length, stream)
        return stream


class _Course:
    """Which window of which shard is read when."""

    def __init__(self, shards: "_Shards", seed: int, length: int) -> None:
        self._shards, self._seed, self._length = shards, seed, length
        self._begin(0, 0)

    def locate(self, number: int) -> tuple[int, int]:
        """(shard, window in it) of a window of all epochs; the shard is there, and the next one is being made."""
        if number < self._first:
            self._begin(0, 0)
        while (place := bisect_right(self._ends, number - self._first)) == len(self._ends):
            self._look_further()
        shard = int(self._order[place])
        if place + 1 < len(self._order):
            self._shards.make_ahead(int(self._order[place + 1]))
        return shard, int(self._window_order(place)[number - self._first - (self._ends[place - 1] if place else 0)])

    def _begin(self, epoch: int, first: int) -> None:
        self._epoch, self._first = epoch, first
        self._ends: list[int] = []  # windows up to each shard in the epoch's order, as far as it was looked
        self._order = generator(Stream.shards, self._seed, epoch).permutation(len(self._shards))

    def _look_further(self) -> None:
        """One shard on, or into the next epoch."""
        before = self._ends[-1] if self._ends else 0
        if len(self._ends) < len(self._order):
            self._ends.append(before + self._windows(int(self._order[len(self._ends)])))
        elif before:
            self._begin(self._epoch + 1, self._first + before)
        else:
            raise ConfigError("data.train_length", self._length, "a longer text's")

    def _windows(self, shard: int) -> int:
        return windows_of(self._shards.record(shard)["splits"]["train"]["tokens"], self._length)

    def _window_order(self, place: int) -> NDArray[np.int64]:
        shard = int(self._order[place])
        return _permuted(self._seed, self._epoch * len(self._order) + shard, self._windows(shard))


class _Shards:
    """The shards of a store that grows; of several processes one makes a shard, the others wait for it."""

    def __init__(self, spec: TextSpec, store: Path) -> None:
        self._spec, self._store, self._count = spec, store, len(planned_pieces(store))
        self._ahead: BaseProcess | None = None
        self.record = lru_cache(maxsize=None)(self._record)

    def __len__(self) -> int:
        return self._count

    def _record(self, number: int) -> dict[str, Any]:
        """Name, counts and checksums of a shard, which is made if it is not there."""
        make_alone(self._spec, self._store, number)
        folder = shard_folder(self._store, number)
        return {"name": folder.name, **json.loads((folder / "shard.json").read_text())}

    def make_ahead(self, number: int) -> None:
        """Have a shard made in a process of its own, one at a time; it ends with this one."""
        if shard_folder(self._store, number).exists() or (self._ahead is not None and self._ahead.is_alive()):
            return
        context = multiprocessing.get_context("spawn")
        self._ahead = context.Process(target=_make_in_process, args=(self._spec, self._store, number), daemon=True)
        self._ahead.start()


def make_alone(spec: TextSpec, store: Path, number: int) -> None:
    """Make a shard unless it is there or another process on this file system is about to have it made.

    Raises:
        DiskFull, DeltalabError: see ``make_shards``.
    """
    if shard_folder(store, number).exists():
        return
    lock = store / f".lock-{number:05d}"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # which the system lets go if this process is killed
        make_shards(spec, store, [number])
        lock.unlink(missing_ok=True)


def settled_stream(spec: TextSpec) -> TextSpec:
    """The spec with everything that is known of a streamed text before it is read; its files are looked for.

    Raises:
        ConfigError: the text or the tokenizer is not there, or is another one.
    """
    store = _begun(TextSpec(**{key: getattr(spec, key) for key in (*DECIDING, "bpe_vocab", "streaming")}))
    _refuse_other(spec, store)
    said = json.loads((store / "tokenizer" / "said.json").read_text())
    given = spec.tokenizer is Tokenizer.given
    return replace(
        spec,
        corpus_sha256=_plan_sha256(store),
        tokenizer_sha256=said["sha256"] if given else None,
        tokenizer_vocab=said["vocab_size"] if given else None,
    )


@lru_cache(maxsize=16)
def _begun(spec: TextSpec) -> Path:
    """``begin``, once a process for all cells of a study, since it looks into every file."""
    return begin(spec)


def _refuse_other(spec: TextSpec, store: Path) -> None:
    found = _plan_sha256(store)
    if spec.corpus_sha256 not in (None, found):
        allowed = f"{found} or null: names and sizes of the files, which are others now"
        raise ConfigError("data.corpus_sha256", spec.corpus_sha256, allowed)


def _plan_sha256(store: Path) -> str:
    """SHA-256 of what is read in which pieces: of the hub the address with its commit, of files here the name."""
    pieces = [
        [[file if "://" in file else Path(file).name, first, last] for file, first, last in piece.parts] + [piece.size]
        for piece in planned_pieces(store)
    ]
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()


def _make_in_process(spec: TextSpec, store: Path, number: int) -> None:
    """What fails here fails again where the shard is read, and is told there."""
    begin_worker()
    with contextlib.suppress(DeltalabError, OSError):
        make_alone(spec, store, number)


@lru_cache(maxsize=4)
def _permuted(seed: int, step: int, windows: int) -> NDArray[np.int64]:
    return generator(Stream.shard_windows, seed, step).permutation(windows)
