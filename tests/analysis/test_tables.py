"""The comparison table of studies with a known truth: values, marks, and the same numbers in every format."""

import csv
import dataclasses
import io
import json
import math
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from analysis import formats, raw
from analysis.collate import Results, collate
from analysis.statistics import Summary, summarise
from analysis.tables import Table, comparison_table, differences_table, effects_table
from deltalab.errors import UsageError
from deltalab.spec.study import Exclusion, Goal
from deltalab.study import ledger
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import State
from tests.analysis.studies import ACCURACY, LOSS, Levels, Made, Outcome, constant, make_study

TWO = {"variant": ["base_line", "better"]}
TRUTH: dict[tuple[str, ...], list[float]] = {("base_line",): [0.5, 0.6, 0.7], ("better",): [0.61, 0.69, 0.82]}


def tables_of(made: Made, metrics: list[str] | None = None) -> tuple[Results, dict[str, Summary], Table]:
    results = collate(made.runs, made.name, metrics)
    summaries = summarise(results)
    return results, summaries, comparison_table(results, summaries)


def column(table: Table, title: str) -> list[str]:
    place = next(i for i, c in enumerate(table.columns) if c.title.startswith(title))
    return [row[place].text for row in table.rows]


def notes(table: Table) -> list[str]:
    return [text for _, text in table.notes]


def two(runs: Path, **changes: object) -> Made:
    return make_study(runs, TWO, constant(TRUTH), metrics={ACCURACY: Goal.max}, **changes)  # pyright: ignore


def test_a_row_per_trial(tmp_path: Path):
    made = make_study(tmp_path, {"variant": ["a", "b"], "pattern": ["x", "y"]}, lambda *_: Outcome(values={LOSS: 1.0}))
    trials = collate(tmp_path, made.name).trials
    assert len(trials) == 12
    assert {"cell", "level.variant", "level.pattern", "seed", "trial", "state", ACCURACY, LOSS} <= set(trials)
    assert len(set(trials["trial"])) == 12
    assert list(trials[LOSS]) == [1.0] * 12
    assert all(map(math.isnan, trials[ACCURACY]))


def test_values_of_trials_that_are_not_completed_are_not_compared(tmp_path: Path):
    def outcome(levels: Levels, seed: int) -> Outcome:
        state = State.diverged if (levels["variant"], seed) == ("better", 1) else State.completed
        return Outcome(values={ACCURACY: 0.5}, state=state)

    results, summaries, _ = tables_of(make_study(tmp_path, TWO, outcome))
    assert list(results.values(ACCURACY)["variant=better"]) == [0, 2]
    assert summaries[ACCURACY].estimates["variant=better"].n == 2


def test_the_table_says_the_truth(tmp_path: Path):
    _, _, table = tables_of(two(tmp_path))
    assert column(table, "accuracy") == ["0.600 ± 0.248", "0.707 ± 0.263"]
    assert column(table, "Δ accuracy") == ["baseline", "+0.107 [+0.069, +0.145]"]
    assert column(table, "p (Holm)") == ["", "0.007"]
    assert "seeds" not in [c.title for c in table.columns]
    assert table.notes == []
    assert table.rows[1][-1].tone == ""
    assert table.rows[1][-2].tone == "better"


def test_shuffled_seeds_pair_all_the_same(tmp_path: Path):
    straight = tables_of(two(tmp_path / "a"))[2]
    shuffled = tables_of(two(tmp_path / "b", shuffled=True))[2]
    assert column(straight, "Δ accuracy") == column(shuffled, "Δ accuracy")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (State.diverged, "2 of 3 seeds: seed 1 diverged"),
        (State.failed, "2 of 3 seeds: seed 1 failed"),
        (State.running, "2 of 3 seeds: seed 1 running"),
        (State.preempted, "2 of 3 seeds: seed 1 preempted"),
        (None, "2 of 3 seeds: seed 1 not started"),
    ],
)
def test_missing_seeds_are_marked(tmp_path: Path, state: State | None, said: str):
    def outcome(levels: Levels, seed: int) -> Outcome:
        value = TRUTH[levels["variant"],][seed]
        missing = (levels["variant"], seed) == ("better", 1)
        return Outcome(values={ACCURACY: value}, state=state if missing else State.completed)

    _, _, table = tables_of(make_study(tmp_path, TWO, outcome, metrics={ACCURACY: Goal.max}))
    assert column(table, "seeds") == ["3/3", "2/3"]
    assert notes(table) == [said, "paired over seeds 0, 2: seed 1 is missing here or in the baseline"]
    assert table.rows[1][1].marks == ("a",)
    assert column(table, "Δ accuracy")[1].startswith("+0.11")
    assert any("diverged seed is a result" in remark for remark in table.remarks) is (state is State.diverged)


def test_a_lone_lucky_seed_is_not_best(tmp_path: Path):
    values = {("base_line",): [0.5, 0.6, 0.7], ("better",): [0.99, None, None]}
    _, _, table = tables_of(make_study(tmp_path, TWO, constant(values), metrics={ACCURACY: Goal.max}))
    assert [row[-3].bold if len(row) > 6 else row[-2].bold for row in table.rows] == [True, False]


def test_one_seed_has_no_interval_and_no_p(tmp_path: Path):
    made = make_study(tmp_path, TWO, constant({k: v[:1] for k, v in TRUTH.items()}), seeds=1)
    _, summaries, table = tables_of(made)
    assert column(table, "accuracy") == ["0.5000", "0.6100"]
    assert column(table, "Δ accuracy") == ["baseline", "+0.1100"]
    assert "p (Holm)" not in [c.title for c in table.columns]
    assert table.remarks[0].startswith("One seed per cell: no interval and no p")
    assert math.isnan(summaries[ACCURACY].differences["variant=better"].p)


def test_no_variance_is_exact(tmp_path: Path):
    values = {("base_line",): [0.5, 0.6, 0.7], ("better",): [0.75, 0.85, 0.95]}
    _, _, table = tables_of(make_study(tmp_path, TWO, constant(values), metrics={ACCURACY: Goal.max}))
    assert column(table, "Δ accuracy")[1] == "+0.250 [+0.250, +0.250]"
    assert column(table, "p (Holm)")[1] == "exact"
    assert notes(table)[0].startswith("exact: equal in every pair")


def test_best_is_bold_by_goal_and_ties_are_all_bold(tmp_path: Path):
    accuracy = {"a": 0.9, "b": 0.90000001, "c": 0.5}
    loss = {"a": 0.3, "b": 0.2, "c": 0.9}

    def outcome(levels: Levels, seed: int) -> Outcome:
        name = levels["variant"]
        return Outcome(values={ACCURACY: accuracy[name] + seed / 100, LOSS: loss[name] + seed / 100})

    _, _, table = tables_of(make_study(tmp_path, {"variant": ["a", "b", "c"]}, outcome))
    assert [[row[3].bold, row[4].bold] for row in table.rows] == [[True, False], [True, True], [False, False]]


def test_unequal_steps_and_missing_values_are_marked(tmp_path: Path):
    def outcome(levels: Levels, seed: int) -> Outcome:
        odd = (levels["variant"], seed) == ("better", 2)
        loss = {LOSS: float("nan")} if seed == 0 else {LOSS: 1.0 + seed}
        return Outcome(values={ACCURACY: 0.5 + seed / 10, **loss}, step=400 if odd else 600)

    _, _, table = tables_of(make_study(tmp_path, TWO, outcome))
    assert "seed 2 measured at step 400; most trials at step 600" in notes(table)
    assert "seed 0 completed without a finite eval/loss" in notes(table)


def test_what_a_limit_ended_is_marked(tmp_path: Path):
    def outcome(levels: Levels, seed: int) -> Outcome:
        limited = (levels["variant"], seed) == ("better", 2)
        early = {"early": "train.max_hours=2"} if limited else {}
        return Outcome(values={ACCURACY: 0.5 + seed / 10}, step=400 if limited else 600, details=early)

    _, _, table = tables_of(make_study(tmp_path, TWO, outcome))
    said = notes(table)
    assert "seed 2 ended early by train.max_hours=2" in said
    assert any("seed 2 trained on" in note for note in said)


def test_size_mismatch_and_shared_trials_are_marked(tmp_path: Path):
    shared: dict[int, str] = {}

    def change(cell):
        shared.update(shared or cell.trials)
        return dataclasses.replace(cell, mismatch=0.02 if cell.levels["variant"] == "better" else 0, trials=shared)

    _, _, table = tables_of(two(tmp_path, change=change))
    assert notes(table) == [
        "the same computation as base_line: both show the same trials",
        "+2.00% parameters from the baseline, more than the tolerance of 0.50%",
        "exact: equal in every pair, so the interval is a point and a t-test has no p",
    ]


def test_excluded_cells_are_named_and_not_rows(tmp_path: Path):
    exclude = [Exclusion(when={"variant": "worse"}, reason="it needs a | kernel")]
    made = make_study(
        tmp_path, {"variant": ["a", "b", "worse"]}, lambda *_: Outcome(values={ACCURACY: 0.5}), exclude=exclude
    )
    _, _, table = tables_of(made)
    assert len(table.rows) == 2
    assert "Not run: worse, because it needs a | kernel." in table.remarks


def test_a_study_that_has_only_begun(tmp_path: Path):
    results, summaries, table = tables_of(make_study(tmp_path, TWO, lambda *_: Outcome(state=None)))
    assert column(table, "seeds") == ["0/3", "0/3"]
    assert set(column(table, "accuracy")) == {"–"}
    assert notes(table)[0] == "0 of 3 seeds: seeds 0, 1, 2 not started"
    assert not any(item.bold for row in table.rows for item in row)
    differences_table(results, summaries)
    effects_table(results, summaries)


def test_a_single_cell(tmp_path: Path):
    made = make_study(tmp_path, {"variant": ["kda"]}, lambda _, seed: Outcome(values={ACCURACY: 0.5 + seed / 10}))
    table = tables_of(made)[2]
    assert [c.title for c in table.columns] == ["variant", "params", "state", "accuracy ↑", "loss ↓"]


def test_asked_metrics_replace_the_studys(tmp_path: Path):
    def outcome(_: Levels, seed: int) -> Outcome:
        return Outcome(values={ACCURACY: 0.5, "eval/strange": seed}, curve={50: 1.0})

    made = make_study(tmp_path, TWO, outcome)
    results, _, table = tables_of(made, ["train/loss", "eval/strange"])
    assert [(m.name, m.goal) for m in results.metrics] == [("train/loss", Goal.min), ("eval/strange", None)]
    assert any(remark.startswith("No best value is marked for eval/strange") for remark in table.remarks)
    with pytest.raises(UsageError, match=r"--metric eval/acuracy: .*there are: eval/accuracy, eval/loss, eval/strange"):
        collate(tmp_path, made.name, ["eval/acuracy"])


def test_trials_of_several_commits_are_told(tmp_path: Path):
    def outcome(_: Levels, seed: int) -> Outcome:
        return Outcome(values={ACCURACY: 0.5}, commit="a" * 40 if seed else "b" * 40)

    _, _, table = tables_of(make_study(tmp_path, TWO, outcome))
    assert "commit bbbbbbbbbb (2 trials), aaaaaaaaaa (4 trials)" in table.provenance


def test_provenance_says_when_and_by_which_trials(tmp_path: Path):
    made = two(tmp_path)
    line = tables_of(made)[2].provenance
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert f"launched {today} · ran {today} · abacus, 2 cores · trials " in line
    ids = [trial for cell in made.record.cells for trial in cell.trials.values()]
    assert line.rpartition("trials ")[2].split(", ") == [trial[:8] for trial in ids]


# formats


def rich_text(table: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    texts = []
    for part in formats.to_rich(table, console):
        with console.capture() as capture:
            console.print(part)
        texts.append(capture.get())
    return texts


def plain(text: str) -> str:
    """A formatted table's line with every format's own signs turned into the same."""
    text = re.sub(r"\\text(bf|superscript)\{((?:[^{}]|\{[^}]*\})*)\}", r"\2", text)
    for sign, meant in ((r"$-$", "−"), (r"$\pm$", "±"), ("{[}", "["), (r"\_", "_"), (r"\\", ""), ("**", "")):
        text = text.replace(sign, meant)
    return " ".join(re.sub(r"[|&]", " ", text).split())


def test_every_format_has_the_same_values(tmp_path: Path):
    results, summaries, table = tables_of(two(tmp_path))
    expected = [" ".join(item.text for item in row if item.text) for row in table.rows]
    markdown = [plain(line) for line in formats.to_markdown(table).splitlines()]
    latex = [plain(line) for line in formats.to_latex(table, "x").splitlines()]
    (terminal,) = rich_text(table, 200)
    shown = [plain(line) for line in terminal.splitlines()]
    for row in expected:
        assert row in markdown
        assert row in latex
        assert row in shown
    frame = raw.raw_table(results, summaries)
    for row, mean in zip(table.rows, frame[f"{ACCURACY}:mean"], strict=True):
        assert row[3].text.startswith(f"{mean:.3f} ")


def test_csv_survives_a_round_trip_in_full_precision(tmp_path: Path):
    results, summaries, _ = tables_of(two(tmp_path))
    text = raw.raw_table(results, summaries).to_csv(index=False)
    back = pd.read_csv(io.StringIO(text)).set_index("cell")
    found = summaries[ACCURACY]
    for cell, estimate in found.estimates.items():
        for name in ("mean", "sd", "low", "high", "n"):
            assert back.loc[cell, f"{ACCURACY}:{name}"] == getattr(estimate, name)
    difference = found.differences["variant=better"]
    assert back.loc["variant=better", f"{ACCURACY}:difference"] == difference.estimate.mean
    assert back.loc["variant=better", f"{ACCURACY}:p_holm"] == difference.holm
    first = next(csv.DictReader(io.StringIO(text)))
    assert first[f"{ACCURACY}:p_holm"] == first[f"{ACCURACY}:difference"] == ""


def test_effects_csv(tmp_path: Path):
    made = make_study(
        tmp_path, {"a": ["a0", "a1"], "b": ["b0", "b1"]}, lambda x, s: Outcome(values={LOSS: s + 2 * (x["a"] == "a1")})
    )
    _, summaries, _ = tables_of(made, [LOSS])
    frame = raw.raw_effects(summaries)
    assert list(frame["kind"]) == ["main", "main", "interaction"]
    assert list(frame["estimate"]) == pytest.approx([2.0, 0.0, 0.0])
    assert list(frame["combinations"]) == [2, 2, 1]


def test_a_narrow_terminal_gets_two_tables(tmp_path: Path):
    _, _, table = tables_of(two(tmp_path))
    assert len(rich_text(table, 200)) == 1
    values, differences = rich_text(table, 80)
    assert "0.600 ± 0.248" in values
    assert "+0.107 [+0.069, +0.145]" in differences
    assert "base_line" in values
    assert "base_line" in differences


def test_latex_is_escaped():
    assert formats.latex_escape(r"a_b & 5% of $x {y} #1 ~^\ [z]") == (
        r"a\_b \& 5\% of \$x \{y\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{} {[}z]"
    )


def test_latex_names_cannot_break_out(tmp_path: Path):
    factors = {"variant": ["a_b&c%", "{d}\\e"]}
    made = make_study(tmp_path, factors, lambda *_: Outcome(values={ACCURACY: 0.5}), question="100% of $\\alpha_1$?")
    latex = formats.to_latex(tables_of(made)[2], made.name)
    assert r"a\_b\&c\%" in latex
    assert r"\{d\}\textbackslash{}e" in latex
    assert r"\caption{truth: 100\% of \$\textbackslash{}alpha\_1\$?}" in latex
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(tables_of(made)[2].columns) - 1}


def test_markdown_is_escaped(tmp_path: Path):
    made = make_study(tmp_path, {"variant": ["a|b", "<i>*c*", "_d_"]}, lambda *_: Outcome(values={ACCURACY: 0.5}))
    lines = formats.to_markdown(tables_of(made)[2]).splitlines()
    assert lines[2].startswith(r"| a\|b ")
    assert lines[3].startswith(r"| &lt;i&gt;\*c\* ")
    assert lines[4].startswith(r"| \_d\_ ")


def test_marks_in_every_format(tmp_path: Path):
    values = {("base_line",): [0.5, 0.6, 0.7], ("better",): [0.9, 0.95, None]}
    _, _, table = tables_of(make_study(tmp_path, TWO, constant(values), metrics={ACCURACY: Goal.max}))
    assert "2/3<sup>a</sup>" in formats.to_markdown(table)
    assert "<sup>a</sup> 2 of 3 seeds: seed 2 not started" in formats.to_markdown(table)
    assert r"2/3\textsuperscript{a}" in formats.to_latex(table, "x")
    assert r"\textsuperscript{a}~2 of 3 seeds: seed 2 not started." in formats.to_latex(table, "x")
    assert "2/3ᵃ" in rich_text(table, 200)[0]


def test_a_tuned_cell_says_what_was_chosen_and_how(tmp_path: Path):
    def tune(cell: CellRecord) -> CellRecord:
        tried = {f"train.lr={rate}": {7: f"{cell.name} {rate}"} for rate in ("1e-3", "1e-2")}
        first = cell.levels["variant"] == "base_line"
        return dataclasses.replace(cell, tuning=tried, **({"tuned": "1e-2"} if first else {"trials": {}}))

    made = two(tmp_path, change=tune)
    path = ledger.study_dir(tmp_path, made.name) / "study.json"
    plain = json.loads(path.read_text())
    plain["study"]["tune"] = {"key": "train.lr", "seeds": [7], "metric": LOSS, "goal": "min", "grid": [1e-3, 1e-2]}
    path.write_text(json.dumps(plain))
    _, _, table = tables_of(made)
    assert notes(table)[:2] == [
        "train.lr=1e-2, chosen by eval/loss on seed 7 among 2 values",
        "not run yet: train.lr is being chosen by eval/loss on seed 7",
    ]
    assert [row[0].marks for row in table.rows] == [("a",), ("b",)]
