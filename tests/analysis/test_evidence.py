"""The tables of contributions, variance and precision, of studies with a known truth."""

from pathlib import Path

from analysis.collate import collate
from analysis.evidence import contributions_table, margin_remark, precision_table, variance_table
from analysis.statistics import summarise
from analysis.tables import Table
from deltalab.spec.study import Design, Goal
from tests.analysis.studies import ACCURACY, Levels, Outcome, make_study

FACTORS = {"gate": ["off", "on"], "norm": ["no", "yes"], "conv": ["without", "with"]}
WORTH = {"on": 0.2, "yes": 0.05, "with": 0.0}
JITTER = (0.003, -0.002, 0.001)


def outcome(levels: Levels, seed: int) -> Outcome:
    """Every factor adds what it is worth; no seed is quite like another."""
    jitter = JITTER[(seed + len("".join(levels.values()))) % 3]
    return Outcome(values={ACCURACY: 0.5 + sum(WORTH.get(x, 0.0) for x in levels.values()) + seed / 20 + jitter})


def texts(table: Table | None) -> list[list[str]]:
    assert table is not None
    return [[item.text for item in row] for row in table.rows]


def test_contributions_of_a_leave_one_out_study(tmp_path: Path):
    design, metrics = Design.leave_one_out, {ACCURACY: Goal.max}
    made = make_study(tmp_path, FACTORS, outcome, design=design, metrics=metrics)
    results = collate(tmp_path, made.name)
    rows = texts(contributions_table(results, summarise(results)))
    assert [row[1] for row in rows] == ["gate", "norm", "conv"]
    assert [row[2][:5] for row in rows] == ["+0.20", "+0.05", "+0.00"]
    assert all(row[3] == "3" for row in rows)
    assert variance_table(results) is None, "not all combinations are there"


def test_a_factorial_has_terms_and_no_contributions(tmp_path: Path):
    made = make_study(tmp_path, FACTORS, outcome, metrics={ACCURACY: Goal.max})
    results = collate(tmp_path, made.name)
    assert contributions_table(results, summarise(results)) is None
    rows = texts(variance_table(results))
    assert [row[1] for row in rows] == ["gate", "norm", "conv", "gate × norm", "gate × conv", "norm × conv"]
    assert [row[4] for row in rows[:2]] == ["<0.001", "<0.001"]
    assert rows[0][3] == "1, 15"


def test_precision_is_given_per_metric_and_sameness_only_within_a_margin(tmp_path: Path):
    made = make_study(tmp_path, {"conv": ["no", "with"]}, outcome, metrics={ACCURACY: Goal.max})
    results = collate(tmp_path, made.name)
    plain, asked = summarise(results), summarise(results, margin=0.1)
    assert margin_remark(results, plain) == ""
    assert "within ±0.1: with (" in margin_remark(results, asked)
    assert "within ±0.001: none (" in margin_remark(results, summarise(results, margin=0.001))
    exact = collate(tmp_path, make_study(tmp_path, {"conv": ["without", "with"]}, outcome, name="exact").name)
    assert "within ±0.1: with (" in margin_remark(exact, summarise(exact, margin=0.1)), "equal in every seed"
    assert len(texts(precision_table(results, plain))[0]) == 4
    assert texts(precision_table(results, asked))[0][-1] == "2"


def test_one_seed_has_none_of_it(tmp_path: Path):
    made = make_study(tmp_path, FACTORS, outcome, seeds=1)
    results = collate(tmp_path, made.name)
    assert variance_table(results) is None
    assert precision_table(results, summarise(results, margin=0.1)) is None
