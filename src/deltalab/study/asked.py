"""What may be asked of a study's trials: keys that the command line sets for all, and metrics that they log."""

from collections.abc import Mapping

from deltalab.errors import UsageError
from deltalab.spec.data import TextSpec
from deltalab.spec.study import Goal, StudySpec
from deltalab.spec.trial import TrialSpec


def refuse_overrides(study: StudySpec, overrides: Mapping[str, str]) -> None:
    """Refuse keys from the command line that the study itself varies or tunes.

    Args:
        study: the question.
        overrides: key → value from the command line.

    Raises:
        UsageError: one is set by a factor, or is what ``tune`` chooses.
    """
    setters = {key: f"factor {f}" for f, levels in study.factors.items() for level in levels.values() for key in level}
    setters |= {factor: f"factor {factor}" for factor in study.factors}
    if study.tune is not None:
        setters[study.tune.key] = "tune"
    for key, value in overrides.items():
        if (bare := key.lstrip("+")) in setters:
            raise UsageError(f"{key}={value}: {bare} is set by {setters[bare]} of study {study.name}")


def default_metrics(spec: TrialSpec) -> dict[str, Goal]:
    """The metrics of a study that names none."""
    if isinstance(spec.data, TextSpec):
        return {"eval/loss": Goal.min, "eval/bits_per_byte": Goal.min}
    return {"eval/accuracy": Goal.max, "eval/loss": Goal.min}


def refuse_unknown_metrics(study: StudySpec, spec: TrialSpec) -> None:
    """Refuse metrics, to compare or to tune by, that a trial never logs.

    Args:
        study: the question.
        spec: of one of its trials, whose task and suites decide what is logged.

    Raises:
        StudyError: one is none of the trial's.
    """
    known = ["eval/loss", "eval/accuracy", *(f"eval/accuracy/{name}" for name in spec.data.slices)]
    if isinstance(spec.data, TextSpec):
        known += ["eval/perplexity", "eval/bits_per_byte"]
    known += [f"train/{name}" for name in ("loss", "accuracy", "grad_norm", "tokens_per_second")]
    suites = tuple(f"{asked.suite.value}/" for asked in spec.eval.asked)
    known += [f"{suite}… of eval.suites" for suite in suites]
    asked = {f"metrics.{metric}": metric for metric in study.metrics}
    if study.tune is not None:
        asked["tune.metric"] = study.tune.metric
    for key, metric in asked.items():
        if metric not in known and not metric.startswith(suites):
            value = study.metrics[metric].value if key != "tune.metric" else metric
            raise study.mistake(key, value, ", ".join(known))
