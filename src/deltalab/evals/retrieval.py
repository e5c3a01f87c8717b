"""Table 3: needles in a haystack (``evals.ruler``), answered by greedy generation.

Prompts of a batch are packed, never padded. An answer is scored by containment, so a prompt's generation ends as soon
as the answer is there: what would follow cannot take it back.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from deltalab.data.tokens import Encoder
from deltalab.evals.continuations import write
from deltalab.evals.haystack import read_haystack
from deltalab.evals.ruler import ANSWER_TOKENS, TASKS, VERSION, Niah, Sample, found
from deltalab.evals.unit import Unit
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import DEPTHS, range_name
from deltalab.spec.sampling import SamplingSpec
from deltalab.spec.suite import SuiteSpec

PAPER_TASKS = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1")
PAPER_LENGTHS = (1024, 2048, 4096, 8192)


def retrieval_units(asked: SuiteSpec, encoder: Encoder) -> list[Unit]:
    """The tasks and lengths asked for, those of the paper unless given.

    Args:
        asked: the suite.
        encoder: of the trial; its end of a document begins one, too.

    Raises:
        ConfigError: a task or haystack that is none, a length without room for a task.
    """
    names = asked.tasks(TASKS, PAPER_TASKS)
    haystack = read_haystack(asked.haystack)
    begin = [encoder.end] if asked.add_bos else []

    def encode(text: str) -> list[int]:
        return begin + encoder.encode_text(text)

    units = []
    for name in names:
        for length in asked.lengths or PAPER_LENGTHS:
            niah = Niah(name, length, encode, haystack)
            identity = {
                "task": name, "version": VERSION, "length": length, "samples": asked.drawn, "max_length": length,
                "add_bos": asked.add_bos, "haystack": niah.label, "answer_tokens": ANSWER_TOKENS,
            }  # fmt: skip
            run = partial(measure_niah, niah=niah, encoder=encoder, samples=asked.drawn, batch_size=asked.batch_size)
            units.append(Unit(name=f"{asked.suite.value}/{name}/{length}/{niah.label}", identity=identity, run=run))
    return units


def measure_niah(model: LanguageModel, niah: Niah, encoder: Encoder, samples: int, batch_size: int) -> dict[str, float]:
    """``accuracy``, ``stderr``, both by ``depth/…`` of the needle in percent, and ``fill``, the mean share of the
    nominal length that prompt and answer take."""
    rights: dict[str, list[bool]] = defaultdict(list)
    tokens = 0
    for start in range(0, samples, batch_size):
        batch = [niah.sample(number) for number in range(start, min(start + batch_size, samples))]
        tokens += sum(len(sample.tokens) for sample in batch)
        for sample, right in zip(batch, answer(model, encoder, batch), strict=True):
            rights[""].append(right)
            rights[f"/depth/{_fifth(sample.depth)}"].append(right)
    values = {"fill": (tokens / samples + ANSWER_TOKENS) / niah.length}
    for part, outcomes in sorted(rights.items()):
        n, p = len(outcomes), sum(outcomes) / len(outcomes)
        values[f"accuracy{part}"] = p
        values[f"stderr{part}"] = math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan
    return values


def answer(model: LanguageModel, encoder: Encoder, batch: Sequence[Sample]) -> list[bool]:
    """Whether each sample's answer is in what the model writes, at most ``ANSWER_TOKENS`` tokens."""

    def right(row: int, text: str) -> bool:
        return found(batch[row].answer, text)

    prompts, sampling = [sample.tokens for sample in batch], SamplingSpec(max_tokens=ANSWER_TOKENS)
    room = sum(map(len, prompts)) + len(prompts) * ANSWER_TOKENS  # all of them at once
    texts = write(model, encoder, prompts, (), sampling, room, enough=right)
    return [right(row, text) for row, text in enumerate(texts)]


def _fifth(depth: float) -> str:
    first, last = next(bounds for bounds in reversed(DEPTHS) if depth >= bounds[0])
    return range_name(first, last)
