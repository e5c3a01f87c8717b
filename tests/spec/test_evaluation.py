"""Evaluations as trials of their own: what they are known by."""

import json
from dataclasses import replace

import pytest

from deltalab.spec.evaluation import EvaluationSpec, evaluation_study, measured_study, read_work
from deltalab.spec.suite import Suite, SuiteSpec
from tests.specs import trial

SPEC = EvaluationSpec(
    trial="0123456789ab",
    suite=SuiteSpec(suite=Suite.small, task=("mqar",), lengths=(64, 128), samples=9),
    version=1,
    weights="9f86d0",
    dtype="bfloat16",
)


def test_it_comes_back_from_json():
    assert read_work(json.loads(json.dumps(SPEC.to_dict()))) == SPEC
    spec = trial("data=recall", "eval.suites=['small samples=3']")
    assert read_work(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "changed",
    [
        {"trial": "1123456789ab"},
        {"suite": replace(SPEC.suite, task=("mqar_overwrite",))},
        {"suite": replace(SPEC.suite, samples=8)},
        {"version": 2},
        {"weights": "60303a"},
        {"dtype": None},
    ],
)
def test_its_id_is_what_decides_its_results(changed: dict[str, object]):
    assert replace(SPEC, **changed).trial_id != SPEC.trial_id  # pyright: ignore[reportArgumentType]


def test_its_id_is_not_how_many_samples_it_takes_at_a_time():
    assert replace(SPEC, suite=replace(SPEC.suite, batch_size=1)).trial_id == SPEC.trial_id


def test_names_of_studies():
    assert evaluation_study("gates", Suite.small) == "gates-eval-small"
    assert measured_study("gates-eval-small") == "gates"
    assert measured_study(evaluation_study("gates-eval-small", Suite.table3)) == "gates-eval-small"
    for name in ("gates", "gates-eval-", "gates-eval-lengths", "-eval-small-more"):
        assert measured_study(name) == name
