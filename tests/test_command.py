"""Mistakes on the command line of a Typer app, and what else may end it: one line, and an exit code."""

import sys

import pytest
import typer

from deltalab import __version__, cli
from deltalab.command import run_app
from deltalab.errors import Busy, NotFoundError

MISTAKES = {
    ("plan", "ask", "--jsn"): "deltalab plan: no such option: --jsn (Possible options: --json)",
    ("plan",): "deltalab plan: missing argument 'study'",
    ("status", "ask", "more"): "deltalab status: got unexpected extra argument(s) (more)",
    ("status", "--runs"): "deltalab: option '--runs' requires an argument",
    ("paln", "ask"): "deltalab: no such command 'paln'. Did you mean 'plan'?",
    ("--nothing",): "deltalab: no such option: --nothing",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_that_names_the_command(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["deltalab", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(MISTAKES[arguments])
    assert line.endswith(" (--help lists what is allowed)")


def test_no_argument_at_all_shows_the_help_and_asked_for_it_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            run_app(cli.app, "deltalab", arguments)
        assert (ended.value.code or 0) == code
        out, err = capsys.readouterr()
        assert "doctor" in out
        assert err == ""


def test_the_version_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_app(cli.app, "deltalab", ["--version"])
    assert (ended.value.code or 0) == 0
    assert capsys.readouterr().out == f"deltalab {__version__}\n"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (NotFoundError("study=x: not there"), 2, "lab: study=x: not there\n"),
        (Busy("trial t runs elsewhere"), 1, "lab: trial t runs elsewhere\n"),
        (PermissionError(13, "Permission denied", "/runs"), 1, "lab: [Errno 13] Permission denied: '/runs'\n"),
        (typer.Exit(3), 3, ""),
        (None, None, ""),
    ],
)
def test_what_a_command_raises_is_a_line_and_a_code(
    raised: Exception | None, code: int | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    def act() -> None:
        if raised is not None:
            raise raised

    with pytest.raises(SystemExit) as ended:
        run_app(app, "lab", [])
    assert ended.value.code == code
    assert capsys.readouterr().err == said


def test_a_defect_keeps_its_traceback() -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def act() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError, match="a defect"):
        run_app(app, "lab", [])
