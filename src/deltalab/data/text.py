"""Text: next-token prediction on a prepared stream of tokens, packed to sequences of one length.

    documents → store (tokens of all documents end to end) → windows, in an order of their own in every epoch

Window w has the tokens from w·L on and the targets from w·L + 1 on, L = ``train_length``: every token but the last is
read once an epoch, every token but the first predicted once. The last window is filled up with what is not scored.
Window number n of all epochs laid end to end is the same for any batch size, number of ranks, worker or restart: which
one it is follows from the seed and n.
"""

import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deltalab.data.batch import IGNORE, Batch
from deltalab.data.corpus import corpus_sha256
from deltalab.data.generated import Stream, generator
from deltalab.data.manifest import read_manifest, store_folder
from deltalab.data.store import TokenStream
from deltalab.errors import ConfigError
from deltalab.spec.data import TextSpec, Tokenizer

if TYPE_CHECKING:
    from deltalab.data.tokens import Encoder


class Text:
    """Windows of a token stream; the target at a position is the token after it.

    Training goes through the train split in epochs, evaluation reads the validation split's whole windows one after the
    other; where it has fewer than are asked for, all of them.

    Args:
        spec: text, tokenizer and lengths.
        seed: of the order of the training windows.

    Raises:
        NotFoundError: the text has to be prepared and was not.
        ConfigError: the text is another one than the spec says, or is shorter than a window.
    """

    def __init__(self, spec: TextSpec, seed: int) -> None:
        self._folder = folder = open_store(spec)
        self.spec, self.seed, self.vocab_size = spec, seed, spec.vocab_size
        self.token_bytes: NDArray[np.int64] = np.load(folder / "tokenizer" / "token_bytes.npy")
        self._train, self._held_out = TokenStream(folder, "train"), TokenStream(folder, "validation")
        for key, stream in (("train_length", self._train), ("test_length", self._held_out)):
            if getattr(spec, key) >= len(stream):
                allowed = f"1 to {len(stream) - 1}, the length of the split" if len(stream) > 1 else "a longer text's"
                raise ConfigError(f"data.{key}", getattr(spec, key), allowed)

    def train_batch(self, step: int, rows: int) -> Batch:
        """See ``Task.train_batch``: windows ``step·rows`` to ``(step+1)·rows`` of the epochs laid end to end."""
        windows = -(-(len(self._train) - 1) // self.spec.train_length)
        places = [divmod(number, windows) for number in range(step * rows, (step + 1) * rows)]
        chosen = [int(window_order(self.seed, epoch, windows)[place]) for epoch, place in places]
        return self._windows(self._train, chosen, self.spec.train_length)

    def eval_batches(self, sequences: int, batch_size: int) -> Iterator[Batch]:
        """See ``Task.eval_batches``; fewer sequences come where the validation split has no more."""
        length = self.spec.test_length
        last = min(sequences, (len(self._held_out) - 1) // length)
        for start in range(0, last, batch_size):
            yield self._windows(self._held_out, range(start, min(start + batch_size, last)), length)

    @cached_property
    def encoder(self) -> "Encoder":
        """What made tokens of the text."""
        from deltalab.data.tokens import load_encoder

        return load_encoder(self.spec, self._folder / "tokenizer")

    def save_tokenizer(self, folder: Path) -> None:
        """See ``Task.save_tokenizer``: ``tokenizer.json`` where there is one."""
        if self.spec.tokenizer is not Tokenizer.bytes:
            from deltalab.data.tokens import TOKENIZER

            shutil.copyfile(self._folder / "tokenizer" / TOKENIZER, folder / TOKENIZER)

    def _windows(self, stream: TokenStream, windows: Sequence[int], length: int) -> Batch:
        tokens = np.zeros((len(windows), length), dtype=np.int64)
        targets = np.full((len(windows), length), IGNORE, dtype=np.int64)
        starts = np.zeros((len(windows), length), dtype=bool) if self.spec.reset else None
        for row, window in enumerate(windows):
            piece = stream.read(window * length, (window + 1) * length + 1)
            tokens[row, : len(piece) - 1], targets[row, : len(piece) - 1] = piece[:-1], piece[1:]
            if starts is not None:
                starts[row, stream.starts(window * length, (window + 1) * length)] = True
        return Batch(tokens=tokens, targets=targets, starts=starts)


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
