"""The command: what it prints, what it writes, how it fails."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deltalab.track.mlflow
from analysis.compare import app
from deltalab.spec.study import Goal
from deltalab.track.journal import State
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


def run(made: Made, *arguments: str):
    return CliRunner().invoke(app, [made.name, "--runs", str(made.runs), *arguments])


def test_it_prints_and_writes(made: Made):
    done = run(made, "--no-mlflow")
    assert done.exit_code == 0, done.output
    for said in ("truth", "[bold]Which?", "0.550 ±", "baseline", "ᵇ 2 of 3 seeds: seed 2 failed", "[red]boom[/red]"):
        assert said in done.stdout
    assert "Effects on eval/accuracy" in done.stdout
    assert "variant: b − a" in done.stdout
    assert "report.html" in done.stdout
    assert (made.report / "report.html").exists()
    assert (made.report / "figures" / "curves.png").exists()
    assert "python -m analysis.compare truth --runs" in (made.report / "report.md").read_text()


def test_it_can_be_run_again_and_overwrites(made: Made):
    assert run(made, "--no-mlflow").exit_code == 0
    before = (made.report / "table.csv").read_text()
    assert run(made, "--no-mlflow").exit_code == 0
    assert (made.report / "table.csv").read_text() == before
    assert not list(made.report.rglob(".*"))


def test_an_unknown_study_is_one_line(tmp_path: Path):
    done = CliRunner().invoke(app, ["nowhere", "--runs", str(tmp_path)])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"compare: study=nowhere: not launched yet in {tmp_path}; launched: none"]


def test_an_unknown_metric_lists_those_there(made: Made):
    done = run(made, "--metric", "eval/bleu")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "--metric eval/bleu" in line
    assert line.endswith("there are: eval/accuracy, train/loss, train/tokens_per_second")
    assert not made.report.exists()


def test_a_report_that_cannot_be_written_is_one_line(made: Made):
    made.report.parent.mkdir(parents=True, exist_ok=True)
    made.report.write_text("in the way")
    done = run(made, "--no-mlflow")
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("deltalab: ")
    assert str(made.report) in line


def test_metrics_can_be_chosen(made: Made):
    done = run(made, "--no-mlflow", "--metric", "train/loss", "--metric", ACCURACY)
    assert done.exit_code == 0, done.output
    assert "Δ train/loss ↓" in done.stdout
    text = (made.report / "report.md").read_text()
    assert f"--metric train/loss --metric {ACCURACY}" in text


@pytest.mark.parametrize("wanted", [True, False])
def test_the_report_goes_to_mlflow_unless_it_must_not(made: Made, monkeypatch: pytest.MonkeyPatch, wanted: bool):
    calls = []

    def log_report(*arguments: object) -> str:
        calls.append(arguments)
        return "run 1234"

    monkeypatch.setattr(deltalab.track.mlflow, "log_report", log_report)
    done = run(made, *([] if wanted else ["--no-mlflow"]))
    assert calls == ([(made.runs, "truth", made.report)] if wanted else [])
    assert ("run 1234" in done.stdout) is wanted


def test_without_a_mirror_nothing_is_said_of_mlflow(made: Made):
    assert "MLflow" not in run(made).stdout


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
