"""Plans of studies that tune: what waits for it, and what it chose."""

from pathlib import Path

import pytest

from deltalab.errors import UsageError
from deltalab.study import ledger
from deltalab.track.journal import Journal, State
from tests.study.planning import HIGH, LOW, NARROW, TUNED, TWINS, WIDE, end, finish_tuning, planned, rate


def test_before_tuning_has_ended_its_trials_alone_are_planned(tmp_path: Path) -> None:
    plan = planned(tmp_path, TUNED)
    assert [cell.name for cell in plan.waiting] == [NARROW, WIDE]
    assert all(cell.trials == {} and cell.tuned is None for cell in plan.cells)
    assert [list(cell.tuning) for cell in plan.cells] == [[LOW, HIGH]] * 2
    assert len(plan.specs) == 8
    for cell in plan.cells:
        for value, trials in cell.tuning.items():
            assert list(trials) == [7, 8]
            for seed, trial in trials.items():
                assert plan.specs[trial].train.lr == rate(value)
                assert plan.specs[trial].seed == seed
                assert plan.names[trial] == f"{cell.name} {value} seed={seed}"


def test_the_compared_trials_have_their_cells_best_value_and_the_studys_seeds_only(tmp_path: Path) -> None:
    before = planned(tmp_path, TUNED)
    finish_tuning(tmp_path, before, {NARROW: {LOW: 0.5, HIGH: 0.4}, WIDE: {LOW: 0.2, HIGH: 0.3}})
    plan = planned(tmp_path, TUNED)
    assert plan.waiting == []
    assert [cell.tuned for cell in plan.cells] == ["3e-3", "1e-3"]
    assert [cell.overrides["train.lr"] for cell in plan.cells] == ["3e-3", "1e-3"]
    for cell in plan.cells:
        assert list(cell.trials) == [0, 1]
        assert {plan.specs[t].train.lr for t in cell.trials.values()} == {float(cell.tuned or "nan")}
    compared = [trial for cell in plan.cells for trial in cell.trials.values()]
    assert set(compared).isdisjoint(before.specs)
    assert list(plan.specs) == [*before.specs, *(cell.trials[seed] for seed in (0, 1) for cell in plan.cells)]
    assert plan.with_state(State.planned) == [cell.trials[seed] for seed in (0, 1) for cell in plan.cells]
    assert len(set(plan.names.values())) == len(plan.specs) == 12


def test_a_cell_waits_for_its_own_tuning_alone(tmp_path: Path) -> None:
    before = planned(tmp_path, TUNED)
    for trials in before.cells[1].tuning.values():
        for trial in trials.values():
            end(tmp_path, trial, 0.5)
    end(tmp_path, before.cells[0].tuning[LOW][7], 0.1)
    plan = planned(tmp_path, TUNED)
    assert [cell.name for cell in plan.waiting] == [NARROW]
    assert list(plan.cells[1].trials) == [0, 1]


@pytest.mark.parametrize("state", [State.failed, State.diverged, State.cancelled])
def test_a_tuning_trial_that_did_not_complete_counts_as_the_worst(tmp_path: Path, state: State) -> None:
    before = planned(tmp_path, TUNED)
    for cell in before.cells:
        for value, loss in ((LOW, 0.9), (HIGH, 0.1)):
            end(tmp_path, cell.tuning[value][7], loss)
        end(tmp_path, cell.tuning[LOW][8], 0.9)
        end(tmp_path, cell.tuning[HIGH][8], 0.1, state)
    assert [cell.tuned for cell in planned(tmp_path, TUNED).cells] == ["1e-3", "1e-3"]


@pytest.mark.parametrize("state", [State.failed, State.cancelled])
def test_a_cell_waits_for_tuning_that_can_be_run_again(tmp_path: Path, state: State) -> None:
    for trials in planned(tmp_path, TUNED).cells[1].tuning.values():
        for trial in trials.values():
            end(tmp_path, trial, 0.1, state)
    assert WIDE in [cell.name for cell in planned(tmp_path, TUNED).waiting]


def test_tuning_that_diverged_altogether_is_one_line(tmp_path: Path) -> None:
    for trials in planned(tmp_path, TUNED).cells[1].tuning.values():
        for trial in trials.values():
            end(tmp_path, trial, 0.1, State.diverged)
    with pytest.raises(UsageError) as caught:
        planned(tmp_path, TUNED)
    said = str(caught.value)
    assert said.startswith(f"cell {WIDE}: no trial of train.lr=1e-3, train.lr=3e-3 ended with a eval/loss; allowed is")
    assert "\n" not in said


def test_the_tuned_metric_and_its_direction_decide(tmp_path: Path) -> None:
    text = TUNED.replace("seeds: [7, 8]", "seeds: [7, 8], metric: train/loss, goal: max")
    for cell in planned(tmp_path, text).cells:
        for value, trials in cell.tuning.items():
            for trial in trials.values():
                Journal(ledger.trial_dir(tmp_path, trial)).metrics(20, {"train/loss": rate(value)})
                end(tmp_path, trial, -rate(value))
    assert [cell.tuned for cell in planned(tmp_path, text).cells] == ["3e-3", "3e-3"]


def test_the_values_tried_may_be_a_factors(tmp_path: Path) -> None:
    grid = "{variant: {gated_delta_net_2: [1e-3, 2e-3], gated_delta_net_2_wide: [5e-3, 6e-3]}}"
    text = TUNED.replace("[1e-3, 3e-3]", grid)
    before = planned(tmp_path, text)
    assert [list(cell.tuning) for cell in before.cells] == [
        ["train.lr=1e-3", "train.lr=2e-3"],
        ["train.lr=5e-3", "train.lr=6e-3"],
    ]
    for cell in before.cells:
        for value, trials in cell.tuning.items():
            for trial in trials.values():
                end(tmp_path, trial, abs(rate(value) - 3e-3))
    assert [cell.tuned for cell in planned(tmp_path, text).cells] == ["2e-3", "5e-3"]


def test_cells_that_share_trials_are_tuned_once(tmp_path: Path) -> None:
    text = TWINS + "tune: {key: train.lr, grid: [1e-3, 3e-3], seeds: [7]}\n"
    before = planned(tmp_path, text)
    assert len(before.specs) == 4
    assert [cell.tuning for cell in before.cells if cell.equivalent] == [
        cell.tuning for cell in before.cells if not cell.equivalent
    ]
    for cell in before.cells:
        for value, trials in cell.tuning.items():
            end(tmp_path, trials[7], abs(rate(value) - (1e-3 if cell.levels["range"] == "1" else 3e-3)))
    plan = planned(tmp_path, text)
    assert [cell.tuned for cell in plan.cells] == ["1e-3" if c.levels["range"] == "1" else "3e-3" for c in plan.cells]
    assert len(plan.specs) == 4 + 4


def test_cells_that_only_an_untuned_value_makes_equal_are_not_equivalent(tmp_path: Path) -> None:
    text = """
baseline: {layers: window}
factors: {layers: {window: {variant.pattern: [swa]}, full: {variant.pattern: [attention]}}}
seeds: [0]
overrides: {train: smoke, data.train_length: 16, data.test_length: 16}
tune: {key: model.window, grid: [4, 8], seeds: [7]}
"""  # the default window covers the sequence, those tried do not
    plan = planned(tmp_path, text)
    assert [cell.equivalent for cell in plan.cells] == [None, None]
