"""A study laid out like a table of the paper: whose numbers are whose, and what they are made of."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import like
from analysis.compare import app
from analysis.like import LikeTable, make_like, per_seed
from analysis.paper import ARXIV, COMMONSENSE, COMMONSENSE_MEAN, LAYOUTS, PUBLISHED, RECALL, Like, published_rows
from analysis.statistics import estimate
from deltalab.command import run_app
from deltalab.study.ledger import CellRecord
from tests.analysis.studies import ACCURACY, Levels, Made, Outcome, constant, make_study

NOISE = "table3/niah_single_1/1024/noise-c2fcf70d/accuracy"
HELP, ESSAYS = (f"table3/niah_single_2/4096/{hay}/accuracy" for hay in ("help-11111111", "essays-22222222"))


def found(levels: Levels, seed: int) -> Outcome:
    better = levels["pattern"] == "hybrid"
    values = {ACCURACY: 0.5, NOISE: 0.2 + 0.1 * seed + 0.3 * better, HELP: 0.25}
    return Outcome(values=values | ({ESSAYS: 0.75} if seed else {}))


def layered(cell: CellRecord) -> CellRecord:
    return replace(cell, layers={"gated_delta": 1, "swa" if cell.levels["pattern"] == "hybrid" else "mamba2": 1})


def texts(made: LikeTable, source: str) -> dict[str, Mapping[str, str]]:
    """System → heading → text of the rows from a source."""
    heads = [column.title for column in made.table.columns]
    rows = [dict(zip(heads, (item.text for item in row), strict=True)) for row in made.table.rows]
    return {f"{row['family']} {row['system']}": row for row in rows if row["source"] == source}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_study(tmp_path, {"pattern": ["recurrent", "hybrid"]}, found, change=layered)


@pytest.mark.parametrize("table", list(Like))
def test_every_published_row_has_a_value_in_every_column(table: Like):
    layout = LAYOUTS[table]
    rows = published_rows(layout)
    assert len(rows) == (4 if table is Like.table5 else 13)
    for row in rows:
        assert list(row.values) == [column.title for column in layout.columns], row
    assert {row.system for row in rows} == set(layout.systems.values())


@pytest.mark.parametrize(
    ("table", "parts", "mean"),
    [(Like.table2, COMMONSENSE, "CommonsenseAvg ↑"), (Like.table4, RECALL, "RecallAvg 2K ↑")],
)
def test_a_mean_is_of_the_columns_that_the_paper_averages(table: Like, parts: list[like.Column], mean: str):
    for row in published_rows(LAYOUTS[table]):
        values = [float(row.values[column.title]) for column in parts]
        assert float(row.values[mean]) == pytest.approx(sum(values) / len(values), abs=0.0051), row.system


def test_our_rows_are_means_over_seeds_in_percent_beside_the_published_ones(made: Made):
    table = make_like(made.runs, made.name, Like.table3)
    ours, published = texts(table, "this study"), texts(table, ARXIV)
    assert list(ours) == ["recurrent recurrent", "hybrid hybrid"]
    assert ours["recurrent recurrent"]["S-NIAH-1 1K ↑"] == "30.0 ± 24.8"  # 20, 30, 40
    assert ours["hybrid hybrid"]["S-NIAH-1 1K ↑"] == "60.0 ± 24.8"
    assert ours["hybrid hybrid"]["S-NIAH-1 2K ↑"] == "–"
    assert (ours["hybrid hybrid"]["params"], published["hybrid KDA"]["params"]) == ("57,646", "1.3B")
    assert published["hybrid KDA"]["S-NIAH-2 4K ↑"] == "56.0"
    systems = [row[1].text for row in table.table.rows]
    assert systems.index("recurrent") == systems.index("Gated DeltaNet-2") + 1
    bold = {(row[1].text, item.text) for row in table.table.rows for item in row if item.bold}
    assert bold == {("hybrid", "60.0 ± 24.8"), ("recurrent", "25.00 ± 0"), ("hybrid", "25.00 ± 0")}


def test_published_values_enter_nothing_that_is_computed(made: Made, tmp_path: Path):
    """Other published values change the published rows, and only those."""
    with PUBLISHED.open(newline="") as lines:
        read = csv.DictReader(lines)
        rows, heads = list(read), list(read.fieldnames or [])
    other = tmp_path / "published.csv"
    with other.open("w", newline="") as file:
        writer = csv.DictWriter(file, heads)
        writer.writeheader()
        writer.writerows({**row, "value": "99.99"} for row in rows)
    one = make_like(made.runs, made.name, Like.table3)
    two = make_like(made.runs, made.name, Like.table3, file=other)
    assert one.rows == two.rows

    def ours(table: LikeTable) -> list[object]:
        return [row for row in table.table.rows if row[2].text == "this study"]

    assert ours(one) == ours(two)
    assert one.table.notes == two.table.notes
    assert {item.text for row in two.table.rows if row[2].text == ARXIV for item in row[5:]} == {"99.99"}
    assert not any(item.bold for row in one.table.rows if row[2].text == ARXIV for item in row)
    frame = like.raw_like(one)
    assert frame[frame["source"] != "this study"]["seeds"].isna().all()
    readers = {path.name for path in Path(like.__file__).parent.glob("*.py") if "published_rows" in path.read_text()}
    assert readers == {"paper.py", "like.py"}


def test_a_mean_takes_the_seeds_that_have_every_benchmark():
    values = {pattern: {0: 0.1 * place, 1: 0.2} for place, pattern in enumerate(COMMONSENSE_MEAN.ours)}
    assert per_seed(COMMONSENSE_MEAN, values) == pytest.approx({0: 40.0, 1: 20.0})
    del values[COMMONSENSE_MEAN.ours[3]][1]
    assert per_seed(COMMONSENSE_MEAN, values) == pytest.approx({0: 40.0})
    assert per_seed(COMMONSENSE_MEAN, {}) == {}


def test_one_haystack_is_shown_and_the_other_named(made: Made):
    table = make_like(made.runs, made.name, Like.table3)
    assert texts(table, "this study")["recurrent recurrent"]["S-NIAH-2 4K ↑"] == "25.00 ± 0"
    said = " ".join(table.table.remarks)
    assert "help-11111111, noise-c2fcf70d; numbers in other prose" in said
    assert f"Measured, too, and not shown: {ESSAYS}." in said
    assert "What is missing is measured by: deltalab eval truth suite=table3." in said


def test_seeds_that_lack_a_value_are_told(tmp_path: Path):
    made = make_study(tmp_path, {"variant": ["a"]}, constant({("a",): [0.1, None, 0.3]}, NOISE))
    table = make_like(made.runs, made.name, Like.table3)
    assert [text for _, text in table.table.notes][-1] == "2 of 3 seeds"
    assert table.rows[0].estimates["S-NIAH-1 1K ↑"] == estimate([10.0, 30.0])


def test_the_command_writes_every_format(made: Made, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        run_app(app, "compare", [made.name, "--runs", str(made.runs), "--like", "table3"])
    out = capsys.readouterr().out
    assert not ended.value.code
    assert "truth like Table 3 of arXiv 2605.22791: needles in a haystack" in out
    said = "published: arXiv 2605.22791, Table 3, at 1.3B parameters and 100B tokens; in no mean, interval or test here"
    assert said in out
    for ending, shown in (("md", "| KDA<sup>a</sup>"), ("tex", "KDA\\textsuperscript{a}"), ("html", "<sup>a</sup>")):
        text = (made.report / f"like-table3.{ending}").read_text()
        assert shown in text
        assert "60.0 " in text
    with (made.report / "like-table3.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"] == "this study" and row["mean"]]
    assert [(row["system"], row["benchmark"], row["context"], row["seeds"]) for row in rows] == [
        (system, benchmark, context, "3.0")
        for system in ("recurrent", "hybrid")
        for benchmark, context in (("S-NIAH-1", "1K"), ("S-NIAH-2", "4K"))
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--like", "table9"], "table9"),
        (
            ["--like", "table3", "--margin", "0.1"],
            "--like table3: allowed is no --metric, --at, --margin, --layout or --watch beside it",
        ),
    ],
)
def test_mistakes_are_one_line(made: Made, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str):
    with pytest.raises(SystemExit) as ended:
        run_app(app, "compare", [made.name, "--runs", str(made.runs), *arguments])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not made.report.exists()
