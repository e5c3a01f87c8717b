"""Loss and accuracy of a model on a task's held-out sequences, in full and by slice."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.data.batch import Batch, Task
from deltalab.model.language_model import logits_of
from deltalab.model.memory import sequences_at_once
from deltalab.spec.eval import EvalSpec

SQUARES = ("correct_2", "product", "count_2", "rows")
"""Sums that an accuracy's standard error needs besides those of the accuracy."""


def measure(model: nn.Module, task: Task, spec: EvalSpec, device: torch.device) -> dict[str, float]:
    """Accuracy with its standard error. Arguments as ``totals``.

    A sequence is the unit that is drawn, so the error is that of a ratio of sums over sequences (linearised: positions
    of one sequence may go wrong together).

    Returns:
        ``accuracy``, ``stderr``, ``loss`` and ``accuracy/<slice>``, ``stderr/<slice>`` for every slice with a scored
        position; an error of one sequence is NaN.
    """
    sums = totals(model, task, spec, device)
    values = {name.removeprefix("eval/"): value for name, value in metrics_of(sums).items()}
    for name in [name for name in values if name.partition("/")[0] == "accuracy"]:
        part = name.removeprefix("accuracy")
        values[f"stderr{part}"] = _error(*(sums[f"{kind}{part}"] for kind in ("correct", "count", *SQUARES)))
    return values


def _error(correct: float, count: float, correct_2: float, product: float, count_2: float, rows: float) -> float:
    """√(n/(n−1) Σ(c_i − p·m_i)²) / Σm_i over n sequences with c_i correct of m_i positions, p = Σc_i/Σm_i."""
    if rows < 2:
        return math.nan
    p = correct / count
    spread = max(0.0, correct_2 - 2 * p * product + p * p * count_2)
    return math.sqrt(rows / (rows - 1) * spread) / count


def totals(
    model: nn.Module,
    task: Task,
    spec: EvalSpec,
    device: torch.device,
    autocast: contextlib.AbstractContextManager[Any] | None = None,
    share: tuple[int, int] = (0, 1),
) -> dict[str, float]:
    """Sums over ``spec.sequences`` held-out sequences, which ``metrics_of`` turns to metrics; the model's train or eval
    mode is left as it was.

    Args:
        model: int64 tokens [B, T] → logits [B, T, vocab].
        task: where the held-out sequences come from.
        spec: how many of them, and how many at a time.
        device: where the model is.
        autocast: entered once around all forward passes; None computes in the model's own precision.
        share: (i, n) takes batches i, i + n, i + 2 n …; the sums of all n shares add up to those of all batches.
    """
    sums: dict[str, Any] = defaultdict(float)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast or contextlib.nullcontext():
            for batch in islice(task.eval_batches(spec.sequences, spec.batch_size), share[0], None, share[1]):
                for part in _parts(batch, task.vocab_size):
                    for name, value in _sums(model, part, device).items():
                        sums[name] = sums[name] + value
                if task.token_bytes is not None:
                    sums["bytes"] += int(task.token_bytes[batch.targets[batch.scored]].sum())
    finally:
        model.train(training)
    return {name: float(value) for name, value in sums.items()}


def _parts(batch: Batch, vocab_size: int) -> Iterator[Batch]:
    """The batch in parts whose logits fit into memory."""
    rows, length = batch.tokens.shape
    at_once = sequences_at_once(vocab_size, length)
    for start in range(0, rows, at_once):
        yield batch.rows(start, min(start + at_once, rows))


def _sums(model: nn.Module, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Summed loss (float64), and of the batch and each of its slices what ``_by_sequence`` sums."""
    tokens, targets, scored = (_on(part, device) for part in (batch.tokens, batch.targets, batch.scored))
    rows = scored.nonzero()[:, 0]
    starts = None if batch.starts is None else _on(batch.starts, device)
    logits = logits_of(model, tokens, starts)[scored].float()
    targets = targets[scored]
    correct = logits.argmax(-1) == targets
    sums = {"loss": F.cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64)}
    sums |= _by_sequence(rows, correct, torch.ones_like(correct), "")
    for name, mask in batch.slices.items():
        sums |= _by_sequence(rows, correct, _on(mask, device)[scored], f"/{name}")
    return sums


def _by_sequence(rows: Tensor, correct: Tensor, inside: Tensor, part: str) -> dict[str, Tensor]:
    """Correct predictions c and positions m inside a slice: sums over sequences of c, m, c², c·m, m², and of m > 0.

    Args:
        rows: sequence of each scored position, [N].
        correct: bool [N].
        inside: bool [N].
        part: ending of the sums' names.
    """
    m = torch.bincount(rows[inside]).double()
    c = torch.bincount(rows[inside & correct], minlength=len(m)).double()
    values = {"correct": c, "count": m, "correct_2": c * c, "product": c * m, "count_2": m * m, "rows": m > 0}
    return {f"{name}{part}": value.sum() for name, value in values.items()}


def metrics_of(sums: dict[str, float]) -> dict[str, float]:
    """Metrics from the sums of ``totals``.

    Returns:
        ``eval/loss`` (nats, mean over scored positions), ``eval/accuracy``, ``eval/accuracy/<slice>`` for every slice
        with a scored position, and for text ``eval/perplexity`` = exp(loss) and ``eval/bits_per_byte`` = the summed
        loss in bits over the UTF-8 bytes that the targets stand for.
    """
    loss = sums["loss"] / sums["count"]
    values = {"eval/loss": loss, "eval/accuracy": sums["correct"] / sums["count"]}
    for name, correct in sums.items():
        kind, _, part = name.partition("/")
        if kind == "correct" and part and sums[f"count/{part}"]:
            values[f"eval/accuracy/{part}"] = correct / sums[f"count/{part}"]
    if "bytes" in sums:
        values["eval/perplexity"] = torch.tensor(loss, dtype=torch.float64).exp().item()
        values["eval/bits_per_byte"] = sums["loss"] / math.log(2) / sums["bytes"]
    return values


def _on(array: Any, device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)
