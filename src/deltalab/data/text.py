"""Text: next-token prediction on a corpus that is on every machine.

    documents → parquet, split by name → tokens, an end after each document → one flat stream → windows

Documents and streams are made once and lie in the cache, named by the corpus' hash; streams are memory-mapped.
"""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import Batch
from deltalab.data.cache import build_once, cache_root
from deltalab.data.corpus import corpus_sha256, documents
from deltalab.data.generated import Stream, generator
from deltalab.errors import ConfigError
from deltalab.spec.data import Corpus, TextSpec, Tokenizer

SPLITS = ("train", "validation", "test")

HELD_OUT = 5
"""Percent of the documents in validation and in test each. Less would leave a default evaluation (512 sequences of 256
tokens) too few: one percent of the standard library is five files, 46 kB."""


class Text:
    """Windows of a token stream; the target at a position is the token after it.

    Training goes through the train split in epochs: windows that do not overlap, in an order drawn from the seed and
    the epoch, none twice in an epoch. Evaluation reads the validation split's windows one after the other; where it
    has fewer than are asked for, all of them.

    Args:
        spec: corpus, tokenizer and lengths.
        seed: of the order of the training windows.

    Raises:
        ConfigError: the corpus is not on this machine, is another one than the spec says, or is shorter than a window.
    """

    def __init__(self, spec: TextSpec, seed: int) -> None:
        sha256 = corpus_sha256(spec.corpus)
        if spec.corpus_sha256 not in (None, sha256):
            allowed = f"{sha256} or null: this machine's {spec.corpus.value} corpus (another Python has another one)"
            raise ConfigError("data.corpus_sha256", spec.corpus_sha256, allowed)
        self._folder = folder = token_streams(spec, sha256)
        self.spec, self.seed, self.vocab_size = spec, seed, spec.vocab_size
        self.token_bytes: NDArray[np.int64] = np.load(folder / "token_bytes.npy")
        self._train: NDArray[np.uint16] = np.load(folder / "train.npy", mmap_mode="r")
        self._held_out: NDArray[np.uint16] = np.load(folder / "validation.npy", mmap_mode="r")
        for key, stream in (("train_length", self._train), ("test_length", self._held_out)):
            if getattr(spec, key) >= len(stream):
                raise ConfigError(f"data.{key}", getattr(spec, key), f"1 to {len(stream) - 1}, the length of the split")

    def train_batch(self, step: int, rows: int) -> Batch:
        """See ``Task.train_batch``: windows ``step·rows`` to ``(step+1)·rows`` of the epochs laid end to end."""
        windows = (len(self._train) - 1) // self.spec.train_length
        epochs, places = np.divmod(step * rows + np.arange(rows), windows)
        chosen = np.empty(rows, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = window_order(self.seed, int(epoch), windows)[places[here]]
        return _windows(self._train, chosen, self.spec.train_length)

    def eval_batches(self, sequences: int, batch_size: int) -> Iterator[Batch]:
        """See ``Task.eval_batches``; fewer sequences come where the validation split has no more."""
        length = self.spec.test_length
        last = min(sequences, (len(self._held_out) - 1) // length)
        for start in range(0, last, batch_size):
            yield _windows(self._held_out, np.arange(start, min(start + batch_size, last)), length)

    def save_tokenizer(self, folder: Path) -> None:
        """See ``Task.save_tokenizer``: ``tokenizer.json`` of a BPE."""
        if self.spec.tokenizer is Tokenizer.bpe:
            from deltalab.data.tokens import TOKENIZER

            shutil.copyfile(self._folder / TOKENIZER, folder / TOKENIZER)


@lru_cache(maxsize=4)
def window_order(seed: int, epoch: int, windows: int) -> NDArray[np.int64]:
    """The order of an epoch's windows: a permutation of 0 … ``windows``−1, int64, read-only."""
    order = generator(Stream.windows, seed, epoch).permutation(windows)
    order.setflags(write=False)
    return order


def document_split(name: str) -> str:
    """The split a document belongs to, from the hash of its name alone."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % 100
    return "validation" if place < HELD_OUT else "test" if place < 2 * HELD_OUT else "train"


def token_streams(spec: TextSpec, sha256: str) -> Path:
    """Folder with ``{train,validation,test}.npy`` (uint16, flat), ``token_bytes.npy`` and the trained tokenizer.

    Args:
        spec: corpus and tokenizer.
        sha256: hash of the corpus.
    """
    kind = "bytes" if spec.tokenizer is Tokenizer.bytes else f"bpe{spec.bpe_vocab}"

    def build(folder: Path) -> None:
        from deltalab.data.tokens import train_encoder

        folder.mkdir()
        texts = _load_texts(_parquet(spec.corpus, sha256))
        encoder = train_encoder(spec, texts["train"])
        encoder.save(folder)
        np.save(folder / "token_bytes.npy", encoder.token_bytes)
        for split, split_texts in texts.items():
            np.save(folder / f"{split}.npy", encoder.encode(split_texts))

    return build_once(cache_root() / "tokens" / f"{spec.corpus.value}-{sha256[:16]}-{kind}", build)


def _parquet(corpus: Corpus, sha256: str) -> Path:
    """Folder with the documents of each split, ``{train,validation,test}.parquet``."""

    def build(folder: Path) -> None:
        from datasets import Dataset, Features, Value

        folder.mkdir()
        features = Features({"name": Value("string"), "text": Value("string")})
        texts = documents(corpus)
        for split in SPLITS:
            names = [name for name in texts if document_split(name) == split]
            if not names:
                raise ConfigError("data.corpus", corpus.value, f"a corpus with {split} documents (too few files)")
            columns = {"name": names, "text": [texts[name] for name in names]}
            with _quiet():
                Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")

    return build_once(cache_root() / "documents" / f"{corpus.value}-{sha256[:16]}", build)


def _load_texts(folder: Path) -> dict[str, list[str]]:
    from datasets import load_dataset

    files = {split: str(folder / f"{split}.parquet") for split in SPLITS}
    with _quiet(), tempfile.TemporaryDirectory() as scratch:  # its own cache would lock files, which NFS may not have
        loaded = load_dataset("parquet", data_files=files, cache_dir=scratch)
        return {split: list(loaded[split]["text"]) for split in SPLITS}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of ``datasets`` in a trial's log."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _windows(stream: NDArray[np.uint16], windows: NDArray[np.int64], length: int) -> Batch:
    """Windows ``w`` of a stream: tokens from ``w·length`` on, targets one further."""
    pieces = np.asarray(stream[windows[:, None] * length + np.arange(length + 1)])
    return Batch(tokens=pieces[:, :-1].astype(np.int64), targets=pieces[:, 1:].astype(np.int64))
