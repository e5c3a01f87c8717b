"""Study files: what they mean and how mistakes are refused."""

from pathlib import Path

import pytest

from deltalab.errors import NotFoundError, StudyError
from deltalab.spec.study import Design, Goal, Match
from deltalab.spec.study_file import find_study, read_study
from tests.specs import study_file

GOOD = """
question: why?
baseline: {variant: kda, pattern: recurrent}
factors:
  variant: [kda, delta_net]
  pattern:
    recurrent: {variant.pattern: [mixer]}
    hybrid: {variant.pattern: [mixer, swa]}
seeds: [0, 3]
overrides: {model: tiny, train.lr: 1e-3}
match: parameters
metrics: {eval/accuracy: max}
exclude: [{when: {pattern: hybrid, variant: delta_net}, reason: known}]
"""


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, GOOD))
    assert study.name == "ask"
    assert study.factors["variant"] == {"kda": {"variant": "kda"}, "delta_net": {"variant": "delta_net"}}
    assert study.factors["pattern"]["hybrid"] == {"variant.pattern": ["mixer", "swa"]}
    assert (study.design, study.match, study.seeds) == (Design.full_factorial, Match.parameters, [0, 3])
    assert study.metrics == {"eval/accuracy": Goal.max}
    assert study.exclude[0].when == {"variant": "delta_net", "pattern": "hybrid"}


MISTAKES = [
    ("seeds: [0, 3]", "seeds: [0, 0]", "seeds=[0,0]"),
    ("seeds: [0, 3]", "seeds: [-1]", "seeds=[-1]"),
    ("match: parameters", "match: flops", "match=flops: allowed is one of none, parameters"),
    ("match: parameters", "matching: parameters", "matching=parameters: allowed is no key but"),
    ("{variant: kda, pattern: recurrent}", "{variant: kda}", "baseline.pattern=missing"),
    ("{variant: kda, pattern: recurrent}", "{variant: kdaa, pattern: recurrent}", "baseline.variant=kdaa"),
    ("{variant: kda, pattern: recurrent}", "{variant: kda, patern: hybrid}", "baseline.patern=hybrid"),
    ("{eval/accuracy: max}", "{eval/accuracy: best}", "metrics.eval/accuracy=best: allowed is max or min"),
    ("reason: known", "reason: ''", "exclude[0]"),
    ("variant: [kda, delta_net]", "variant: kda", "factors.variant=kda"),
    ("variant: [kda, delta_net]", "variant: [kda, kda]", "factors.variant=[kda,kda]"),
    ("question: why?", "design: list", "cells=0 cells"),
    ("question: why?", "design: latin", "design=latin"),
    ("question: why?", "tolerance: wide", "tolerance=wide"),
    ("question: why?", "question: [", "YAML"),
    ("question: why?", "name: ../../elsewhere", "name=../../elsewhere"),
    ("question: why?", "tolerance: .nan", "tolerance=nan"),
]


@pytest.mark.parametrize(("old", "new", "said"), MISTAKES, ids=[said for *_, said in MISTAKES])
def test_a_mistake_names_file_key_value_and_what_is_allowed(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = study_file(tmp_path, GOOD.replace(old, new))
    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_without_factors_or_of_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="at least one factor"):
        read_study(study_file(tmp_path, "baseline: {}\nfactors: {}\n"))
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(StudyError, match="YAML"):
        read_study(path)


def test_a_study_is_found_by_name_or_path_and_a_missing_one_says_which_there_are(tmp_path: Path) -> None:
    path = study_file(tmp_path, GOOD)
    assert find_study("ask", tmp_path) == find_study(str(path), tmp_path) == path
    with pytest.raises(NotFoundError, match=r"study=aks.*ask"):
        find_study("aks", tmp_path)
