"""The small suite: the drawn tasks that a trial's vocabulary expresses, longer and fuller than it was trained on.

A trial on recall is asked for recall with every key bound once, with overwritten keys and among distractors, with its
own, twice and four times as many pairs; a trial on a group for its word problem; on selective copying and needles for
those; on bytes of text for needles. Lengths are the training length, its double and its fourfold unless given.
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
from deltalab.spec.data import (
    BYTE_VOCAB,
    DataSpec,
    Group,
    NeedleSpec,
    RecallSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
)
from deltalab.spec.eval import EvalSpec
from deltalab.spec.suite import SuiteSpec
from deltalab.spec.trial import to_plain

VERSION = 1
"""Of the tasks below; the sequences are the held-out ones of ``deltalab.data``."""
TIMES = (1, 2, 4)
"""Training lengths, and numbers of pairs, that are asked for."""
GROUPS = {Group.Z2: "parity"}
"""Groups whose word problem has a name of its own."""
MQAR = ("mqar", "mqar_overwrite", "mqar_distractors")
NAMES = (*MQAR, "selective_copy", "needle", *(GROUPS.get(group, group.value.lower()) for group in Group), "group")
"""Every task of the suite; ``group`` is one given by generators."""


def small_units(asked: SuiteSpec, data: DataSpec) -> list[Unit]:
    """The tasks and lengths asked for.

    Args:
        asked: the suite; its tasks are those that the trial's vocabulary expresses unless given.
        data: of the trial.

    Raises:
        ConfigError: a task that is none, or that the vocabulary cannot express; a length in which nothing fits.
    """
    known = expressible(data)
    for name in asked.task:
        if name not in NAMES:
            raise ConfigError("task", name, NAMES)
        if name not in known:
            said = f"{', '.join(known) or 'none'}: the trial's vocabulary cannot express others"
            raise ConfigError("task", name, said)
    if not known:
        said = "another: the trial's vocabulary (a BPE) cannot express any of its tasks"
        raise ConfigError("suite", asked.suite.value, said)
    units = []
    for name in asked.task or known:
        for length in asked.lengths or [data.train_length * times for times in TIMES]:
            found = list(_units(asked, name, data, length))
            if not found and asked.lengths:
                raise ConfigError("lengths", length, f"longer: {name} does not fit")
            units += found
    return units


def expressible(data: DataSpec) -> tuple[str, ...]:
    """The tasks whose tokens mean what the trial was trained on."""
    if isinstance(data, RecallSpec):
        return MQAR if _room(data) else MQAR[:2]
    if isinstance(data, StateTrackingSpec):
        named = GROUPS.get(data.group, data.group.value.lower())
        return (named if data.generators is None else "group",)
    if isinstance(data, SelectiveCopySpec):
        return ("selective_copy",)
    if isinstance(data, NeedleSpec) or (isinstance(data, TextSpec) and data.vocab_size == BYTE_VOCAB):
        return ("needle",)
    return ()


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
    pairs, room = times * data.pairs, _room(data) - (times - 1) * data.pairs
    overwrites = max(1, times * (data.overwrites or data.pairs // 2))
    distractors = min(times * (data.distractors or data.pairs), room) or -1  # none is another task, and refused
    return {
        "pairs": pairs,
        "overwrites": overwrites if name == "mqar_overwrite" else 0,
        "distractors": distractors if name == "mqar_distractors" else 0,
    }


def _room(data: RecallSpec) -> int:
    """Keys that the vocabulary has besides those of the pairs."""
    return data.vocab // 2 - 1 - data.pairs


def _measure(model: LanguageModel, spec: DataSpec, evaluation: EvalSpec) -> dict[str, float]:
    return measure(model, make_task(spec, 0), evaluation, model.embedding.device)
