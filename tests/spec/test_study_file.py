"""Study files: what they mean and how mistakes are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deltalab.errors import NotFoundError, StudyError
from deltalab.spec import study_file as study_file_module
from deltalab.spec.study import Design, Equivalence, Goal, Match, TuneSpec
from deltalab.spec.study_file import find_study, parse_study, read_study
from deltalab.spec.trial import to_plain
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
    assert (study.equivalence, study.tune, study.zipped, study.within) == (Equivalence.share, None, [], [])


def test_factors_to_compare_within_are_in_the_studys_order_and_zipped_ones_together(tmp_path: Path) -> None:
    text = """
baseline: {task: a, length: short, gates: tied}
factors: {task: {a: {}, b: {}}, length: {short: {}, long: {}}, gates: {tied: {}, untied: {}}}
"""
    assert read_study(study_file(tmp_path, text + "within: [length, task]\n")).within == ["task", "length"]
    zipped = text + "zip: [[task, length]]\n"
    assert read_study(study_file(tmp_path, zipped + "within: [task, length]\n")).within == ["task", "length"]
    with pytest.raises(StudyError, match=r"within=\[task\]: allowed is all or none of task, length, which zip varies"):
        read_study(study_file(tmp_path, zipped + "within: [task]\n"))


def test_the_example_of_the_module_is_a_good_file() -> None:
    example = (study_file_module.__doc__ or "").split("\n\n", 1)[1]
    study = parse_study(yaml.safe_load(example), "example", "ask")
    assert study.tune is not None
    assert study.zipped == [["variant", "pattern"]]


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
    ("question: why?", "design: [list]", "design=[list]"),
    ("question: why?", "cells: [{}]", "cells=[{}]: allowed is only with design: list"),
    ("question: why?", "resolution: 3", "resolution=3: allowed is only with design: fractional_factorial"),
    ("question: why?", "design: fractional_factorial\nresolution: 6", "resolution=6: allowed is 3, 4 or 5"),
    ("question: why?", "equivalence: maybe", "equivalence=maybe: allowed is one of share, assert"),
    ("question: why?", "zip: [variant, pattern]", "zip[0]=variant: allowed is a list of two or more factors"),
    ("question: why?", "zip: [[variant]]", "zip[0]=[variant]: allowed is a list of two or more factors"),
    ("question: why?", "zip: [[variant, lr]]", "zip[0]=lr: allowed is factors of this study: variant, pattern"),
    ("question: why?", "zip: [[variant, variant]]", "zip[0]=[variant,variant]: allowed is every factor once"),
    ("question: why?", "zip: [[variant, pattern], [pattern, variant]]", "zip[1]=[pattern,variant]: allowed is every"),
    ("question: why?", "within: pattern", "within=pattern: allowed is a list"),
    ("question: why?", "within: [patern]", "within[0]=patern: allowed is factors of this study: variant, pattern"),
    ("question: why?", "within: [pattern, pattern]", "within=[pattern,pattern]: allowed is every factor once"),
    ("question: why?", "within: [pattern, variant]", "within=[pattern,variant]: allowed is fewer than all factors"),
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
    with pytest.raises(StudyError, match="file=empty: allowed is a mapping of name, question"):
        read_study(study_file(tmp_path, "# nothing yet\n"))
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(StudyError, match="YAML"):
        read_study(path)


def test_a_study_is_found_by_name_or_path_and_a_missing_one_says_which_there_are(tmp_path: Path) -> None:
    path = study_file(tmp_path, GOOD)
    assert find_study("ask", tmp_path) == find_study(str(path), tmp_path) == path
    with pytest.raises(NotFoundError, match=r"study=aks.*ask"):
        find_study("aks", tmp_path)


ZIPPED = """
baseline: {variant: kda, rate: slow}
factors:
  variant: [kda, delta_net]
  rate: {slow: {train.lr: 1e-3}, fast: {train.lr: 1e-2}}
zip: [[variant, rate]]
"""


def test_zipped_factors_are_read_and_their_levels_are_in_step(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, ZIPPED + "design: list\ncells: [{rate: fast, variant: delta_net}]"))
    assert study.zipped == [["variant", "rate"]]
    assert study.cells == [{"variant": "delta_net", "rate": "fast"}]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "rate: slow}",
            "rate: fast}",
            "baseline.variant=kda with fast: allowed is variant with rate in step: kda with",
        ),
        ("zip:", "design: list\ncells: [{variant: kda, rate: fast}]\nzip:", "cells[0].variant=kda with fast"),
        ("zip:", "exclude: [{when: {variant: kda, rate: fast}, reason: r}]\nzip:", "exclude[0].when.variant=kda with"),
        ("[kda, delta_net]", "[kda, delta_net, write_only]", "as many levels each (here variant: 3, rate: 2)"),
    ],
)
def test_factors_out_of_step_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        read_study(study_file(tmp_path, ZIPPED.replace(old, new)))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"), [("", 4), ("resolution: 3", 3), ("resolution: V", 5), ("resolution: III", 3)]
)
def test_the_resolution_is_a_number_or_roman(tmp_path: Path, given: str, meant: int) -> None:
    assert read_study(study_file(tmp_path, f"{GOOD}design: fractional_factorial\n{given}")).resolution == meant


TUNE: dict[str, Any] = {"key": "train.wd", "grid": [0.1, 0.2], "seeds": [5, 6]}


def tuned(tmp_path: Path, **changes: Any) -> TuneSpec:
    """The tuning of GOOD with TUNE, keys changed or, None, left out."""
    tune = {key: value for key, value in {**TUNE, **changes}.items() if value is not None}
    spec = read_study(study_file(tmp_path, GOOD), {"tune": tune}).tune
    assert spec is not None
    return spec


def test_tuning_takes_metric_and_goal_from_the_study_unless_it_says_them(tmp_path: Path) -> None:
    assert tuned(tmp_path) == TuneSpec(
        key="train.wd", grid=[0.1, 0.2], seeds=[5, 6], metric="eval/accuracy", goal=Goal.max
    )
    assert tuned(tmp_path, metric="eval/loss").goal is Goal.min
    assert tuned(tmp_path, metric="train/loss", goal="min").goal is Goal.min
    without = read_study(study_file(tmp_path, GOOD.replace("metrics:", "#")), {"tune": TUNE}).tune
    assert without is not None
    assert (without.metric, without.goal) == ("eval/loss", Goal.min)


def test_the_values_tried_may_depend_on_a_factor(tmp_path: Path) -> None:
    grid = {"variant": {"kda": [1, 2], "delta_net": [3, 4]}}
    spec = tuned(tmp_path, grid=grid)
    assert spec.values({"variant": "kda", "pattern": "hybrid"}) == [1, 2]
    assert spec.values({"variant": "delta_net", "pattern": "hybrid"}) == [3, 4]
    assert tuned(tmp_path).values({"variant": "kda", "pattern": "hybrid"}) == [0.1, 0.2]


def test_a_study_with_tuning_becomes_json(tmp_path: Path) -> None:
    grid = {"variant": {"kda": [1, 2], "delta_net": [3, 4]}}
    plain = json.loads(json.dumps(to_plain(read_study(study_file(tmp_path, GOOD), {"tune": {**TUNE, "grid": grid}}))))
    assert plain["tune"]["grid"] == grid["variant"]
    assert (plain["tune"]["goal"], plain["equivalence"]) == ("max", "share")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [3, 4]}, "tune.seeds=[3,4]: allowed is seeds that are not compared on (seeds: [0,3])"),
        ({"seeds": []}, "tune.seeds=[]: allowed is a list of different whole numbers"),
        ({"seeds": 1}, "tune.seeds=1"),
        ({"seeds": None}, "tune.seeds=missing"),
        ({"key": "variant"}, "tune.key=variant: allowed is a key that nothing else sets (factor variant does)"),
        ({"key": "variant.pattern"}, "(factor pattern does)"),
        ({"key": "train.lr"}, "tune.key=train.lr: allowed is a key that nothing else sets (overrides does)"),
        ({"key": "model.mlp_width"}, "(match does)"),
        ({"key": "seed"}, "(seeds does)"),
        ({"grid": [0.1]}, "tune.grid=[0.1]: allowed is a list of two or more different values"),
        ({"grid": ["1e-3", 0.001]}, "tune.grid=[1e-3,0.001]: allowed is a list of two or more different values"),
        ({"grid": 3}, "tune.grid=3: allowed is"),
        ({"grid": {"speed": {}}}, "tune.grid=speed: allowed is a list, or one factor with"),
        ({"grid": {"variant": {}, "pattern": {}}}, "tune.grid=variant,pattern"),
        ({"grid": {"variant": {"kda": [1, 2]}}}, "tune.grid.variant=kda: allowed is a list per level: kda, delta_net"),
        ({"grid": {"variant": {"kda": [1, 2], "delta_net": [1]}}}, "tune.grid.variant.delta_net=[1]"),
        (
            {"grid": {"variant": {"kda": [1, 2], "delta_net": [1, 2, 3]}}},
            "tune.grid.variant=kda: 2, delta_net: 3: allowed is lists of one length: every cell is tuned on the same",
        ),
        ({"metric": "train/loss"}, "tune.goal=missing: allowed is max or min, for train/loss is not in metrics"),
        ({"goal": "best"}, "tune.goal=best: allowed is max or min"),
        ({"trials": 9}, "tune.trials=9: allowed is no key but key, grid, seeds, metric, goal"),
    ],
    ids=str,
)
def test_a_mistake_in_tuning_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyError) as caught:
        tuned(tmp_path, **changes)
    assert str(caught.value).startswith("command line: tune")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_values_are_read_by_the_rules_of_a_file(tmp_path: Path) -> None:
    path = study_file(tmp_path, GOOD)
    assert parse_study(yaml.safe_load(GOOD), str(path), "ask") == read_study(path)
    with pytest.raises(StudyError, match=r"^command line: seeds=\[0,0\]: allowed"):
        parse_study({**yaml.safe_load(GOOD), "seeds": [0, 0]}, "command line", "ask")
    with pytest.raises(StudyError, match=r"^command line: sedes=1: allowed is no key but"):
        parse_study({"sedes": 1}, "command line", "ask")
    with pytest.raises(StudyError, match=r"^command line: name=a/b"):
        parse_study(yaml.safe_load(GOOD), "command line", "a/b")


def test_changes_replace_keys_of_the_file_and_answer_for_themselves(tmp_path: Path) -> None:
    path = study_file(tmp_path, GOOD)
    study = read_study(path, {"seeds": [7], "design": "one_at_a_time"})
    assert (study.seeds, study.design, study.match, study.source) == (
        [7],
        Design.one_at_a_time,
        Match.parameters,
        str(path),
    )
    with pytest.raises(StudyError, match=r"^command line: seeds=7"):
        read_study(path, {"seeds": 7})
    with pytest.raises(StudyError, match=r"^command line: sedes=7"):
        read_study(path, {"sedes": 7})
    with pytest.raises(StudyError, match=r"^command line: cells=0 cells: allowed is at least one with design: list"):
        read_study(path, {"design": "list"})
    path = study_file(tmp_path, GOOD + "tolerance: wide")
    with pytest.raises(StudyError) as caught:
        read_study(path, {"seeds": [7]})
    assert str(caught.value).startswith(f"{path}: tolerance=wide")


def test_another_design_leaves_behind_what_went_with_the_files(tmp_path: Path) -> None:
    path = study_file(tmp_path, GOOD + "design: list\ncells: [{variant: kda, pattern: hybrid}]")
    assert read_study(path, {"design": "full_factorial"}).cells == []
    assert read_study(path, {"design": "list"}).cells == [{"variant": "kda", "pattern": "hybrid"}]
    with pytest.raises(StudyError, match=r"^command line: cells"):
        read_study(path, {"design": "full_factorial", "cells": [{"variant": "kda", "pattern": "hybrid"}]})
