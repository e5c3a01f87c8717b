"""When and on how much a trial is evaluated."""

from dataclasses import dataclass

from deltalab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """Evaluation on held-out sequences of ``data.test_length`` tokens.

    Attributes:
        every: steps between evaluations; 0 evaluates only at the end.
        sequences: held-out sequences an evaluation reads.
        batch_size: sequences per forward pass, fewer where their logits would take more than 2 GiB.
        sample_every: steps between samples, continuations of held-out text that are written to the run directory, at
            the end too; 0 writes none, and only a text has them.
        samples: how many, each from another sequence.
        sample_tokens: tokens of a continuation at most.
    """

    every: int = 0
    sequences: int = 512
    batch_size: int = 128
    sample_every: int = 0
    samples: int = 4
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        for key in ("every", "sample_every"):
            if getattr(self, key) < 0:
                raise ConfigError(f"eval.{key}", getattr(self, key), "a whole number from 0")
        for key in ("sequences", "batch_size", "samples", "sample_tokens"):
            if getattr(self, key) < 1:
                raise ConfigError(f"eval.{key}", getattr(self, key), "a whole number from 1")
