"""When and on how much a trial is evaluated."""

from dataclasses import dataclass, field

from deltalab.errors import ConfigError, UsageError
from deltalab.spec.suite import SuiteSpec, read_suite


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """Evaluation on held-out sequences of ``data.test_length`` tokens.

    Attributes:
        every: steps between evaluations; 0 evaluates only at the end.
        sequences: held-out sequences an evaluation reads.
        batch_size: sequences per forward pass, fewer where their logits would take more than 2 GiB.
        suites: what else the trial is measured on at its end, each as ``deltalab eval`` takes it without ``suite=``:
            ``small``, or ``small task=mqar samples=200``.
        suite_every: steps between such measurements before the end; 0 measures only there.
        sample_every: steps between samples, continuations of held-out text that are written to the run directory, at
            the end too; 0 writes none, and only a text has them.
        samples: how many, each from another sequence.
        sample_tokens: tokens of a continuation at most.
    """

    every: int = 0
    sequences: int = 512
    batch_size: int = 128
    suites: list[str] = field(default_factory=list)
    suite_every: int = 0
    sample_every: int = 0
    samples: int = 4
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        for key in ("every", "suite_every", "sample_every"):
            if getattr(self, key) < 0:
                raise ConfigError(f"eval.{key}", getattr(self, key), "a whole number from 0")
        for key in ("sequences", "batch_size", "samples", "sample_tokens"):
            if getattr(self, key) < 1:
                raise ConfigError(f"eval.{key}", getattr(self, key), "a whole number from 1")
        if self.suite_every and not self.suites:
            raise ConfigError("eval.suite_every", self.suite_every, "0 where eval.suites names none")
        _ = self.asked  # refuses what is no suite

    @property
    def asked(self) -> list[SuiteSpec]:
        """``suites``, read.

        Raises:
            ConfigError: one that is none.
        """
        found = []
        for text in self.suites:
            try:
                found.append(read_suite(text))
            except UsageError as error:
                raise ConfigError("eval.suites", text, f"suites as deltalab eval takes them; {error}") from error
        return found
