"""A runs folder, and ``deltalab eval`` on it, for all tests here."""

from pathlib import Path

import pytest

from deltalab.cli import app
from deltalab.command import run_app
from tests.exchange.trained import Eval


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def evaluate(runs: Path, capsys: pytest.CaptureFixture[str]) -> Eval:
    """A command line after ``deltalab eval`` → exit code, output, error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_app(app, "deltalab", ["eval", *arguments, "--runs", str(runs)])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call
