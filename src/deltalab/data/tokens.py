"""Encoders: documents to a flat stream of token ids, the last id ending each document."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from deltalab.spec.data import TextSpec, Tokenizer


class Encoder(ABC):
    """Documents to token ids below ``vocab_size``; the last id is no text, it ends a document.

    Args:
        vocab_size: ids, at most 65,536, so that a token fits 16 bits.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.end = vocab_size - 1

    @property
    @abstractmethod
    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes each token stands for, int64 [vocab_size]; 0 for the end of a document and for unused ids."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> NDArray[np.uint16]:
        """All documents one after the other, each with its end, uint16 [N]."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Keep what was learnt."""


class ByteEncoder(Encoder):
    """One token per UTF-8 byte."""

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """1 for each byte."""
        return np.array([1] * self.end + [0])

    def encode(self, texts: Sequence[str]) -> NDArray[np.uint16]:
        """See ``Encoder.encode``."""
        return _join([np.frombuffer(text.encode(), dtype=np.uint8) for text in texts], self.end)

    def save(self, folder: Path) -> None:
        """Nothing was learnt."""


class BPEEncoder(Encoder):
    """Byte-level byte-pair encoding (as in GPT-2), learnt from texts; the same texts teach the same encoding.

    Args:
        vocab_size: see ``Encoder``; few texts may teach fewer.
        texts: what to learn from.
    """

    def __init__(self, vocab_size: int, texts: Sequence[str]) -> None:
        super().__init__(vocab_size)
        self._tokenizer = tokenizers.Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.end, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        self._tokenizer.train_from_iterator(texts, trainer)

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """Length of each token as it is written: the byte-level alphabet has one character per byte."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token, index in self._tokenizer.get_vocab().items():
            lengths[index] = len(token)
        return lengths

    def encode(self, texts: Sequence[str]) -> NDArray[np.uint16]:
        """See ``Encoder.encode``."""
        encoded = self._tokenizer.encode_batch_fast(list(texts))
        return _join([np.array(document.ids, dtype=np.uint16) for document in encoded], self.end)

    def save(self, folder: Path) -> None:
        """``tokenizer.json``, as ``tokenizers.Tokenizer.from_file`` reads it."""
        self._tokenizer.save(str(folder / "tokenizer.json"))


def train_encoder(spec: TextSpec, texts: Sequence[str]) -> Encoder:
    """The encoder a spec asks for, learnt from the train split if it learns."""
    if spec.tokenizer is Tokenizer.bytes:
        return ByteEncoder(spec.vocab_size)
    return BPEEncoder(spec.vocab_size, texts)


def _join(documents: Sequence[NDArray[np.integer]], end: int) -> NDArray[np.uint16]:
    parts = [part for document in documents for part in (document.astype(np.uint16), np.array([end], dtype=np.uint16))]
    return np.concatenate(parts)
