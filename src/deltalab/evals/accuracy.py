"""Loss and accuracy of a model on a task's held-out sequences, in full and by slice."""

import contextlib
import math
from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.data.batch import Batch, Task
from deltalab.model.language_model import logits_of
from deltalab.spec.eval import EvalSpec


def evaluate(
    model: nn.Module,
    task: Task,
    spec: EvalSpec,
    device: torch.device,
    autocast: contextlib.AbstractContextManager[Any] | None = None,
) -> dict[str, float]:
    """Measure a model on ``spec.sequences`` held-out sequences; its train or eval mode is left as it was.

    Args:
        model: int64 tokens [B, T] → logits [B, T, vocab].
        task: where the held-out sequences come from.
        spec: how many of them, and how many at a time.
        device: where the model is.
        autocast: entered once around all forward passes; None computes in the model's own precision.

    Returns:
        ``eval/loss`` (nats, mean over scored positions), ``eval/accuracy``, ``eval/accuracy/<slice>`` for every slice
        with a scored position, and for text ``eval/perplexity`` = exp(loss) and ``eval/bits_per_byte`` = the summed
        loss in bits over the UTF-8 bytes that the targets stand for.
    """
    sums: dict[str, Any] = defaultdict(float)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast or contextlib.nullcontext():
            for batch in task.eval_batches(spec.sequences, spec.batch_size):
                for name, value in _sums(model, batch, device).items():
                    sums[name] = sums[name] + value
                if task.token_bytes is not None:
                    sums["bytes"] += int(task.token_bytes[batch.targets[batch.scored]].sum())
    finally:
        model.train(training)
    return _metrics({name: float(value) for name, value in sums.items()})


def _sums(model: nn.Module, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Summed loss (float64), correct predictions and scored positions of a batch, and the last two of its slices."""
    tokens, targets, scored = (_on(part, device) for part in (batch.tokens, batch.targets, batch.scored))
    starts = None if batch.starts is None else _on(batch.starts, device)
    logits = logits_of(model, tokens, starts)[scored].float()
    targets = targets[scored]
    correct = logits.argmax(-1) == targets
    sums = {
        "loss": F.cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64),
        "count": scored.sum(),
        "correct": correct.sum(),
    }
    for name, mask in batch.slices.items():
        inside = _on(mask, device)[scored]
        sums |= {f"count/{name}": inside.sum(), f"correct/{name}": (correct & inside).sum()}
    return sums


def _metrics(sums: dict[str, float]) -> dict[str, float]:
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
