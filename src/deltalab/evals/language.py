"""Table 2: language modelling and commonsense, lm-eval's tasks without examples in the prompts.

Standard errors are those of the rows, which are drawn: with x_i of n rows and s² their variance,

    mean        x̄ ± s/√n
    perplexity  e^(−x̄) ± e^(−x̄)·s/√n                                      x_i: log-probability
    by words    e^(−r) ± e^(−r)·√(n/(n−1) Σ(x_i − r·w_i)²)/Σw_i          x_i: of w_i words, r = Σx_i/Σw_i

the last two by linearising. lm-eval bootstraps the second and gives none for the third.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from deltalab.data.tokens import Encoder
from deltalab.errors import ConfigError, DeltalabError, MissingExtra
from deltalab.evals.sets import LANGUAGE, Kept, find
from deltalab.evals.unit import Unit
from deltalab.model.language_model import LanguageModel
from deltalab.spec.suite import SuiteSpec

ACCURACY = {name: "acc_norm" if name == "hellaswag" else "acc" for name in LANGUAGE if name != "wikitext"}
"""Metric that the paper's column of a task shows, by lm-eval's name; WikiText has its perplexity only."""


def language_units(asked: SuiteSpec, encoder: Encoder) -> list[Unit]:
    """The tasks asked for, all unless given.

    Args:
        asked: the suite.
        encoder: of the trial; its end of a document begins one, too.

    Raises:
        ConfigError: a task that is none, lengths, a data set that is not there.
        MissingExtra: lm-eval is not installed.
    """
    names = asked.tasks(LANGUAGE)
    if asked.lengths:
        said = f"none with suite={asked.suite.value}; max_length says how much is read at a time"
        raise ConfigError("lengths", ",".join(map(str, asked.lengths)), said)
    kept = {name: find(name, asked.data_dir) for name in names}
    try:
        from deltalab.evals.harness import LM_EVAL, task_version
    except ModuleNotFoundError as error:
        raise MissingExtra("suite=table2: lm-eval is not installed; pip install 'deltalab[eval]'") from error
    return [
        Unit(
            name=f"{asked.suite.value}/{name}",
            identity={
                "task": name, "version": task_version(name), "lm_eval": LM_EVAL, "samples": asked.samples,
                "max_length": asked.max_length, "add_bos": asked.add_bos, "data": kept[name].identity,
            },
            run=partial(measure_language, name=name, kept=kept[name], encoder=encoder, asked=asked),
        )
        for name in names
    ]  # fmt: skip


def measure_language(
    model: LanguageModel, name: str, kept: Kept, encoder: Encoder, asked: SuiteSpec
) -> dict[str, float]:
    """All metrics that lm-eval has of a task under its names, each with ``…_stderr``.

    Returns:
        Those, what the paper shows as ``accuracy`` with ``stderr``, ``samples`` (rows), and ``beheaded``, the contexts
        that ``max_length`` left no room for as a whole.

    Raises:
        DeltalabError: a perplexity overflows.
    """
    from deltalab.evals.harness import Harness, read_task, run_task

    lm = Harness(model, encoder, max_length=asked.max_length, add_bos=asked.add_bos, batch_size=asked.batch_size)
    values: dict[str, float] = {}
    try:
        metrics, rows = run_task(read_task(name, kept), lm, asked.samples)
        for metric, value in metrics.items():
            values |= {metric: value, f"{metric}_stderr": standard_error(metric, [row[metric] for row in rows])}
    except OverflowError as error:
        said = "the model gives its text so little probability that the perplexity is beyond all numbers"
        raise DeltalabError(f"task={name}: {said}; task= asks for others") from error
    values |= {"samples": len(rows), "beheaded": lm.beheaded}
    if shown := ACCURACY.get(name):
        values |= {"accuracy": values[shown], "stderr": values[f"{shown}_stderr"]}
    return values


def standard_error(metric: str, rows: Sequence[Any]) -> float:
    """Of a metric over its rows, see the head of this file; NaN of one row.

    Args:
        metric: lm-eval's name.
        rows: numbers, or of what is counted by words or bytes (log-probability, words).
    """
    n = len(rows)
    if n < 2:
        return math.nan
    if metric in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        total = sum(w for _, w in rows)
        r = sum(x for x, _ in rows) / total
        error = math.sqrt(n / (n - 1) * sum((x - r * w) ** 2 for x, w in rows)) / total
        return error / math.log(2) if metric == "bits_per_byte" else error * math.exp(-r)
    mean = sum(rows) / n
    error = math.sqrt(sum((x - mean) ** 2 for x in rows) / (n - 1) / n)
    return error * math.exp(-mean) if metric == "perplexity" else error
