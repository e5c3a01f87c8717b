"""Table 4: retrieval from real documents, by the protocol of Just Read Twice (arXiv 2407.05483), cut to 2K tokens.

    … the rest of a page. Director:                 → the page's director
    … the rest of a passage. who wrote the song     → one of the answers

A document of more than ``max_length − ANSWER`` tokens is cut to so many around the place where its answer (or its key)
stands: the cut sees the gold answer, so that the answer is in the prompt. Where none is asked to be found (TriviaQA,
DROP) the document's head stays; where none is found, its end. The model writes greedily up to the end of the line, 48
tokens at most, and is right where a gold answer is in that, whatever the case. A document whose key or value is one
character or none is dropped, as the protocol does.

The facts are those of the protocol's published code (HazyResearch/prefix-linear-attention, 7490f22), whose counts of
documents fit Table 4. lm-eval's ``swde``, ``fda``, ``squad_completion``, ``triviaqa``, ``nq_open`` and ``drop`` are
other tasks.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from deltalab.data.tokens import Encoder
from deltalab.errors import ConfigError
from deltalab.evals.continuations import write
from deltalab.evals.ruler import found
from deltalab.evals.sets import Kept, find
from deltalab.evals.unit import Unit
from deltalab.model.language_model import LanguageModel
from deltalab.spec.sampling import SamplingSpec
from deltalab.spec.suite import SuiteSpec

VERSION = 1
"""Of prompts, cut and match."""
ANSWER = 50
"""Tokens of ``max_length`` that a document may not take."""
WRITTEN = SamplingSpec(max_tokens=48)
STOP = "\n"
SUMMARY = "Summary of information above..."
"""Begins SWDE's list of keys and values, which would tell the answer's form."""

Row = dict[str, Any]


def _of_page(text: str, row: Row) -> str:
    return _fill_in(without_end(text, f"{row['key']}:").strip(), row)


def _of_filing(text: str, row: Row) -> str:
    return _fill_in(without_end(text, f"{row['key']}:").strip("\n"), row)


def _fill_in(text: str, row: Row) -> str:
    key = row["key"]
    return f"{text.strip('.')}. {key[0].upper()}{key[1:]}:"


def _of_question(text: str, row: Row) -> str:
    question = row["question"].strip()
    return f"{without_end(text.strip(), question).strip().strip('.')}. {question}"


@dataclass(frozen=True, kw_only=True)
class ReadTwice:
    """A task.

    Attributes:
        text: field of the document.
        around: fields whose first place in the document the cut is made around; none keeps the document's head.
        golds: field of the answer or answers.
        clean: document → what is left of it before the cut.
        prompt: cut document, row → prompt; no space at its end.
    """

    text: str = "context"
    around: tuple[str, ...] = ()
    golds: str = "answers"
    clean: Callable[[str], str] = str
    prompt: Callable[[str, Row], str] = _of_question


TASKS = {
    "swde": ReadTwice(
        text="text", around=("key", "value"), golds="value", clean=lambda text: text.partition(SUMMARY)[0],
        prompt=_of_page,
    ),
    "squad": ReadTwice(text="text", around=("value",), golds="value", prompt=lambda text, row: text.strip()),
    "fda": ReadTwice(text="text", around=("key", "value"), golds="value", prompt=_of_filing),
    "triviaqa": ReadTwice(prompt=lambda text, row: _of_question(re.sub(r"\[(PAR|DOC|TLE)\]", "", text), row)),
    "nq": ReadTwice(around=("answers",)),
    "drop": ReadTwice(),
}  # fmt: skip


def read_twice_units(asked: SuiteSpec, encoder: Encoder) -> list[Unit]:
    """The tasks asked for, all unless given.

    Args:
        asked: the suite.
        encoder: of the trial; its end of a document begins one, too.

    Raises:
        ConfigError: a task that is none, lengths, no room for a document, a data set that is not there.
    """
    names = asked.tasks(TASKS)
    if asked.lengths:
        said = f"none with suite={asked.suite.value}; max_length says how much a prompt and its answer may take"
        raise ConfigError("lengths", ",".join(map(str, asked.lengths)), said)
    if asked.max_length <= 2 * ANSWER:
        raise ConfigError("max_length", asked.max_length, f"from {2 * ANSWER + 1} with suite={asked.suite.value}")
    units = []
    for name in names:
        kept = find(name, asked.data_dir)
        identity = {
            "task": name, "version": VERSION, "samples": asked.samples, "max_length": asked.max_length,
            "add_bos": asked.add_bos, "data": kept.identity,
        }  # fmt: skip
        run = partial(measure_read_twice, name=name, kept=kept, encoder=encoder, asked=asked)
        units.append(Unit(name=f"{asked.suite.value}/{name}", identity=identity, run=run))
    return units


def measure_read_twice(
    model: LanguageModel, name: str, kept: Kept, encoder: Encoder, asked: SuiteSpec
) -> dict[str, float]:
    """``accuracy``, ``stderr``, ``samples`` (prompts), ``dropped`` documents, and ``cut``, the share of prompts that is
    of a document that was cut."""
    task, begin = TASKS[name], [encoder.end] if asked.add_bos else []
    rows = pq.read_table(kept.file).slice(0, asked.samples).to_pylist()
    prompts, golds, whole = [], [], 0
    for row in rows:
        document = task.clean(row[task.text]).strip()
        text = cut(document, row, task, encoder, begin, asked.max_length - ANSWER)
        if text is not None:
            prompts.append(begin + encoder.encode_text(task.prompt(text, row)))
            golds.append(_texts(row[task.golds]))
            whole += len(text) >= len(document)

    def right(number: int, text: str) -> bool:
        return any(found(gold, text) for gold in golds[number] if gold)

    room = asked.batch_size * asked.max_length
    texts = write(model, encoder, prompts, [STOP], WRITTEN, room, enough=right)
    n = len(prompts)
    values: dict[str, float] = {"samples": n, "dropped": len(rows) - n}
    if n:
        p = sum(map(right, range(n), texts)) / n
        error = math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan
        values |= {"accuracy": p, "stderr": error, "cut": 1 - whole / n}
    return values


def cut(document: str, row: Row, task: ReadTwice, encoder: Encoder, begin: Sequence[int], room: int) -> str | None:
    """As much of a document as has room, around where its answer stands; None of one that is dropped.

    Args:
        document: without white space around it.
        row: all its fields.
        task: which of them say where.
        encoder: text ↔ tokens.
        begin: tokens that a tokenizer puts before a text.
        room: tokens.
    """
    wanted = [next(iter(_texts(row[field])), "") for field in task.around]
    if any(len(text) < 2 for text in wanted):
        return None
    tokens = [*begin, *encoder.encode_text(document)]
    place = _place(document, wanted, row) if wanted else 0
    centre = len(begin) + len(encoder.encode_text(document[: -1 if place is None else place]))
    if place is None and centre > room and row.get("tok_pos") is not None:
        centre = row["tok_pos"]
    start = max(0, centre - room // 2)
    part = tokens[start : start + room]
    text = b"".join(map(encoder.bytes_of, part)).decode(errors="ignore")  # half a character at a cut is left out
    return text.removeprefix(" ")  # SentencePiece writes one before its first word


def without_end(text: str, end: str) -> str:
    """A text without all copies of another at its end, whatever their case."""
    while end and text.lower().endswith(end.lower()):
        text = text[: -len(end)]
    return text


def _place(document: str, wanted: Sequence[str], row: Row) -> int | None:
    """Where the first of what is wanted begins; else the first of the row's other answers that is there at all."""
    for texts in (wanted, *([other] for other in row.get("alt_answers") or [])):
        places = [match.start() for text in texts if (match := re.search(re.escape(text), document, re.IGNORECASE))]
        if places:
            return min(places)
    return None


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
