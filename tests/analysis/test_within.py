"""Studies that compare within tasks: no number, mark, picture or sentence holds a cell of one against another's."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from analysis import formats, raw
from analysis.canvas import style
from analysis.collate import collate
from analysis.crossing import crossing_tables
from analysis.dots import differences_picture, values_picture
from analysis.evidence import margin_remark, precision_table, variance_table
from analysis.palette import looks
from analysis.report import Report, brief, make_report, to_html
from analysis.statistics import summarise
from analysis.tables import Table, comparison_table
from deltalab.spec.study import Design, Exclusion
from deltalab.study import ledger
from deltalab.track.book import Book
from deltalab.track.labels import colors, study_note
from tests.analysis.studies import ACCURACY, LOSS, Levels, Made, Outcome, falling, make_study

FACTORS = {"gates": ["tied", "untied", "channel"], "task": ["copy", "recall"]}
GAIN = {"tied": 0.0, "untied": 0.05, "channel": 0.02}
OF_TASK = {"copy": 0.9, "recall": 0.3}


def outcome(levels: Levels, seed: int) -> Outcome:
    """Copy is 0.6 above recall; recall has half the steps; untied gates pay 0.05 on both."""
    noise = np.random.default_rng([seed, *map(ord, "".join(levels.values()))]).normal(0, 0.002)
    value = OF_TASK[levels["task"]] + GAIN[levels["gates"]] + float(noise)
    steps = 100 if levels["task"] == "copy" else 50
    values = {ACCURACY: value, LOSS: 1 - value, "eval/accuracy/1-32": value, "eval/accuracy/33-64": value / 2}
    return Outcome(values=values, step=steps, curve=falling(2.0, 1 - value, steps))


def study(runs: Path, **changes: object) -> Made:
    return make_study(runs, FACTORS, outcome, **{"within": ["task"], "name": "tasks", **changes})  # pyright: ignore


def build(made: Made) -> Report:
    results = collate(made.runs, made.name)
    return make_report(results, summarise(results, 0.03))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build(study(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The same, but tied gates are not run on recall."""
    exclude = [Exclusion(when={"gates": "tied", "task": "recall"}, reason="slow")]
    return build(study(tmp_path_factory.mktemp("runs"), exclude=exclude))


def column(table: Table, title: str) -> list[str]:
    place = next(i for i, c in enumerate(table.columns) if c.title.startswith(title))
    return [row[place].text for row in table.rows]


def test_rows_go_block_by_block_each_led_by_its_own_baseline(report: Report):
    table = report.table
    assert column(table, "task") == ["copy"] * 3 + ["recall"] * 3
    assert column(table, "gates") == ["tied", "untied", "channel"] * 2
    difference = column(table, "Δ")
    assert [difference[0], difference[3]] == ["baseline", "baseline"]
    assert [float(difference[place].split()[0]) for place in (1, 4)] == pytest.approx([0.05, 0.05], abs=0.01)
    assert table.rules == (3,)


def test_the_best_is_bold_within_its_block(report: Report):
    place = [c.title for c in report.table.columns].index("accuracy ↑")
    assert [row[place].bold for row in report.table.rows] == [False, True, False] * 2


def test_steps_and_tokens_of_another_task_are_not_marked(report: Report, tmp_path: Path):
    assert not [text for _, text in report.table.notes if "most trials" in text]

    def odd(levels: Levels, seed: int) -> Outcome:
        found = outcome(levels, seed)
        return dataclasses.replace(found, step=70) if (*levels.values(), seed) == ("untied", "recall", 1) else found

    results = collate(tmp_path, make_study(tmp_path, FACTORS, odd, within=["task"]).name)
    marked = comparison_table(results, summarise(results)).notes
    assert "seed 1 measured at step 70; most trials of the same task at step 50" in [text for _, text in marked]
    assert [text for _, text in marked if re.search(r"seed 1 trained on .*most trials of the same task on", text)]


def test_remarks_and_the_brief_say_whose_baseline(report: Report):
    said = " ".join(report.table.remarks)
    assert "cell − baseline of the same task, paired by seed" in said
    assert "over the 4 cells tested" in said
    assert "Bold: the best mean of the same task" in said
    assert report.brief.startswith("4 of 4 tested cells differ from their baselines in eval/accuracy")
    assert "untied · recall (+0.0" in report.brief
    assert margin_remark(report.results, report.summaries).startswith("The same as their baselines in eval/accuracy")
    assert dict(report.facts)["Baseline"] == "gates=tied of the same task"


def test_where_nothing_is_clear_no_cell_differs_from_its_baseline(tmp_path: Path):
    def noise(levels: Levels, seed: int) -> Outcome:
        place = sum(map(ord, "".join(levels.values())))
        return Outcome(values={ACCURACY: float(np.random.default_rng([seed, place]).normal())})

    results = collate(tmp_path, make_study(tmp_path, FACTORS, noise, within=["task"]).name)
    said = brief(results, summarise(results))
    assert said.startswith("None of 4 tested cells differs from its baseline in eval/accuracy at a Holm-corrected p")


def test_differences_effects_and_variance_are_within_blocks(report: Report):
    assert report.differences is not None
    assert report.effects is not None
    assert report.differences.title == "Differences from the baseline of the same task"
    assert report.differences.rules == (2, 4, 6)
    assert len(report.differences.rows) == 8
    effects = column(report.effects, "effect")
    assert not [name for name in effects if name.startswith("task:")]
    assert "gates: untied − tied" in effects
    assert [name for name in effects if "×" in name], "interactions say where it pays"
    variance = variance_table(report.results)
    assert variance is not None
    assert set(column(variance, "term")) == {"gates", "gates × task"}


def test_noise_is_told_of_each_block(report: Report):
    found = precision_table(report.results, report.summaries)
    assert found is not None
    assert column(found, "task") == ["copy", "recall"] * 2
    assert found.rules == (2,)


def test_crossed_levels_are_best_within_their_block(report: Report):
    (table,) = crossing_tables(report.results)
    assert table.title == "gates × task"
    assert [[item.bold for item in row[2:]] for row in table.rows[:3]] == [[False] * 2, [True] * 2, [False] * 2]


def test_every_format_sets_blocks_apart(report: Report):
    table, console = report.table, Console(width=200, color_system=None, file=io.StringIO())
    with console.capture() as shown:
        console.print(formats.to_rich(table, console)[0])
    assert len(re.findall(r"^ ─+", shown.get(), re.M)) == 2
    body = formats.to_markdown(table).splitlines()[2:9]
    assert [set(line) == {"|", " "} for line in body] == [False] * 3 + [True] + [False] * 3
    assert formats.to_latex(table, "tasks").count("\\midrule") == 2
    page = to_html(report).split('id="table"')[1].split("</table>")[0]
    assert [part.count("<tr") for part in page.split("<tbody>")[1:]] == [3, 3]


def test_programs_are_told_each_cells_baseline(report: Report):
    rows = list(csv.DictReader(io.StringIO(raw.raw_table(report.results, report.summaries).to_csv(index=False))))
    assert [row["baseline"] for row in rows] == ["True", "False", "False"] * 2
    assert [row["compared_with"] for row in rows[3:]] == ["", *["gates=tied task=recall"] * 2]
    plain = json.loads(raw.to_json(report.results, report.summaries, report.table))
    assert plain["within"] == ["task"]
    assert plain["cells"][4][f"{ACCURACY}:difference"] == pytest.approx(0.05, abs=0.01)


def test_pictures_hold_each_block_against_its_own(report: Report):
    captions = {picture.name: picture.caption for picture in report.pictures}
    assert "mean of the baseline, of each task its own" in captions["values"]
    assert captions["differences"].startswith("Cell − baseline of the same task (tied), paired by seed.")
    assert "against the baseline's (gates=tied)" in captions["effects"]
    look = looks(report.results)
    assert {one.legend for one in look.values()} == set(FACTORS["gates"])
    assert (
        len(
            set(
                colors(json.loads((ledger.study_dir(report.results.runs, "tasks") / "study.json").read_text())).values()
            )
        )
        == 6
    )


def test_a_block_without_its_baseline_has_no_differences_and_says_so(lacking: Report):
    why = "task=recall has no baseline to be compared with: gates=tied is excluded (slow) there"
    assert column(lacking.table, "Δ")[3:] == ["–", "–"]
    assert why in [text for _, text in lacking.table.notes]
    assert f"{why}." in lacking.table.remarks
    assert list(lacking.summaries[ACCURACY].differences) == ["gates=untied task=copy", "gates=channel task=copy"]
    assert lacking.differences is not None
    assert f"{why}." in lacking.differences.remarks
    rows = raw.raw_table(lacking.results, lacking.summaries)
    assert rows.loc[rows["cell"].str.endswith("recall"), "compared_with"].isna().all()
    primary = lacking.results.metrics[0]
    with style():
        drawn = differences_picture(lacking.results, primary, lacking.summaries[primary.name])
        values_picture(lacking.results, primary, lacking.summaries[primary.name])
    assert "untied · copy" in drawn.svg
    assert "untied · recall" not in drawn.svg


def test_a_record_from_before_the_key_is_one_block(tmp_path: Path):
    made = study(tmp_path)
    path = ledger.study_dir(made.runs, made.name) / "study.json"
    record = json.loads(path.read_text())
    del record["study"]["within"]
    path.write_text(json.dumps(record))
    results = collate(made.runs, made.name)
    assert (results.within, len(results.blocks), results.alike) == ([], 1, "")
    assert set(results.baselines.values()) == {"gates=tied task=copy"}
    assert len(summarise(results)[ACCURACY].differences) == 5


def test_what_is_left_out_of_a_full_model_is_no_task(tmp_path: Path):
    made = study(tmp_path, design=Design.leave_one_out)
    left = collate(made.runs, made.name).left_out
    assert left is not None
    assert list(left[1]) == ["gates"]


def test_the_mirror_names_the_baseline_likewise(tmp_path: Path):
    made = study(tmp_path)
    record = json.loads((ledger.study_dir(made.runs, made.name) / "study.json").read_text())
    note = study_note(record, Book(uri="http://here", experiment_id="1", parent="2"))
    assert "baseline gates=tied of the same task, seeds" in note
