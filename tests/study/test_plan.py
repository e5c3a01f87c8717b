"""Plans: cells composed, matched in parameters, with their states."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deltalab.dispatch.launch import plan_study
from deltalab.errors import StudyError, UsageError
from deltalab.spec.study_file import parse_study, read_study
from deltalab.study import ledger
from deltalab.study.plan import hydra_overrides, plain_study, recorded_plan
from deltalab.track.journal import Journal, State
from tests.specs import TWO_CELLS, study_file, trial
from tests.study.planning import HIGH, LOW, NARROW, TUNED, TWINS, WIDE, finish_tuning, planned

LATTICE = """
baseline: {variant: gated_delta_net_2, pattern: recurrent}
factors:
  variant: [gated_delta_net_2, kda, delta_net, gated_linear_attention, write_only]
  pattern: {recurrent: {variant.pattern: [mixer]}, hybrid: {variant.pattern: [mixer, swa]}}
seeds: [0, 1]
match: parameters
"""


def test_every_cell_has_the_baselines_parameters_within_half_a_percent(tmp_path: Path) -> None:
    plan = plan_study(read_study(study_file(tmp_path, LATTICE)), {}, tmp_path)
    assert len(plan.cells) == 10
    assert len(plan.specs) == 20
    assert all(abs(cell.mismatch) <= 0.005 for cell in plan.cells)
    assert not plan.warnings
    assert len({cell.overrides["model.mlp_width"] for cell in plan.cells}) > 3


def test_a_cell_that_cannot_be_matched_is_said(tmp_path: Path) -> None:
    plan = plan_study(read_study(study_file(tmp_path, LATTICE)), {"model.mlp_width": "2"}, tmp_path)
    assert any("cannot be matched" in warning for warning in plan.warnings)


def test_seeds_differ_in_nothing_but_the_seed(tmp_path: Path) -> None:
    plan = plan_study(read_study(study_file(tmp_path, TWO_CELLS)), {}, tmp_path)
    first, second = (plan.specs[trial].to_dict() for trial in plan.cells[0].trials.values())
    assert first.pop("seed") != second.pop("seed")
    assert first == second


def test_overrides_reach_every_cell_but_not_a_factors_key(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, TWO_CELLS))
    plan = plan_study(study, {"train.steps": "7"}, tmp_path)
    assert {spec.train.steps for spec in plan.specs.values()} == {7}
    with pytest.raises(UsageError, match=r"variant=kda: variant is set by factor variant"):
        plan_study(study, {"variant": "kda"}, tmp_path)


def test_an_impossible_cell_is_named(tmp_path: Path) -> None:
    text = TWO_CELLS.replace("gated_delta_net_2_wide", "gdn9")
    with pytest.raises(UsageError, match=r"cell variant=gdn9: variant=gdn9: allowed is one of"):
        plan_study(read_study(study_file(tmp_path, text)), {}, tmp_path)


def test_a_mistake_of_every_cell_is_said_without_one(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, TWO_CELLS))
    with pytest.raises(UsageError, match=r"^train.steps=abc: allowed is an integer$"):
        plan_study(study, {"train.steps": "abc"}, tmp_path)
    one = parse_study(plain_study([{"variant.tie": "true"}], [0], "gated_delta_net_2"), "command line", "one")
    with pytest.raises(UsageError, match=r"^variant.tie=true with erase="):
        plan_study(one, {}, tmp_path)


def test_the_baseline_cannot_be_excluded(tmp_path: Path) -> None:
    text = TWO_CELLS + "exclude: [{when: {variant: gated_delta_net_2}, reason: tired}]\n"
    with pytest.raises(StudyError, match="any cell but the baseline"):
        plan_study(read_study(study_file(tmp_path, text)), {}, tmp_path)


def test_a_metric_that_no_trial_reports_is_refused(tmp_path: Path) -> None:
    text = TWO_CELLS.replace("eval/accuracy: max", "eval/acuracy: max")
    with pytest.raises(StudyError, match=r"metrics.eval/acuracy=max: allowed is eval/loss, eval/accuracy"):
        plan_study(read_study(study_file(tmp_path, text)), {}, tmp_path)


def test_states_come_from_the_journals(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, TWO_CELLS))
    plan = plan_study(study, {}, tmp_path)
    done, failed, lost, fresh = plan.specs
    Journal(ledger.trial_dir(tmp_path, done)).state(State.completed)
    Journal(ledger.trial_dir(tmp_path, failed)).state(State.failed, error="boom")
    Journal(ledger.trial_dir(tmp_path, lost)).state(State.running)  # no claim: its process is gone
    states = plan_study(study, {}, tmp_path).states
    assert [states[t] for t in (done, failed, lost, fresh)] == [
        State.completed, State.failed, State.lost, State.planned,
    ]  # fmt: skip


def test_a_multirun_is_a_study_of_what_varies() -> None:
    jobs = [{"variant": v, "train.lr": lr, "train": "smoke"} for v in ("kda", "delta_net") for lr in ("1e-3", "3e-3")]
    study = parse_study(plain_study(jobs, [0, 1], "kda"), "command line", "m")
    assert set(study.factors) == {"variant", "train.lr"}
    assert study.baseline == {"variant": "kda", "train.lr": "1e-3"}
    assert study.overrides == {"train": "smoke"}


def test_a_multirun_over_seeds_alone_is_one_cell(tmp_path: Path) -> None:
    plan = plan_study(parse_study(plain_study([{}], [0, 1, 2], "kda"), "command line", "m"), {}, tmp_path)
    assert len(plan.cells) == 1
    assert len(plan.specs) == 3
    assert plan.cells[0].levels == {"variant": "kda"}


def test_a_study_record_comes_back_as_written(tmp_path: Path) -> None:
    plan = plan_study(read_study(study_file(tmp_path, TWO_CELLS)), {}, tmp_path)
    written = ledger.write_study(tmp_path, plan.study, plan.cells, "python launch.py", {"commit": "abc"})
    assert ledger.read_study(tmp_path, "ask") == written
    assert ledger.list_studies(tmp_path) == ["ask"]


def test_cells_that_compute_the_same_share_trials_named_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWINS)
    same = {cell.name: cell.equivalent for cell in plan.cells}
    first, second = "narrowing=project range=1", "narrowing=project range=2"
    assert same == {first: None, second: None, "narrowing=pool range=1": first, "narrowing=pool range=2": second}
    by_name = {cell.name: cell for cell in plan.cells}
    for name, other in same.items():
        if other:
            assert by_name[name].trials == by_name[other].trials
    assert [plan.names[trial] for trial in plan.specs] == [
        f"{name} seed={seed}" for seed in (0, 1) for name in (first, second)
    ]


def test_cells_held_equal_have_trials_of_their_own(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWINS + "equivalence: assert\n")
    assert [cell.equivalent for cell in plan.cells].count(None) == 2
    assert len(plan.specs) == len({t for cell in plan.cells for t in cell.trials.values()}) == 8
    assert len(set(plan.names.values())) == 8


def test_an_excluded_cell_stands_for_no_other(tmp_path: Path) -> None:
    text = TWINS + "exclude: [{when: {narrowing: project, range: '2'}, reason: dull}]\n"
    plan = planned(tmp_path, text)
    out = next(cell for cell in plan.cells if cell.name == "narrowing=project range=2")
    twin = next(cell for cell in plan.cells if cell.name == "narrowing=pool range=2")
    assert (out.excluded, out.trials, out.equivalent, twin.equivalent) == ("dull", {}, None, None)
    assert len(twin.trials) == 2


def test_zipped_factors_and_fractions_are_planned(tmp_path: Path) -> None:
    zipped = LATTICE.replace(
        "[gated_delta_net_2, kda, delta_net, gated_linear_attention, write_only]", "[kda, write_only]"
    )
    plan = planned(
        tmp_path, zipped.replace("variant: gated_delta_net_2", "variant: kda") + "zip: [[variant, pattern]]\n"
    )
    assert [cell.name for cell in plan.cells] == ["variant=kda pattern=recurrent", "variant=write_only pattern=hybrid"]
    text = """
baseline: {decay: channel, erase: channel, lr: low}
factors:
  decay: {channel: {variant.decay: channel}, none: {variant.decay: none}}
  erase: {channel: {variant.erase: channel}, none: {variant.erase: none}}
  lr: {low: {train.lr: 1e-3}, high: {train.lr: 3e-3}}
design: fractional_factorial
resolution: 3
"""
    plan = planned(tmp_path, text)
    assert len(plan.cells) == 4
    assert plan.cells[0].levels == {"decay": "channel", "erase": "channel", "lr": "low"}
    for cell in plan.cells:
        (trial,) = cell.trials.values()
        assert plan.specs[trial].variant.decay.value == cell.levels["decay"]
        assert plan.specs[trial].train.lr == {"low": 1e-3, "high": 3e-3}[cell.levels["lr"]]


@pytest.mark.parametrize(
    ("text", "key", "setter"),
    [
        (TUNED, "variant", "factor variant"),
        (TUNED, "train.lr", "tune"),
        (TUNED, "++train.lr", "tune"),
        (TWINS, "variant.narrowing", "factor narrowing"),
        (TWINS, "range", "factor range"),
    ],
)
def test_what_the_study_varies_cannot_be_overridden(tmp_path: Path, text: str, key: str, setter: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(tmp_path, text, **{key: "1"})
    assert str(caught.value) == f"{key}=1: {key.lstrip('+')} is set by {setter} of study ask"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seeds: [7, 8]", "seeds: [7, 8], metric: eval/los, goal: min", "tune.metric=eval/los: allowed is eval/loss, "),
        ("eval/loss: min", "eval/bits_per_byte: min", "metrics.eval/bits_per_byte=min: allowed is eval/loss, "),
        ("eval/loss: min", "eval/accuracy/1-9: max", "eval/accuracy/1-32, eval/accuracy/33-64, train/loss"),
    ],
)
def test_unknown_metrics_are_refused_with_those_there_are(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        planned(tmp_path, TUNED.replace(old, new))
    assert said in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "ask.yaml"))


def test_metrics_left_out_are_the_datas_own(tmp_path: Path) -> None:
    assert list(planned(tmp_path, LATTICE).study.metrics) == ["eval/accuracy", "eval/loss"]
    text = LATTICE + "overrides: {data: text}\n"
    assert list(planned(tmp_path, text).study.metrics) == ["eval/loss", "eval/bits_per_byte"]


def test_overrides_are_written_as_hydra_reads_them() -> None:
    merged: dict[str, Any] = {"model.value_heads": None, "variant.tie": True, "variant.pattern": ["mixer", "swa"]}
    assert hydra_overrides(merged) == ["model.value_heads=null", "variant.tie=true", "variant.pattern=[mixer,swa]"]


def test_a_plan_of_recorded_trials_needs_no_study_file(tmp_path: Path) -> None:
    before = planned(tmp_path, TUNED)
    finish_tuning(tmp_path, before, {NARROW: {LOW: 0.5, HIGH: 0.4}, WIDE: {LOW: 0.2, HIGH: 0.3}})
    plan = planned(tmp_path, TUNED)
    for spec in plan.specs.values():
        ledger.freeze(tmp_path, spec)
    record = ledger.write_study(tmp_path, plan.study, plan.cells, "python launch.py", {})
    wanted = [plan.cells[1].trials[1], plan.cells[0].tuning[HIGH][8]]
    again = recorded_plan(
        ledger.read_study(tmp_path, "ask"), wanted, tmp_path, lambda ids: ledger.glances(tmp_path, ids)
    )
    assert again.specs == {trial: plan.specs[trial] for trial in wanted}
    assert {again.names[trial] for trial in wanted} == {f"{WIDE} seed=1", f"{NARROW} {HIGH} seed=8"}
    assert again.states == {wanted[0]: State.planned, wanted[1]: State.completed}
    assert record.cells == again.cells


MANY = """
import json, sys
from pathlib import Path
from deltalab.dispatch.launch import plan_study
from deltalab.spec.study_file import parse_study

factors = {"variant": ["kda", "delta_net", "write_only", "erase_only"], "train.lr": [f"{i}e-4" for i in range(1, 11)]}
plain = {"baseline": {"variant": "kda", "train.lr": "1e-4"}, "factors": factors, "seeds": list(range(25))}
plan = plan_study(parse_study({**plain, "match": "parameters"}, "here", "many"), {}, Path(sys.argv[1]))
loaded = [name for name in ("torch", "triton", "mlflow", "datasets") if name in sys.modules]
print(json.dumps([len(plan.cells), len(plan.specs), len(set(plan.names.values())), loaded]))
"""


def test_a_thousand_trials_are_planned_without_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == [40, 1000, 1000, []]
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_trial_takes_where_its_parts_lie_from_the_newest_launch(tmp_path: Path) -> None:
    before, after = trial(), trial("train.strategy=fsdp", "train.micro_batch_size=4")
    folder = ledger.freeze(tmp_path, before)
    assert ledger.load_spec(folder) == before
    assert ledger.freeze(tmp_path, after) == folder
    assert ledger.load_spec(folder) == after
