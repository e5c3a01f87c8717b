"""Encoders: documents to token ids with a mark at their beginning or end, and ids back to text."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers

from deltalab.errors import ConfigError, NotFoundError
from deltalab.spec.data import TextSpec, Tokenizer

TOKENIZER = "tokenizer.json"
"""File of a tokenizer that was learnt, as ``tokenizers.Tokenizer.from_file`` reads it."""


class Encoder(ABC):
    """Documents to token ids below ``vocab_size``.

    Args:
        vocab_size: ids; a token takes 16 bits up to 65,536 of them and 32 bits from there.
        before: ids put before each document.
        after: ids put after it; the last id and nothing before it unless given.
    """

    def __init__(self, vocab_size: int, before: Sequence[int] = (), after: Sequence[int] | None = None) -> None:
        self.vocab_size = vocab_size
        self.dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
        self._before, self._after = list(before), [vocab_size - 1] if after is None else list(after)
        self.end = (self._after + self._before)[0]

    @property
    @abstractmethod
    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes each token stands for, int64 [vocab_size]; 0 for marks of documents and for unused ids."""

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Each document with its marks, ``dtype`` [N]."""
        before, after = (np.array(marks, dtype=self.dtype) for marks in (self._before, self._after))
        return [np.concatenate([before, ids, after]) for ids in self._ids(texts)]

    @abstractmethod
    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        """Each text, unmarked, ``dtype`` [N]."""

    @abstractmethod
    def encode_text(self, text: str) -> list[int]:
        """A text, unmarked."""

    @abstractmethod
    def bytes_of(self, token: int) -> bytes:
        """The UTF-8 bytes that a token stands for; none for marks of documents."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text that tokens stand for; what is no UTF-8 becomes U+FFFD."""
        return b"".join(map(self.bytes_of, tokens)).decode(errors="replace")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Keep what was learnt, for ``load_encoder``."""


class ByteEncoder(Encoder):
    """One token per UTF-8 byte."""

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """1 for each byte."""
        return np.array([1] * self.end + [0])

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(self.dtype) for text in texts]

    def encode_text(self, text: str) -> list[int]:
        """See ``Encoder.encode_text``."""
        return list(text.encode())

    def bytes_of(self, token: int) -> bytes:
        """See ``Encoder.bytes_of``."""
        return bytes([token]) if token < self.end else b""

    def save(self, folder: Path) -> None:
        """Nothing was learnt."""


class TokenizerEncoder(Encoder):
    """An encoder that goes by a tokenizer of ``tokenizers``.

    Args:
        tokenizer: the tokenizer; the tokens that it would add by itself are left out.
        vocab_size: see ``Encoder``, and so for the next two.
        before: ids put before each document.
        after: ids put after it.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        vocab_size: int,
        before: Sequence[int] = (),
        after: Sequence[int] | None = None,
    ) -> None:
        super().__init__(vocab_size, before, after)
        self._tokenizer = tokenizer

    @property
    def token_bytes(self) -> NDArray[np.int64]:
        """Length of what ``bytes_of`` gives."""
        return np.array([len(self.bytes_of(token)) for token in range(self.vocab_size)])

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.integer]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(document.ids, dtype=self.dtype) for document in encoded]

    def encode_text(self, text: str) -> list[int]:
        """See ``Encoder.encode_text``."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def save(self, folder: Path) -> None:
        """``tokenizer.json``."""
        self._tokenizer.save(str(folder / TOKENIZER))


class BPEEncoder(TokenizerEncoder):
    """Byte-level byte-pair encoding (as in GPT-2).

    Args:
        vocab_size: see ``Encoder``.
        tokenizer: what was learnt (see ``learn``).
    """

    def __init__(self, vocab_size: int, tokenizer: tokenizers.Tokenizer) -> None:
        super().__init__(tokenizer, vocab_size)
        self._bytes = byte_alphabet()

    @staticmethod
    def learn(vocab_size: int, texts: Iterable[str]) -> "BPEEncoder":
        """Learn from texts; the same texts teach the same encoding, and few may teach fewer tokens."""
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return BPEEncoder(vocab_size, tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """See ``Encoder.bytes_of``; an id that was never learnt stands for none either."""
        return bytes(self._bytes[character] for character in self._tokenizer.id_to_token(token) or "")


class GivenEncoder(TokenizerEncoder):
    """A tokenizer that others have learnt.

    Args:
        tokenizer: any tokenizer of ``tokenizers``.
        bos: token put before each document, None for none.
        eos: token put after it, likewise; one of them is given.

    Raises:
        ConfigError: the tokenizer has no such token.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
        marks: dict[str, list[int]] = {"bos": [], "eos": []}
        for key, mark in (("bos", bos), ("eos", eos)):
            found = None if mark is None else tokenizer.token_to_id(mark)
            if mark is not None and found is None:
                raise ConfigError(f"data.{key}", mark, "a token of the tokenizer")
            marks[key] = [] if found is None else [found]
        before, after = marks.values()
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        super().__init__(tokenizer, max(vocabulary.values()) + 1, before, after)
        plain = json.loads(tokenizer.to_str())
        self._special = {token["id"] for token in plain["added_tokens"] if token["special"]} | {*before, *after}
        self._bytes = byte_alphabet() if '"ByteLevel"' in json.dumps(plain["decoder"]) else {}

    def bytes_of(self, token: int) -> bytes:
        """See ``Encoder.bytes_of``; a token of a SentencePiece model writes ▁ for a space, <0x0A> for a byte."""
        written = self._tokenizer.id_to_token(token)
        if written is None or token in self._special:
            return b""
        if self._bytes and self._bytes.keys() >= set(written):
            return bytes(self._bytes[character] for character in written)
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", written):
            return bytes.fromhex(byte[1])
        return written.replace("▁", " ").encode()


def make_encoder(spec: TextSpec, texts: Callable[[], Iterable[str]]) -> Encoder:
    """The encoder a spec asks for.

    Args:
        spec: which one.
        texts: train documents, for one that learns from them.

    Raises:
        ConfigError: a given tokenizer is not there, or has no token that marks documents.
    """
    if spec.tokenizer is Tokenizer.bytes:
        return ByteEncoder(spec.vocab_size)
    if spec.tokenizer is Tokenizer.bpe:
        return BPEEncoder.learn(spec.vocab_size, texts())
    return GivenEncoder(_find_tokenizer(str(spec.tokenizer_name)), spec.bos, spec.eos)


def _find_tokenizer(name: str) -> tokenizers.Tokenizer:
    try:
        file = Path(name) / TOKENIZER if Path(name).is_dir() else Path(name)
        if file.is_file():
            return tokenizers.Tokenizer.from_file(str(file))
        return tokenizers.Tokenizer.from_pretrained(name)
    except Exception as error:  # tokenizers raises no narrower one
        cause = " ".join(str(error).split())[:160]
        here = "a tokenizer.json, or a folder with one, that is here"
        allowed = f"{here}, or a tokenizer of the hub within reach (said: {cause})"
        raise ConfigError("data.tokenizer_name", name, allowed) from error


def load_encoder(spec: TextSpec, folder: Path) -> Encoder:
    """The encoder of a trained model or of a store, from the folder it was saved to.

    Raises:
        NotFoundError: what was learnt is not there.
    """
    if spec.tokenizer is Tokenizer.bytes:
        return ByteEncoder(spec.vocab_size)
    file = folder / TOKENIZER
    if not file.is_file():
        raise NotFoundError(f"{file}: not there; a model with data.tokenizer={spec.tokenizer.value} is read with it")
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    if spec.tokenizer is Tokenizer.bpe:
        return BPEEncoder(spec.vocab_size, tokenizer)
    return GivenEncoder(tokenizer, spec.bos, spec.eos)


def byte_alphabet() -> dict[str, int]:
    """Character → byte, as byte-level tokenizers write bytes: printable ones as they are, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}
