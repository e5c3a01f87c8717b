"""Choosing a cell's value of the tuned key from the scores of its tuning trials."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from deltalab.spec.study import Goal


def best(scores: Mapping[str, Sequence[float]], goal: Goal) -> str:
    """The value with the best mean over the tuning seeds; of equals, the first.

    A score that is not finite (a trial that diverged or failed), or that a value has not while another has, counts as
    worse than any number: fewer of them win before the mean is looked at.

    Args:
        scores: value → its scores, one per tuning seed.
        goal: which direction is better.

    Raises:
        ValueError: no value has a finite score.
    """
    finite = {value: [score for score in given if math.isfinite(score)] for value, given in scores.items()}
    if not any(finite.values()):
        raise ValueError(f"no finite score for any of {', '.join(scores)}")
    sign = 1 if goal is Goal.min else -1
    return min(
        (value for value in finite if finite[value]),
        key=lambda value: (-len(finite[value]), sign * fmean(finite[value])),
    )
