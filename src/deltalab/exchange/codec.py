"""Between what a user writes and a model's tokens: text for a text task, token ids for the others."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from deltalab.data.tokens import Encoder, load_encoder
from deltalab.errors import UsageError
from deltalab.spec.data import DataSpec, TextSpec


class Codec(ABC):
    """Prompts to tokens, tokens to the bytes of text that is shown."""

    end: int | None = None
    """Token after which nothing more follows."""

    @abstractmethod
    def encode(self, prompt: str) -> list[int]:
        """The tokens of a prompt.

        Raises:
            UsageError: it has none.
        """

    @abstractmethod
    def bytes_of(self, token: int) -> bytes:
        """What is shown for a token that was written."""

    @abstractmethod
    def stops(self, texts: Sequence[str]) -> tuple[set[int], list[bytes]]:
        """Tokens, and pieces of what is shown, that end a sequence.

        Raises:
            UsageError: a text that cannot be one.
        """


class TextCodec(Codec):
    """Text. An empty prompt begins a document: it is the end of the one before.

    Args:
        encoder: the task's.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder, self.end = encoder, encoder.end

    def encode(self, prompt: str) -> list[int]:
        """See ``Codec.encode``."""
        return self._encoder.encode_text(prompt) or [self._encoder.end]

    def bytes_of(self, token: int) -> bytes:
        """See ``Codec.bytes_of``."""
        return self._encoder.bytes_of(token)

    def stops(self, texts: Sequence[str]) -> tuple[set[int], list[bytes]]:
        """The end of a document, and the texts as they are."""
        if "" in texts:
            raise UsageError("stop: an empty text; allowed is one character or more")
        return {self._encoder.end}, [text.encode() for text in texts]


class IdCodec(Codec):
    """Token ids, separated by spaces or commas."""

    def encode(self, prompt: str) -> list[int]:
        """See ``Codec.encode``."""
        parts = re.split(r"[\s,]+", prompt.strip())
        if not all(part.isdecimal() for part in parts):
            raise UsageError(f"prompt {prompt!r}: allowed is token ids, as in '3 1 2': the trial's task is no text")
        return [int(part) for part in parts]

    def bytes_of(self, token: int) -> bytes:
        """The id, set off from the one before."""
        return f" {token}".encode()

    def stops(self, texts: Sequence[str]) -> tuple[set[int], list[bytes]]:
        """Each text is a token."""
        for text in texts:
            if not text.isdecimal():
                raise UsageError(f"stop={text}: allowed is a token id: the trial's task is no text")
        return {int(text) for text in texts}, []


def make_codec(data: DataSpec, folder: Path) -> Codec:
    """The codec of a model that was trained on a task.

    Args:
        data: the task's spec.
        folder: where the weights are, and the tokenizer if one was learnt.

    Raises:
        NotFoundError: the tokenizer is not there.
    """
    return TextCodec(load_encoder(data, folder)) if isinstance(data, TextSpec) else IdCodec()
