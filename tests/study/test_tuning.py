"""Which value of a tuned key wins."""

import math

import pytest

from deltalab.spec.study import Goal
from deltalab.study.tuning import best

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "goal", "chosen"),
    [
        ({"1e-3": [0.5, 0.7], "3e-3": [0.4, 0.6]}, Goal.min, "3e-3"),
        ({"1e-3": [0.5, 0.7], "3e-3": [0.4, 0.6]}, Goal.max, "1e-3"),
        ({"1e-3": [0.0, 1.0], "3e-3": [0.4, 0.4]}, Goal.min, "3e-3"),
        ({"b": [0.5, 0.5], "a": [0.25, 0.75]}, Goal.min, "b"),
        ({"b": [0.5, 0.5], "a": [0.25, 0.75]}, Goal.max, "b"),
        ({"a": [0.1, NAN], "b": [0.9, 0.9]}, Goal.min, "b"),
        ({"a": [0.9, INF], "b": [0.1, 0.1]}, Goal.max, "b"),
        ({"a": [0.1, -INF], "b": [0.9, 0.9]}, Goal.min, "b"),
        ({"a": [0.1], "b": [0.9, 0.9]}, Goal.min, "b"),
        ({"a": [], "b": [0.9]}, Goal.min, "b"),
        ({"a": [0.9, NAN], "b": [NAN, 0.8], "c": [NAN, NAN]}, Goal.min, "b"),
    ],
    ids=str,
)
def test_the_best_mean_wins_and_missing_scores_are_the_worst(
    scores: dict[str, list[float]], goal: Goal, chosen: str
) -> None:
    assert best(scores, goal) == chosen


@pytest.mark.parametrize("scores", [{}, {"a": [], "b": []}, {"a": [NAN, INF], "b": [NAN]}], ids=str)
def test_without_any_score_nothing_is_chosen(scores: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="no finite score"):
        best(scores, Goal.max)
