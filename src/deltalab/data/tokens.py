"""Encoders: documents to a flat stream of token ids, the last id ending each document, and ids back to text."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from deltalab.errors import NotFoundError
from deltalab.spec.data import TextSpec, Tokenizer

TOKENIZER = "tokenizer.json"
"""File of a tokenizer that was learnt, as ``tokenizers.Tokenizer.from_file`` reads it."""


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
    def encode_text(self, text: str) -> list[int]:
        """A text, not ended."""

    @abstractmethod
    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for; none for the end of a document."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Keep what was learnt, for ``load_encoder``."""


class ByteEncoder(Encoder):
    """One token per UTF-8 byte."""

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """1 for each byte."""
        return np.array([1] * self.end + [0])

    def encode(self, texts: Sequence[str]) -> NDArray[np.uint16]:
        """See ``Encoder.encode``."""
        return _join([np.frombuffer(text.encode(), dtype=np.uint8) for text in texts], self.end)

    def encode_text(self, text: str) -> list[int]:
        """See ``Encoder.encode_text``."""
        return list(text.encode())

    def bytes_of(self, token: int) -> bytes:
        """See ``Encoder.bytes_of``."""
        return bytes([token]) if token < self.end else b""

    def save(self, folder: Path) -> None:
        """Nothing was learnt."""


class BPEEncoder(Encoder):
    """Byte-level byte-pair encoding (as in GPT-2).

    Args:
        vocab_size: see ``Encoder``.
        tokenizer: what was learnt (see ``learn``).
    """

    def __init__(self, vocab_size: int, tokenizer: tokenizers.Tokenizer) -> None:
        super().__init__(vocab_size)
        self._tokenizer = tokenizer
        self._bytes = byte_alphabet()

    @staticmethod
    def learn(vocab_size: int, texts: Sequence[str]) -> "BPEEncoder":
        """Learn from texts; the same texts teach the same encoding, and few may teach fewer tokens."""
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return BPEEncoder(vocab_size, tokenizer)

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

    def encode_text(self, text: str) -> list[int]:
        """See ``Encoder.encode_text``."""
        return self._tokenizer.encode(text).ids

    def bytes_of(self, token: int) -> bytes:
        """See ``Encoder.bytes_of``; an id that was never learnt stands for none either."""
        return bytes(self._bytes[character] for character in self._tokenizer.id_to_token(token) or "")

    def save(self, folder: Path) -> None:
        """``tokenizer.json``."""
        self._tokenizer.save(str(folder / TOKENIZER))


def train_encoder(spec: TextSpec, texts: Sequence[str]) -> Encoder:
    """The encoder a spec asks for, learnt from the train split if it learns."""
    if spec.tokenizer is Tokenizer.bytes:
        return ByteEncoder(spec.vocab_size)
    return BPEEncoder.learn(spec.vocab_size, texts)


def load_encoder(spec: TextSpec, folder: Path) -> Encoder:
    """The encoder of a trained model, from the folder it was saved to.

    Raises:
        NotFoundError: what was learnt is not there.
    """
    if spec.tokenizer is Tokenizer.bytes:
        return ByteEncoder(spec.vocab_size)
    file = folder / TOKENIZER
    if not file.is_file():
        raise NotFoundError(f"{file}: not there; a model with data.tokenizer={spec.tokenizer.value} is read with it")
    return BPEEncoder(spec.vocab_size, tokenizers.Tokenizer.from_file(str(file)))


def byte_alphabet() -> dict[str, int]:
    """Character → byte, as byte-level tokenizers write bytes: printable ones as they are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def _join(documents: Sequence[NDArray[np.integer]], end: int) -> NDArray[np.uint16]:
    parts = [part for document in documents for part in (document.astype(np.uint16), np.array([end], dtype=np.uint16))]
    return np.concatenate(parts)
