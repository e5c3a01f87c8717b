"""Plans: cells composed, matched in parameters, with their states."""

from pathlib import Path

import pytest

from deltalab.dispatch.launch import plan_study
from deltalab.errors import StudyError, UsageError
from deltalab.spec.study_file import parse_study, read_study
from deltalab.study import ledger
from deltalab.study.plan import plain_study
from deltalab.track.journal import Journal, State
from tests.specs import TWO_CELLS, study_file

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
