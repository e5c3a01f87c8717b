"""How probable a model takes a continuation to be, and what it writes itself until a stop.

Sequences are taken in the order of their lengths, the longest first, as many at a time as have room, so that a batch is
of one length or nearly. Where lengths differ within one, its sequences are packed one behind the other: no padding ever
enters a recurrent state.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.data.tokens import Encoder
from deltalab.model.generate import stream
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec

LOGITS = 2**25
"""Logits that are held at a time: 128 MB of fp32 each for them and what becomes of them."""

Tokens = Sequence[int]


def score(model: LanguageModel, requests: Sequence[tuple[Tokens, Tokens]], room: int) -> list[tuple[float, bool]]:
    """log p(continuation | tokens before it), and whether greedy decoding would write it.

    Requests that read the same tokens, like the answers yes and no to a question, are read once.

    Args:
        model: in eval mode.
        requests: (before, continuation), at least one token before; the sum over no tokens is 0.
        room: tokens read at a time, or one sequence; changes no result.

    Returns:
        Nats, summed over the continuation's tokens, and the flag, in the order of the requests.
    """
    results = [(0.0, True)] * len(requests)
    reads: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, (before, continuation) in enumerate(requests):
        if continuation:
            reads[(*before, *continuation[:-1])].append(number)
    rows = list(reads)
    for batch in by_length(list(map(len, rows)), room):
        read = [rows[row] for row in batch]
        ends = accumulate(map(len, read))
        asked = [(number, end) for row, end in zip(batch, ends, strict=True) for number in reads[rows[row]]]
        lengths = [len(requests[number][1]) for number, _ in asked]
        places = [place for (_, end), length in zip(asked, lengths, strict=True) for place in range(end - length, end)]
        targets = [token for number, _ in asked for token in requests[number][1]]
        scores, greedy = _at(model, read, places, targets)
        for (number, _), one, right in zip(asked, scores.split(lengths), greedy.split(lengths), strict=True):
            results[number] = (one.sum(dtype=torch.float64).item(), bool(right.all()))
    return results


def write(
    model: LanguageModel,
    encoder: Encoder,
    prompts: Sequence[Tokens],
    until: Sequence[str],
    sampling: SamplingSpec,
    room: int,
    enough: Callable[[int, str], bool] = lambda number, text: False,
) -> list[str]:
    """What the model writes after each prompt, up to and without the first stop, or up to the end of a document.

    Args:
        model: in eval mode.
        encoder: of the model.
        prompts: tokens, at least one each.
        until: texts that stop it.
        sampling: how tokens are chosen, and how many at most.
        room: tokens of prompts and of what is written at a time, or one prompt.
        enough: told a prompt's number and its text so far after each token, whether to end there.
    """
    written = [b""] * len(prompts)
    stops = [stop.encode() for stop in until]

    def text(number: int) -> str:
        found = [place for stop in stops if (place := written[number].find(stop)) >= 0]
        return written[number][: min(found, default=None)].decode(errors="replace")

    def ended(number: int) -> bool:
        return any(stop in written[number] for stop in stops) or enough(number, text(number))

    for batch in by_length([len(prompt) + sampling.max_tokens for prompt in prompts], room):
        read = [prompts[number] for number in batch]
        for row, token in stream(model, read, sampling, {encoder.end}, lambda row: ended(batch[row])):  # noqa: B023
            written[batch[row]] += encoder.bytes_of(token)
    return [text(number) for number in range(len(prompts))]


def by_length(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Numbers of sequences, a batch at a time, the longest first: as many as have room together, and at least one."""
    batch, taken = [], 0
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and taken + lengths[number] > room:
            yield batch
            batch, taken = [], 0
        batch.append(number)
        taken += lengths[number]
    if batch:
        yield batch


@torch.inference_mode()
def _at(
    model: LanguageModel, rows: Sequence[Tokens], places: Sequence[int], targets: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of targets, fp32 [M], and whether each is the most probable token, bool [M].

    Args:
        model: in eval mode.
        rows: sequences.
        places: of the sequences one behind the other, where each target is predicted, [M].
        targets: [M].
    """
    device, lengths = model.embedding.device, [len(row) for row in rows]
    tokens = torch.tensor([token for row in rows for token in row], device=device)
    if len(set(lengths)) == 1:
        features = model.features(tokens.view(len(rows), -1)).flatten(0, 1)
    else:
        features = model.features(tokens[None], torch.tensor([0, *accumulate(lengths)], device=device))[0]
    features = features[torch.tensor(places, device=device)]
    piece = max(1, LOGITS // len(model.embedding))
    scores, greedy = [], []
    for part, wanted in zip(features.split(piece), torch.tensor(targets, device=device).split(piece), strict=True):
        logits = model.head(part).float()
        scores.append(-F.cross_entropy(logits, wanted, reduction="none"))
        greedy.append(logits.argmax(-1) == wanted)
    return torch.cat(scores).cpu(), torch.cat(greedy).cpu()
