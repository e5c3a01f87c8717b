"""``deltalab dashboard``: MLflow's server over what the runs are mirrored to, and the links to a study's pages."""

import os
import socket
from pathlib import Path

import pytest

from deltalab import cli
from deltalab.command import run_app
from deltalab.track.book import Book, write_book
from deltalab.track.views import where

DATABASE = "sqlite:///{runs}/mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder with one mirrored study."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = tmp_path / "studies" / "ask"
    (study / "report").mkdir(parents=True)
    (study / "study.json").write_text("{}")
    (tmp_path / "mlflow.db").touch()
    write_book(study, Book(uri=DATABASE.format(runs=tmp_path), experiment_id="7", parent="abc"))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app, "deltalab", ["dashboard", *arguments])
    return int(ended.value.code or 0)


class Served(Exception):
    """In place of the process that ``exec`` would have made of this one."""


def served(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The server's command line and environment."""
    found = []

    def execve(_: str, command: list[str], environment: dict[str, str]) -> None:
        found.append((command, environment))
        raise Served

    monkeypatch.setattr(os, "execve", execve)
    with pytest.raises(Served):
        run(*arguments)
    return found[0]


def test_the_server_is_light_and_of_this_machine(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, environment = served(monkeypatch, "--runs", str(runs), "--port", "5001")
    said = " ".join(command)
    assert "-m mlflow server --host 127.0.0.1 --port 5001 --workers 1" in said
    assert f"--backend-store-uri {DATABASE.format(runs=runs)}" in said
    assert f"--artifacts-destination {runs}/mlflow-artifacts" in said
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_links_lead_to_curves_and_to_a_report_that_is_there(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served(monkeypatch, "--runs", str(runs), "--port", "5001")
    curves, ready = capsys.readouterr().out.splitlines()
    page = "runs?viewStateShareKey=curves&compareRunsMode=CHART&workflowType=machine_learning"
    assert curves == f"ask curves: http://127.0.0.1:5001/#/experiments/7/{page}"
    assert ready.startswith("MLflow will be at http://127.0.0.1:5001 ")
    (runs / "studies/ask/report/report.html").touch()
    served(monkeypatch, "--runs", str(runs), "--port", "5001")
    _, report, _ = capsys.readouterr().out.splitlines()
    page = "runs/abc/artifacts/report/report.html?workflowType=machine_learning"
    assert report == f"ask report: http://127.0.0.1:5001/#/experiments/7/{page}"


def test_a_server_that_runs_already_is_only_linked_to(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_book(runs / "studies/ask", Book(uri="https://me:secret@lab:8000", experiment_id="7", parent="abc"))
    assert run("--runs", str(runs), "--uri", "https://me:secret@lab:8000") == 0
    (curves,) = capsys.readouterr().out.splitlines()
    assert curves.startswith("ask curves: https://me:***@lab:8000/#/experiments/7/runs?")


def test_nothing_to_serve_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--runs", str(tmp_path)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"deltalab: runs={tmp_path}: no mlflow.db there yet; python launch.py -m study=quickstart fills it"


def test_a_port_that_is_taken_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert run("--runs", str(runs), "--port", str(port)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"deltalab: --port={port}: Address already in use; allowed is a free port of 127.0.0.1"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://lab:5000/", "http://lab:5000/#/x"),
        ("sqlite:////runs/mlflow.db", "deltalab dashboard, then http://127.0.0.1:5000/#/x"),
        (
            "postgresql://me:pw@db/lab",
            "deltalab dashboard --uri postgresql://me:***@db/lab, then http://127.0.0.1:5000/#/x",
        ),
    ],
)
def test_where_a_page_is(uri: str, said: str) -> None:
    assert where(uri, "#/x") == said
