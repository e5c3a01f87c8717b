"""When and on how much a trial is evaluated."""

from dataclasses import dataclass

from deltalab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """Evaluation on held-out sequences of ``data.test_length`` tokens.

    Attributes:
        every: steps between evaluations; 0 evaluates only at the end.
        sequences: held-out sequences an evaluation reads.
        batch_size: sequences per forward pass.
    """

    every: int = 0
    sequences: int = 512
    batch_size: int = 128

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ConfigError("eval.every", self.every, "a whole number from 0")
        for key in ("sequences", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"eval.{key}", getattr(self, key), "a whole number from 1")
