"""Text: next-token prediction on a prepared stream of tokens, packed to sequences of one length.

    documents → store (tokens of all documents end to end) → windows, in an order of their own in every epoch

Window w has the tokens from w·L on and the targets from w·L + 1 on, L = ``train_length``: every token but the last is
read once an epoch, every token but the first predicted once. The last window is filled up with what is not scored.
Window number n of all epochs laid end to end is the same for any batch size, number of ranks, worker or restart: which
one it is follows from the seed and n.
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import IGNORE, Batch
from deltalab.data.corpus import corpus_sha256
from deltalab.data.generated import Stream, generator
from deltalab.data.manifest import TOKEN_BYTES, read_manifest, store_folder
from deltalab.data.store import TokenStream
from deltalab.errors import ConfigError
from deltalab.spec.data import TextSpec, Tokenizer

if TYPE_CHECKING:
    from deltalab.data.tokens import Encoder


class TextTask(ABC):
    """What prepared and streamed texts share; the target at a position is the token after it.

    Args:
        spec: text, tokenizer and lengths.
        seed: of the order of the training windows.
        store: the folder of its tokens.
    """

    def __init__(self, spec: TextSpec, seed: int, store: Path) -> None:
        self.spec, self.seed, self.store, self.vocab_size = spec, seed, store, spec.vocab_size
        self.token_bytes: NDArray[np.int64] = np.load(store / "tokenizer" / TOKEN_BYTES)

    @abstractmethod
    def train_batch(self, step: int, rows: int) -> Batch:
        """See ``Task.train_batch``: windows ``step·rows`` to ``(step+1)·rows`` of the epochs laid end to end."""

    def eval_batches(self, sequences: int, batch_size: int) -> Iterator[Batch]:
        """See ``Task.eval_batches``: whole windows of the validation split one after the other; fewer sequences come
        where it has no more."""
        stream, length = self._held_out(sequences), self.spec.test_length
        last = min(sequences, (len(stream) - 1) // length)
        for start in range(0, last, batch_size):
            windows = range(start, min(start + batch_size, last))
            yield self._windows([(stream, window) for window in windows], length)

    @abstractmethod
    def _held_out(self, sequences: int) -> TokenStream:
        """Validation tokens for as many sequences, or all there are."""

    @cached_property
    def encoder(self) -> "Encoder":
        """What made tokens of the text."""
        from deltalab.data.tokens import load_encoder

        return load_encoder(self.spec, self.store / "tokenizer")

    def save_tokenizer(self, folder: Path) -> None:
        """See ``Task.save_tokenizer``: ``tokenizer.json`` where there is one."""
        if self.spec.tokenizer is not Tokenizer.bytes:
            from deltalab.data.tokens import TOKENIZER

            shutil.copyfile(self.store / "tokenizer" / TOKENIZER, folder / TOKENIZER)

    def _windows(self, chosen: Sequence[tuple[TokenStream, int]], length: int) -> Batch:
        """Window w of a stream has the tokens from w·length on; what reaches past the stream is not scored."""
        tokens = np.zeros((len(chosen), length), dtype=np.int64)
        targets = np.full((len(chosen), length), IGNORE, dtype=np.int64)
        starts = np.zeros((len(chosen), length), dtype=bool) if self.spec.reset else None
        for row, (stream, window) in enumerate(chosen):
            piece = stream.read(window * length, (window + 1) * length + 1)
            tokens[row, : len(piece) - 1], targets[row, : len(piece) - 1] = piece[:-1], piece[1:]
            if starts is not None:
                starts[row, stream.starts(window * length, (window + 1) * length)] = True
        return Batch(tokens=tokens, targets=targets, starts=starts)


class Text(TextTask):
    """A prepared text: windows of all its tokens, in an order of their own in every epoch.

    Args:
        spec: text, tokenizer and lengths.
        seed: of the order of the training windows.

    Raises:
        NotFoundError: the text has to be prepared and was not.
        ConfigError: the text is another one than the spec says, or is shorter than a window.
    """

    def __init__(self, spec: TextSpec, seed: int) -> None:
        super().__init__(spec, seed, open_store(spec))
        self._train, self._validation = TokenStream(self.store, "train"), TokenStream(self.store, "validation")
        refuse_short("train_length", spec.train_length, self._train)
        refuse_short("test_length", spec.test_length, self._validation)

    def train_batch(self, step: int, rows: int) -> Batch:
        """See ``TextTask.train_batch``."""
        windows = windows_of(len(self._train), self.spec.train_length)
        places = [divmod(number, windows) for number in range(step * rows, (step + 1) * rows)]
        chosen = [int(window_order(self.seed, epoch, windows)[place]) for epoch, place in places]
        return self._windows([(self._train, window) for window in chosen], self.spec.train_length)

    def _held_out(self, sequences: int) -> TokenStream:
        return self._validation


def refuse_short(key: str, length: int, stream: TokenStream) -> None:
    """Let pass a split that has a window.

    Raises:
        ConfigError: it has none.
    """
    if length >= len(stream):
        allowed = f"1 to {len(stream) - 1}, the length of the split" if len(stream) > 1 else "a longer text's"
        raise ConfigError(f"data.{key}", length, allowed)


def windows_of(tokens: int, length: int) -> int:
    """Windows of ``length`` that predict every token but the first."""
    return -(-max(tokens - 1, 0) // length)


def open_store(spec: TextSpec) -> Path:
    """The folder of a text's tokens; those of a corpus that is on every machine are made if they are not there.

    Raises:
        NotFoundError: the text has to be prepared and was not.
        ConfigError: the text is another one than the spec says.
    """
    if not spec.embedded or spec.corpus is None:
        read_manifest(spec)
        return store_folder(spec)
    sha256 = corpus_sha256(spec.corpus)
    if spec.corpus_sha256 not in (None, sha256):
        allowed = f"{sha256} or null: this machine's {spec.corpus.value} corpus (another Python has another one)"
        raise ConfigError("data.corpus_sha256", spec.corpus_sha256, allowed)
    from deltalab.data.prepare import prepare

    return prepare(spec)


@lru_cache(maxsize=2)
def window_order(seed: int, epoch: int, windows: int) -> NDArray[np.int64]:
    """The order of an epoch's windows: a permutation of 0 … ``windows``−1, int64, read-only."""
    order = generator(Stream.windows, seed, epoch).permutation(windows)
    order.setflags(write=False)
    return order
