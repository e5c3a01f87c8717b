"""What a model writes on from held-out text: to be read, not measured.

A sample is the beginning of a held-out sequence, what the model finds most probable after it, and what stands there.
"""

from dataclasses import dataclass

from deltalab.data.text import TextTask
from deltalab.model.generate import generate
from deltalab.model.language_model import LanguageModel
from deltalab.spec.eval import EvalSpec
from deltalab.spec.sampling import SamplingSpec

PROMPT = 64
"""Tokens of a prompt at most: no more than half of a held-out sequence."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A prompt, what the model writes on, and how the text goes on."""

    prompt: str
    written: str
    true: str


def samples(model: LanguageModel, task: TextTask, spec: EvalSpec) -> list[Sample]:
    """Greedy continuations of the first held-out sequences; the model's train or eval mode is left as it was.

    Args:
        model: trained on the task.
        task: where the text comes from.
        spec: how many, and how many tokens of each.
    """
    rows = next(task.eval_batches(spec.samples, spec.samples)).tokens
    cut = max(1, min(PROMPT, rows.shape[1] // 2))
    training = model.training
    model.eval()
    try:
        sampling = SamplingSpec(max_tokens=spec.sample_tokens)
        written = generate(model, rows[:, :cut].tolist(), sampling, stop={task.encoder.end})
    finally:
        model.train(training)
    return [
        Sample(
            prompt=task.encoder.decode(row[:cut].tolist()),
            written=task.encoder.decode(tokens),
            true=task.encoder.decode(row[cut : cut + spec.sample_tokens].tolist()),
        )
        for row, tokens in zip(rows, written, strict=True)
    ]


def page(step: int, found: list[Sample]) -> str:
    """Samples of a step as a text to read."""
    lines = [f"step {step}"]
    for number, sample in enumerate(found, start=1):
        lines += [f"--- {number} of {len(found)}, prompt", sample.prompt, "--- written", sample.written]
        lines += ["--- true", sample.true]
    return "\n".join(lines) + "\n"
