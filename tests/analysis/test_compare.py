"""The command: what it prints, what it writes, how it fails."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import deltalab.track.mlflow
from analysis.compare import app
from deltalab.command import run_app
from deltalab.spec.study import Goal
from deltalab.study import ledger
from deltalab.track.journal import Journal, State
from tests.analysis.studies import ACCURACY, Levels, Made, Outcome, falling, make_study


def outcome(levels: Levels, seed: int) -> Outcome:
    if levels["variant"] == "b" and seed == 2:
        return Outcome(state=State.failed, details={"error": "[red]boom[/red]"})
    gain = 0.1 + seed / 100 if levels["variant"] == "b" else 0.0
    return Outcome(values={ACCURACY: 0.5 + gain + seed / 20}, curve=falling(1.0, 0.5))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    factors = {"variant": ["a", "b"], "pattern": ["x", "y"]}
    return make_study(tmp_path, factors, outcome, metrics={ACCURACY: Goal.max}, question="[bold]Which?")


@dataclass
class Done:
    code: object
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(made: Made, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command as a program, of the study made unless its arguments say another."""

    def run(*arguments: str, study: str = made.name) -> Done:
        with pytest.raises(SystemExit) as ended:
            run_app(app, "compare", [study, "--runs", str(made.runs), *arguments])
        return Done(ended.value.code or 0, *capsys.readouterr())

    return run


def test_it_prints_and_writes(made: Made, run: Run):
    done = run("--no-mlflow")
    assert done.code == 0, done.err
    for said in ("truth", "[bold]Which?", "0.550 ±", "baseline", "ᵇ 2 of 3 seeds: seed 2 failed", "[red]boom[/red]"):
        assert said in done.out
    assert "Effects on eval/accuracy" in done.out
    assert "variant: b − a" in done.out
    assert "report.html" in done.out
    assert (made.report / "report.html").exists()
    assert (made.report / "figures" / "curves.png").exists()
    assert "python -m analysis.compare truth --runs" in (made.report / "report.md").read_text()


def test_it_can_be_run_again_and_overwrites(made: Made, run: Run):
    assert run("--no-mlflow").code == 0
    before = (made.report / "table.csv").read_text()
    assert run("--no-mlflow").code == 0
    assert (made.report / "table.csv").read_text() == before
    assert not list(made.report.rglob(".*"))


def test_an_unknown_study_is_one_line(made: Made, run: Run):
    done = run(study="nowhere")
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines() == [f"compare: study=nowhere: not launched yet in {made.runs}; launched: truth"]


def test_an_unknown_metric_lists_those_there(made: Made, run: Run):
    done = run("--metric", "eval/bleu")
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "--metric eval/bleu" in line
    assert line.endswith("there are: eval/accuracy, train/loss, train/tokens_per_second")
    assert not made.report.exists()


def test_a_report_that_cannot_be_written_is_one_line(made: Made, run: Run):
    made.report.parent.mkdir(parents=True, exist_ok=True)
    made.report.write_text("in the way")
    done = run("--no-mlflow")
    assert done.code == 1
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("compare: ")
    assert str(made.report) in line


def test_metrics_can_be_chosen(made: Made, run: Run):
    done = run("--no-mlflow", "--metric", "train/loss", "--metric", ACCURACY)
    assert done.code == 0, done.err
    assert "Δ train/loss ↓" in done.out
    text = (made.report / "report.md").read_text()
    assert f"--metric train/loss --metric {ACCURACY}" in text


def test_an_equal_step_is_said_and_marked(made: Made, run: Run):
    done = run("--no-mlflow", "--metric", "train/loss", "--at", "step=45")
    assert done.code == 0, done.err
    assert "Compared at step 45: the newest value of each trial that is not beyond it." in done.out
    assert "2 of 3 seeds: seed 2 failed before step 45" in done.out
    assert "--metric train/loss --at step=45" in (made.report / "report.md").read_text()


def test_programs_get_every_number_and_every_footnote(made: Made, run: Run):
    assert run("--no-mlflow").code == 0
    told = json.loads((made.report / "table.json").read_text())
    by_cell = {cell["cell"]: cell for cell in told["cells"]}
    assert by_cell["variant=b pattern=x"]["seeds_compared"] == 2
    assert by_cell["variant=a pattern=x"]["eval/accuracy:mean"] == pytest.approx(0.55)
    assert by_cell["variant=a pattern=x"]["eval/accuracy:p"] is None
    assert "2 of 3 seeds: seed 2 failed" in told["notes"].values()
    assert told["provenance"].startswith("study truth · 12 trials")
    trials = pd.read_csv(made.report / "trials.csv")
    assert len(trials) == 12
    assert int(trials["compared"].sum()) == 10


def test_a_margin_tests_sameness_and_counts_seeds(run: Run):
    done = run("--no-mlflow", "--margin", "0.5")
    assert done.code == 0, done.err
    assert "The same as the baseline in eval/accuracy within ±0.5: " in done.out
    assert "seeds to find 0.5" in done.out
    refused = run("--margin", "-1")
    assert (refused.code, refused.err) == (2, "compare: --margin -1: allowed is a number above 0\n")


def test_layouts_are_printed_where_the_study_has_them(made: Made, run: Run):
    done = run("--no-mlflow", "--layout", "cross")
    assert done.code == 0, done.err
    assert "variant × pattern" in done.out
    assert "params" not in done.out
    assert (made.report / "cross.tex").read_text().count("\\begin{table}") == 1
    refused = run("--no-mlflow", "--layout", "rates")
    assert refused.code == 2
    (line,) = refused.err.splitlines()
    assert line.startswith("compare: --layout rates: truth has no value by learning rate")
    assert line.endswith("allowed here is cells, cross")


def test_watching_writes_until_nothing_is_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def outcome(_: Levels, seed: int) -> Outcome:
        return Outcome(values={ACCURACY: 0.5 + seed}, state=State.completed if seed else None)

    made = make_study(tmp_path, {"variant": ["a"]}, outcome, seeds=2, metrics={ACCURACY: Goal.max})
    said, late = [], ledger.trial_dir(tmp_path, made.record.cells[0].trials[0])

    def wait(seconds: float) -> None:
        said.append((seconds, (made.report / "report.md").read_text()))
        journal = Journal(late)
        journal.state(State.running, device="cpu", threads=1, steps=1)
        journal.metrics(1, {ACCURACY: 0.5})
        journal.state(State.completed)

    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(SystemExit) as ended:
        run_app(app, "compare", [made.name, "--runs", str(tmp_path), "--watch", "--no-mlflow"])
    assert not ended.value.code
    ((seconds, halfway),) = said
    assert seconds == 30
    assert "1 of 2 values of eval/accuracy are there" in halfway
    assert "of 2 values" not in (made.report / "report.md").read_text()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_report_goes_to_mlflow_unless_it_must_not(
    made: Made, monkeypatch: pytest.MonkeyPatch, wanted: bool, run: Run
):
    calls = []

    def log_report(*arguments: object) -> str:
        calls.append(arguments)
        return "run 1234"

    monkeypatch.setattr(deltalab.track.mlflow, "log_report", log_report)
    done = run(*([] if wanted else ["--no-mlflow"]))
    assert calls == ([(made.runs, "truth", made.report)] if wanted else [])
    assert ("run 1234" in done.out) is wanted


def test_without_a_mirror_nothing_is_said_of_mlflow(made: Made, run: Run):
    assert "MLflow" not in run().out


def test_it_loads_neither_torch_nor_mlflow_nor_hydra(made: Made):
    program = (
        "import sys; from analysis.compare import app; "
        f"app([{made.name!r}, '--runs', {str(made.runs)!r}], standalone_mode=False); "
        "heavy = {'torch', 'mlflow', 'hydra', 'omegaconf', 'matplotlib.pyplot', 'statsmodels.api'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
