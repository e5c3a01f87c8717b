"""Read a prepared text: the shards of a split as one long stream of tokens, memory-mapped."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPEN = 256
"""Shards held open at a time, with two files each; a process may open about a thousand."""


class TokenStream:
    """All tokens of a split, the shards one after the other, and where documents begin.

    Args:
        store: a complete store, or one that has these shards.
        split: train, validation or test.
        shards: records of shards, name and splits; the manifest's when left out.
    """

    def __init__(self, store: Path, split: str, shards: Sequence[dict[str, Any]] | None = None) -> None:
        known = json.loads((store / "manifest.json").read_text())["shards"] if shards is None else shards
        counted = [(store / shard["name"], shard["splits"][split]["tokens"]) for shard in known]
        self._folders = [folder for folder, tokens in counted if tokens]
        self._bounds = np.cumsum([0, *(tokens for _, tokens in counted if tokens)], dtype=np.int64)
        self._split = split
        self._load = lru_cache(maxsize=2 * OPEN)(self._mapped)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def _mapped(self, shard: int, name: str) -> NDArray[np.integer]:
        return np.load(self._folders[shard] / f"{self._split}{name}", mmap_mode="r")

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens ``start`` to ``stop`` (exclusive), fewer where the stream ends before."""
        stop = min(stop, len(self))
        tokens = np.empty(stop - start, dtype=np.int64)
        for shard, first, last in self._shards(start, stop):
            begin = self._bounds[shard]
            part = self._load(shard, ".npy")[max(0, start - begin) : stop - begin]
            tokens[first:last] = part
        return tokens

    def starts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Which of the tokens ``start`` to ``stop`` begin a document, counted from ``start``."""
        found = []
        for shard, _, _ in self._shards(start, min(stop, len(self))):
            begin = self._bounds[shard]
            places = self._load(shard, ".documents.npy")
            low, high = np.searchsorted(places, [start - begin, stop - begin])
            found.append(places[low:high] + (begin - start))
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def _shards(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Shards that have a part of ``start`` to ``stop``, and which part it is, counted from ``start``."""
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        parts = []
        while first < len(self._folders) and (begin := int(self._bounds[first])) < stop:
            end = int(self._bounds[first + 1])
            parts.append((first, max(begin - start, 0), min(end, stop) - start))
            first += 1
        return parts
