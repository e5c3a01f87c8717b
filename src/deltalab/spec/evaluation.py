"""A finished trial measured on one task of a suite, as a trial of its own: what ``deltalab eval`` hands to workers."""

from dataclasses import dataclass
from typing import Any

from deltalab.spec.suite import Suite, SuiteSpec, suite_identity
from deltalab.spec.trial import TrialSpec, from_plain, short_hash, to_plain

KEY = "evaluation"
"""What tells a frozen evaluation from a frozen trial."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """What is measured. Its results stand in the journal of the trial that it measures.

    Attributes:
        trial: id of the trial, which has its weights.
        suite: with one task.
        version: of the task; another one is another evaluation.
        weights: hash of the trial's weights, likewise.
        dtype: name of the torch type that the weights are read in; as trained where None.
    """

    trial: str
    suite: SuiteSpec
    version: int
    weights: str
    dtype: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. ``from_dict`` restores an equal spec."""
        return {KEY: to_plain(self)}

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> "EvaluationSpec":
        """The spec that ``to_dict`` wrote."""
        inside = dict(plain[KEY])
        return EvaluationSpec(**{**inside, "suite": from_plain(SuiteSpec, inside["suite"])})

    @property
    def trial_id(self) -> str:
        """Of its own run directory, made as a trial's."""
        return short_hash({KEY: {**to_plain(self), "suite": suite_identity(self.suite)}})


Work = TrialSpec | EvaluationSpec
"""What a worker is given."""


def read_work(plain: dict[str, Any]) -> Work:
    """What a run directory's configuration holds."""
    return EvaluationSpec.from_dict(plain) if KEY in plain else TrialSpec.from_dict(plain)


def evaluation_study(study: str, suite: Suite) -> str:
    """Name of the study that the evaluations of a study's trials are: ``gates-eval-small``."""
    return f"{study}{_MARK}{suite.value}"


def measured_study(name: str) -> str:
    """The study whose trials a study of evaluations measures; any other study's own name."""
    study, mark, suite = name.rpartition(_MARK)
    return study if mark and suite in {known.value for known in Suite} else name


_MARK = "-eval-"
