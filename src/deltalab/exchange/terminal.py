"""``deltalab generate``: what a trained model writes on, on the terminal as it comes, or as JSON."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltalab.exchange.codec import make_codec
from deltalab.exchange.load import find_weights, home_of, read_spec
from deltalab.exchange.write import Written, write
from deltalab.spec.launcher import Device
from deltalab.spec.sampling import SamplingSpec
from deltalab.train.distributed import pick_device
from deltalab.train.weights import load_weights


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        trial: as ``exchange.load.load`` takes it; runs and study too.
        prompts: each continued on its own.
        sampling: how.
        stop: texts or token ids that end a continuation.
        device: where the model runs.
        as_json: a list of prompts with what followed instead of running text.
    """

    trial: str
    runs: Path
    study: str | None
    prompts: Sequence[str]
    sampling: SamplingSpec
    stop: Sequence[str]
    device: Device
    as_json: bool


def run_generate(asked: Request) -> None:
    """Print the prompts with what follows them.

    Raises:
        UsageError: see ``exchange.load.load`` and ``exchange.write.write``.
    """
    weights = find_weights(asked.trial, asked.runs, asked.study)
    spec = read_spec(weights)
    codec = make_codec(spec.data, home_of(weights))
    model = load_weights(weights, spec, device=pick_device(asked.device))
    pieces = write(model, codec, asked.prompts, asked.sampling, asked.stop)
    if asked.as_json:
        found = {row: written for row, _, written in pieces}
        rows = [
            {"prompt": prompt, "text": found[row].text, "tokens": found[row].tokens}
            for row, prompt in enumerate(asked.prompts)
        ]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    _show(asked.prompts, pieces)


def _show(prompts: Sequence[str], pieces: Iterator[tuple[int, str, Written]]) -> None:
    """One prompt's text runs on the terminal, the others' waits behind it."""
    waiting = [prompts[0], *(f"\n\n{prompt}" for prompt in prompts[1:])]
    over: set[int] = set()
    _put(waiting[0])
    shown = 0
    for row, text, written in pieces:
        if row == shown:
            _put(text)
        else:
            waiting[row] += text
        if written.over:
            over.add(row)
        while shown in over and shown + 1 < len(waiting):
            shown += 1
            _put(waiting[shown])
    _put("\n")


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
