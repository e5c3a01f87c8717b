"""The small suite: the drawn tasks that a trial's vocabulary expresses, longer and fuller than it was trained on.

A trial on recall is asked for recall with every key bound once, with overwritten keys and among distractors, with its
own, twice and four times as many pairs; a trial on a group for its word problem; on selective copying, registers and
needles for those; on bytes of text for needles. Lengths are the training length, its double and its fourfold unless
given.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from deltalab.data.batch import make_task
from deltalab.errors import ConfigError
from deltalab.evals.accuracy import measure
from deltalab.evals.unit import Unit
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import DataSpec, NeedleSpec, RecallSpec, TextSpec
from deltalab.spec.eval import EvalSpec
from deltalab.spec.expressible import refuse_inexpressible, small_tasks, spare_keys
from deltalab.spec.suite import SuiteSpec
from deltalab.spec.trial import to_plain

VERSION = 1
"""Of the tasks below; the sequences are the held-out ones of ``deltalab.data``."""
TIMES = (1, 2, 4)
"""Training lengths, and numbers of pairs, that are asked for."""


def small_units(asked: SuiteSpec, data: DataSpec) -> list[Unit]:
    """The tasks and lengths asked for.

    Args:
        asked: the suite; its tasks are those that the trial's vocabulary expresses unless given.
        data: of the trial.

    Raises:
        ConfigError: a task that is none, or that the vocabulary cannot express; a length in which nothing fits.
    """
    refuse_inexpressible(asked, data)
    units = []
    for name in asked.task or small_tasks(data):
        for length in asked.lengths or [data.train_length * times for times in TIMES]:
            found = list(_units(asked, name, data, length))
            if not found and asked.lengths:
                raise ConfigError("lengths", length, f"longer: {name} does not fit")
            units += found
    return units


def _units(asked: SuiteSpec, name: str, data: DataSpec, length: int) -> Iterator[Unit]:
    for part, spec in _specs(name, data, length):
        identity: dict[str, Any] = {
            "task": name, "version": VERSION, "length": length, "samples": asked.drawn, "max_length": length,
            "add_bos": False, "part": part, "data": to_plain(spec),
        }  # fmt: skip
        run = partial(_measure, spec=spec, evaluation=EvalSpec(sequences=asked.drawn, batch_size=asked.batch_size))
        label = "/".join(filter(None, (asked.suite.value, name, str(length), part)))
        yield Unit(name=label, identity=identity, run=run)


def _specs(name: str, data: DataSpec, length: int) -> Iterator[tuple[str, DataSpec]]:
    """What is drawn at a length, each with the ending of its name; nothing where the length has no room."""
    if isinstance(data, RecallSpec):
        variations = [(f"pairs-{data.pairs * times}", _recall(name, data, times)) for times in TIMES]
        lengths = {"train_length": length, "test_length": length}  # the first decides nothing that is held out
    else:
        needle = NeedleSpec(train_length=data.train_length, test_length=data.train_length)
        variations = [("", {})]
        data, lengths = needle if isinstance(data, TextSpec) else data, {"test_length": length}
    for part, changed in variations:
        with contextlib.suppress(ConfigError):  # no room, in the length or in the vocabulary
            yield part, replace(data, **lengths, **changed)


def _recall(name: str, data: RecallSpec, times: int) -> dict[str, int]:
    """Pairs, and in proportion what the name says: as many overwrites or distractors a pair as the trial was trained
    on; where on none, an overwrite for every second pair and a distractor for each, as far as the vocabulary goes."""
    pairs, room = times * data.pairs, spare_keys(data) - (times - 1) * data.pairs
    overwrites = max(1, times * (data.overwrites or data.pairs // 2))
    distractors = min(times * (data.distractors or data.pairs), room) or -1  # none is another task, and refused
    return {
        "pairs": pairs,
        "overwrites": overwrites if name == "mqar_overwrite" else 0,
        "distractors": distractors if name == "mqar_distractors" else 0,
    }


def _measure(model: LanguageModel, spec: DataSpec, evaluation: EvalSpec) -> dict[str, float]:
    return measure(model, make_task(spec, 0), evaluation, model.embedding.device)
