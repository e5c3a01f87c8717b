"""How tokens are chosen when a trained model writes on."""

import math
from dataclasses import dataclass

from deltalab.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SamplingSpec:
    """Greedy, or drawn from the model's distribution.

    Attributes:
        max_tokens: tokens a prompt is continued by at most.
        temperature: logits are divided by it; 0 always takes the most probable token.
        top_p: only the most probable tokens that together reach this probability are drawn from.
        seed: of the draws; None draws others every time.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ConfigError("max_tokens", self.max_tokens, "a whole number from 1")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError("temperature", self.temperature, "a finite number from 0 (0 is greedy)")
        if not 0 < self.top_p <= 1:
            raise ConfigError("top_p", self.top_p, "a number above 0, up to 1")
        if self.seed is not None and self.seed < 0:
            raise ConfigError("seed", self.seed, "a whole number from 0")
