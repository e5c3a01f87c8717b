"""What is known of a unit once it was measured: a line of the trial's journal (``event: evaluation``).

    {"step": 600, "values": {"small/parity/64/accuracy": 0.98, …}, "name": "small/parity/64", "suite": "small",
     "task": "parity", "version": 1, "samples": 500, …, "dtype": "float32", "weights": "9f86d0…"}

Whoever measures (``deltalab eval``, a trial as it trains, a worker that a study's evaluation was handed to) asks here
whether the line is there already, and makes the same one.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from deltalab.evals.unit import Unit
from deltalab.model.language_model import LanguageModel
from deltalab.spec.suite import Suite
from deltalab.spec.trial import TrialSpec
from deltalab.track.journal import Record

Result = dict[str, Any]


class Log(Protocol):
    """What results are written to: a journal, or what writes one from a thread."""

    def evaluation(self, step: int, values: dict[str, float], **details: Any) -> None:
        """See ``Journal.evaluation``."""
        ...


def step_of_weights(record: Record, spec: TrialSpec) -> int:
    """Steps that a finished trial's weights were trained for: all, or those before ``train.max_hours`` ended it."""
    return record.step if record.early else spec.train.steps


def conditions(unit: Unit, suite: Suite, dtype: str, weights: str | None) -> dict[str, Any]:
    """What a unit is measured under, less the step: equal conditions make equal results.

    Args:
        unit: what is measured.
        suite: that it is of.
        dtype: of the weights, e.g. ``float32``.
        weights: ``weights_sha256`` of their file; None before the trial's end, when the step says which they are.
    """
    how = {"dtype": dtype} if weights is None else {"dtype": dtype, "weights": weights}
    return {"name": unit.name, "suite": suite.value, **unit.identity, **how}


def find_result(known: Sequence[Result], step: int, wanted: dict[str, Any]) -> Result | None:
    """The newest result of a step under these conditions, None where there is none."""
    return next((one for one in reversed(known) if one["step"] == step and wanted.items() <= one.items()), None)


def measure_unit(unit: Unit, model: LanguageModel, step: int, wanted: dict[str, Any]) -> Result:
    """Measure; what is no number (an error of one sample) is left out. The model's train or eval mode stays."""
    training = model.training
    model.eval()
    try:
        measured = unit.run(model)
    finally:
        model.train(training)
    values = {f"{unit.name}/{name}": value for name, value in measured.items() if math.isfinite(value)}
    return {"step": step, "values": values, **wanted}


def journal_result(log: Log, result: Result) -> None:
    """Write a result as a line of its trial's journal."""
    details = {key: value for key, value in result.items() if key not in ("step", "values")}
    log.evaluation(result["step"], result["values"], **details)


def dtype_name(model: LanguageModel) -> str:
    """``float32``, ``bfloat16``: what the model's weights are held in."""
    return str(model.embedding.dtype).removeprefix("torch.")


def weights_sha256(file: Path) -> str:
    """Hash of a file of weights, in hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
