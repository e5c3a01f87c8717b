"""What the pictures show of studies with a known truth, and that each is drawn where there is data for it."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from analysis.canvas import DARK
from analysis.collate import Results, collate
from analysis.crossing import crossing_tables, crossings
from analysis.figures import draw_all
from analysis.lengths import lengths_of
from analysis.rates import given_away, rates_table, sensitivity
from analysis.statistics import summarise
from analysis.tradeoff import costs, front
from deltalab.spec.study import Exclusion, Goal
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord
from tests.analysis.studies import ACCURACY, LOSS, Levels, Outcome, constant, falling, make_study

RATES = {rate: {"train.lr": float(rate)} for rate in ("1e-3", "3e-3", "1e-2")}
BEST = {"kda": "3e-3", "delta_net": "1e-2"}


def rated(levels: Levels, seed: int) -> Outcome:
    """Every variant has a best rate, and trains at a speed of its own."""
    good = 0.9 if levels["train.lr"] == BEST[levels["variant"]] else 0.6
    values = {ACCURACY: good + seed / 100, LOSS: 1 - good}
    values |= {f"small/parity/{n}/accuracy": good - n / 1000 for n in (32, 64)} | {"small/mqar/64/accuracy": 0.5}
    values |= {f"eval/accuracy/gap/{part}": good for part in ("1-4", "5-16")}
    return Outcome(values=values, curve=falling(1.0, 0.2), speed=2000.0 if levels["variant"] == "kda" else 1000.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    runs = tmp_path_factory.mktemp("runs")
    made = make_study(runs, {"variant": list(BEST), "train.lr": RATES}, rated, seeds=2)
    return collate(runs, made.name)


def test_every_picture_there_is_data_for(results: Results):
    drawn = {picture.name: picture for picture in draw_all(results, summarise(results))}
    assert list(drawn) == [
        "values", "differences", "effects", "interactions", "rates", "speed", "slices", "lengths", "curves",
    ]  # fmt: skip
    assert drawn["slices"].title == "eval/accuracy/gap by gap"
    for picture in drawn.values():
        colors = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", picture.svg.partition("</style>")[2]))
        assert colors <= set(DARK), f"{picture.name}: these have none on dark paper"
        assert "@media screen and (prefers-color-scheme: dark)" in picture.svg


def test_rates_say_what_a_wrong_one_costs(results: Results):
    found = sensitivity(results)
    assert found is not None
    assert found.rates == [0.001, 0.003, 0.01]
    assert [given_away(group, Goal.max) for group in found.groups] == pytest.approx([0.2, 0.2])
    rows = [[item.text for item in row] for row in rates_table(found).rows]
    assert [row[0] for row in rows] == ["kda", "delta_net"]
    assert [row[-2] for row in rows] == ["0.003", "0.01"]
    table = rates_table(found)
    assert [row[-2].marks for row in table.rows] == [(), ("a",)]
    assert table.notes == [("a", "at the edge of the grid: a rate beyond it may be better still")]
    assert [[item.bold for item in row[1:4]] for row in table.rows] == [[False, True, False], [False, False, True]]


def test_tuning_tells_of_rates_on_its_own_seeds(tmp_path: Path):
    losses = constant({("1e-3",): [0.5], ("1e-2",): [0.7]}, LOSS)
    tries = make_study(tmp_path, {"train.lr": ["1e-3", "1e-2"]}, losses, seeds=1, name="tries")
    tuning = {f"train.lr={cell.levels['train.lr']}": {7: cell.trials[0]} for cell in tries.record.cells}

    def tune(cell: CellRecord) -> CellRecord:
        return dataclasses.replace(cell, tuning=tuning, tuned="1e-3", trials=tuning["train.lr=1e-3"])

    made = make_study(tmp_path, {"variant": ["kda"]}, lambda *_: Outcome(state=None), seeds=1, change=tune)
    assert sensitivity(collate(tmp_path, made.name)) is None, "it tunes nothing"
    path = ledger.study_dir(tmp_path, made.name) / "study.json"
    plain = json.loads(path.read_text())
    plain["study"]["tune"] = {"key": "train.lr", "seeds": [7], "metric": LOSS, "goal": "min", "grid": [1e-3, 1e-2]}
    path.write_text(json.dumps(plain))
    found = sensitivity(collate(tmp_path, made.name))
    assert found is not None
    assert (found.key, found.metric, found.source) == ("train.lr", LOSS, "over the tuning's seed 7")
    assert {rate: one.mean for rate, one in found.groups[0].found.items()} == {0.001: 0.5, 0.01: 0.7}


def test_two_factors_cross_with_holes_that_say_why(tmp_path: Path):
    values: dict[tuple[str, ...], list[float | None]] = {
        ("a", "x"): [0.1, 0.2], ("a", "y"): [0.3, 0.4], ("b", "x"): [0.5, None],
    }  # fmt: skip
    exclude = [Exclusion(when={"gate": "b", "norm": "y"}, reason="it cannot be")]
    made = make_study(
        tmp_path, {"gate": ["a", "b"], "norm": ["x", "y"]}, constant(values), seeds=2, exclude=exclude,
        metrics={ACCURACY: Goal.max},
    )  # fmt: skip
    found = collate(tmp_path, made.name)
    (table,) = crossing_tables(found)
    assert [column.title for column in table.columns] == ["gate", "x", "y"]
    assert [[item.text.split()[0] for item in row] for row in table.rows] == [
        ["a", "0.150", "0.350"],
        ["b", "0.500", "–"],
    ]
    assert table.notes == [("a", "1 of 2 seeds"), ("b", "the study does not run these levels together")]
    assert table.rows[0][2].bold
    (crossing,) = crossings(found, found.metrics[0])
    assert not crossing.whole, "no interaction can be seen"


def test_pairs_of_three_factors_are_averaged_over_the_third(tmp_path: Path):
    factors = {"a": ["a0", "a1"], "b": ["b0", "b1"], "c": ["c0", "c1"]}
    made = make_study(
        tmp_path,
        factors,
        lambda x, s: Outcome(values={LOSS: s + 2.0 * (x["a"] == "a1") + 4 * (x["c"] == "c1")}),
        seeds=2,
    )
    found = collate(tmp_path, made.name, [LOSS])
    ab, ac, bc = crossings(found, found.metrics[0])
    assert [one.pair for one in (ab, ac, bc)] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert ab.averaged == ("c=c0", "c=c1")
    assert ab.corners["a1", "b0"].estimate.mean == pytest.approx(0.5 + 2 + 2)
    assert ac.corners["a1", "c1"].estimate.mean == pytest.approx(0.5 + 2 + 4)


def test_the_front_is_what_nothing_beats():
    points = {
        "small": (1.0, 0.5),
        "worse": (2.0, 0.4),
        "middle": (3.0, 0.7),
        "same": (3.0, 0.7),
        "none": (0.5, float("nan")),
    }
    assert front(points, more=False, goal=Goal.max) == ["small", "middle", "same"]
    assert front(points, more=True, goal=Goal.max) == ["middle", "same"]
    assert front(points, more=False, goal=Goal.min) == ["small", "worse"]


def test_speed_is_compared_on_one_kind_of_machine_only(results: Results):
    assert [cost.name for cost in costs(results)] == ["speed"], "all states are equal"
    assert set(costs(results)[0].of.values()) == {1000.0, 2000.0}
    mixed = results.trials.assign(hardware=["abacus", *["slide rule"] * (len(results.trials) - 1)])
    assert costs(dataclasses.replace(results, trials=mixed)) == []


def test_tasks_by_length_are_those_with_two_lengths(results: Results):
    assert lengths_of(results) == {
        "small/parity": {32: "small/parity/32/accuracy", 64: "small/parity/64/accuracy"},
    }
