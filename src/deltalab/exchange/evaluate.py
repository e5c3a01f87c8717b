"""``deltalab eval``: a finished trial measured on a suite, task by task, each once; the journal keeps what came out."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deltalab.data.tokens import load_encoder
from deltalab.errors import ConfigError, UsageError
from deltalab.evals import read_twice
from deltalab.evals.language import ACCURACY, language_units
from deltalab.evals.retrieval import retrieval_units
from deltalab.evals.small import small_units
from deltalab.evals.unit import Unit
from deltalab.exchange.load import find_weights, load_weights, read_spec
from deltalab.spec.data import TextSpec
from deltalab.spec.launcher import Device
from deltalab.spec.suite import Suite, SuiteSpec
from deltalab.spec.trial import TrialSpec
from deltalab.track import journal
from deltalab.track.claim import claimed
from deltalab.track.journal import Journal
from deltalab.train.distributed import pick_device

TEXT = {Suite.table2: language_units, Suite.table3: retrieval_units, Suite.table4: read_twice.read_twice_units}
"""What measures the suites that ask for text."""
AVERAGED = {Suite.table2: tuple(ACCURACY), Suite.table4: tuple(read_twice.TASKS)}
"""Tasks whose mean accuracy the paper prints."""
SHOWN = {"word_perplexity": "word_perplexity_stderr", "perplexity": "perplexity_stderr", "accuracy": "stderr"}
"""Metrics that are printed, with their standard errors."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        trial: as ``exchange.load.load`` takes it; runs and study too.
        suite: what it is measured on.
        device: where the model runs.
        dtype: name of a torch type that the weights are read in; as trained where None.
        as_json: a list of what was measured instead of a line each.
    """

    trial: str
    runs: Path
    study: str | None
    suite: SuiteSpec
    device: Device
    dtype: str | None
    as_json: bool


def run_eval(asked: Request) -> None:
    """Measure what the journal does not have yet, and print all of it.

    Raises:
        UsageError: see ``exchange.load.load``; a checkpoint; a suite that the trial's vocabulary cannot express.
        Busy: another process runs or measures the trial.
    """
    weights = find_weights(asked.trial, asked.runs, asked.study)
    if weights.parent.parent.name == "checkpoints":
        raise UsageError(f"{weights}: a checkpoint; allowed is a finished trial")
    spec = read_spec(weights)
    units = suite_units(asked.suite, spec, weights.parent)
    dtype = None if asked.dtype is None else getattr(torch, asked.dtype)
    model = load_weights(weights, spec, dtype, pick_device(asked.device))
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    how = {"dtype": str(model.embedding.dtype).removeprefix("torch."), "weights": sha256}
    shown = []
    with claimed(weights.parent) as claim:
        log = Journal(weights.parent, claim)
        done = journal.read(weights.parent).evaluations
        for unit in units:
            identity = {"name": unit.name, "suite": asked.suite.suite.value, **unit.identity, **how}
            kept = next((one for one in reversed(done) if identity.items() <= one.items()), None)
            if kept is None:
                measured = {name: value for name, value in unit.run(model).items() if math.isfinite(value)}
                values = {f"{unit.name}/{name}": value for name, value in measured.items()}
                log.evaluation(spec.train.steps, values, **identity)
                kept = {"step": spec.train.steps, "values": values, **identity}
                done.append(kept)
            shown.append(kept)
            if not asked.as_json:
                print(_line(kept), flush=True)
    if asked.as_json:
        print(json.dumps(shown, indent=1))
    elif line := average(asked.suite.suite, shown):
        print(line)


def suite_units(suite: SuiteSpec, spec: TrialSpec, folder: Path) -> list[Unit]:
    """What a suite measures of a trial.

    Args:
        suite: which.
        spec: of the trial.
        folder: where its tokenizer is, if one was learnt.

    Raises:
        ConfigError: the trial's vocabulary cannot express it; see ``evals``' ``small`` and those of ``TEXT``.
    """
    if suite.suite is Suite.small:
        return small_units(suite, spec.data)
    if not isinstance(spec.data, TextSpec):
        said = f"{Suite.small.value}: the trial's vocabulary ({spec.task}, {spec.data.vocab_size} tokens) is no text"
        raise ConfigError("suite", suite.suite.value, said)
    return TEXT[suite.suite](suite, load_encoder(spec.data, folder))


def _line(measured: dict[str, Any]) -> str:
    name, values = measured["name"], measured["values"]
    figures = []
    for metric, error in SHOWN.items():
        if (value := values.get(f"{name}/{metric}")) is not None:
            spread = values.get(f"{name}/{error}")
            figures.append((metric, f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}")))
    said = ", ".join(f"{metric} {figure}" for metric, figure in figures)
    if [metric for metric, _ in figures] == ["accuracy"]:
        said = figures[0][1]
    count = int(values.get(f"{name}/samples", measured["samples"]))
    return f"{name}  {said or 'nothing to measure'}  ({count} samples, {measured['dtype']})"


def average(suite: Suite, measured: Sequence[dict[str, Any]]) -> str | None:
    """A line for the mean accuracy of a table's tasks, as its last column has it; None unless all are there."""
    names = AVERAGED.get(suite, ())
    values = {one["task"]: one["values"].get(f"{one['name']}/accuracy") for one in measured}
    found = [values[name] for name in names if values.get(name) is not None]
    if not found or len(found) < len(names):
        return None
    return f"{suite.value}/average  {sum(found) / len(found):.4f}  ({len(found)} tasks)"
