"""What a model writes on from prompts, as text while it comes: ends at stop texts, whole characters only."""

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deltalab.exchange.codec import Codec
from deltalab.model.generate import stream
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec


@dataclass
class Written:
    """What follows one prompt, so far.

    Attributes:
        ends: tokens that end it and are not part of it.
        stops: pieces of what is shown that do so.
        tokens: what the model wrote, those of a stop text included.
        text: what can be shown of it.
        over: whether nothing more comes.
    """

    ends: set[int]
    stops: list[bytes]
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    over: bool = False
    _held: bytes = b""
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"), repr=False
    )

    def add(self, token: int, shown: bytes) -> str:
        """Take a token that is shown so; the text that it completes, "" while that might begin a stop text."""
        if token in self.ends:
            return self.close()
        self.tokens.append(token)
        self._held += shown
        found = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if found:
            self._held = self._held[: min(found)]
            return self.close()
        return self._show(len(self._held) - self._beginning_of_stop())

    def close(self) -> str:
        """End it; the text that was held back."""
        self.over = True
        return self._show(len(self._held))

    def _show(self, count: int) -> str:
        ready, self._held = self._held[:count], self._held[count:]
        text = self._decoder.decode(ready, final=self.over)
        self.text += text
        return text

    def _beginning_of_stop(self) -> int:
        """Length of the longest end of what is held that a stop text begins with."""
        longest = max((len(stop) for stop in self.stops), default=1) - 1
        lengths = range(min(longest, len(self._held)), 0, -1)
        ends = ((n, self._held[len(self._held) - n :]) for n in lengths)
        return next((n for n, end in ends if any(stop.startswith(end) for stop in self.stops)), 0)


def write(
    model: LanguageModel,
    codec: Codec,
    prompts: Sequence[str],
    sampling: SamplingSpec | None = None,
    stop: Sequence[str] = (),
) -> Iterator[tuple[int, str, Written]]:
    """(prompt, further text, all of it so far) as it comes, until each is over.

    Args:
        model: a trained model.
        codec: its task's.
        prompts: one or more.
        sampling: how tokens are chosen and how many.
        stop: texts (ids, where tokens are no text) that end a sequence.

    Raises:
        UsageError: a prompt or a stop that the task does not have.
    """
    ends, stops = codec.stops(stop)
    written = [Written(ends, stops) for _ in prompts]
    encoded = [codec.encode(prompt) for prompt in prompts]
    tokens = stream(model, encoded, sampling, ended=lambda row: written[row].over)
    return _pieces(codec, tokens, written)


def _pieces(
    codec: Codec, tokens: Iterator[tuple[int, int]], written: list[Written]
) -> Iterator[tuple[int, str, Written]]:
    for row, token in tokens:
        yield row, written[row].add(token, codec.bytes_of(token)), written[row]
    for row, one in enumerate(written):
        if not one.over:
            yield row, one.close(), one
