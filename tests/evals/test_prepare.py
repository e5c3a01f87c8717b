"""deltalab prepare-eval: what it says, and that one data set that cannot be had keeps none of the others back."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deltalab.cli import app
from deltalab.command import run_app
from deltalab.evals.haystack import read_haystack
from deltalab.evals.sets import READ_TWICE
from tests.evals.hub import hub_at, served

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Command:
    """A command line after ``deltalab prepare-eval`` → exit code, output, error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            run_app(app, "deltalab", ["prepare-eval", *arguments])
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call


def test_a_table(hub: Path, tmp_path: Path, prepare: Command):
    out = tmp_path / "out"
    with served(hub, tmp_path / "client"):
        code, said, err = prepare("suite=table4", f"out={out}")
        assert (code, err) == (0, "")
        assert said.splitlines()[0] == "swde: 2 rows of hazyresearch/based-swde-v2@01234567, validation"
        assert said.splitlines()[-1] == f"{out}: 6 data sets; deltalab eval TRIAL suite=table4 data_dir={out}"
        assert {path.name for path in out.iterdir()} == READ_TWICE.keys()
    assert prepare("suite=table4", f"out={out}") == (0, said, "")  # nothing is asked of the hub again


def test_the_essays_are_a_haystack(hub: Path, tmp_path: Path, prepare: Command):
    with served(hub, tmp_path / "client"):
        _, said, _ = prepare("suite=table3", f"out={tmp_path}")
    haystack = read_haystack(said.split("haystack=")[1].strip())
    assert haystack.label.startswith("essays-")
    assert haystack.words == ["One", "essay.", "Another", "of", "words."]


def test_one_that_cannot_be_had(hub: Path, tmp_path: Path, prepare: Command):
    without = shutil.copytree(hub, tmp_path / "hub")
    shutil.rmtree(without / READ_TWICE["squad"].hub)
    with served(without, tmp_path / "client"):
        code, said, err = prepare("suite=table4", f"out={tmp_path / 'out'}")
    assert (code, len(said.splitlines()), err.count("\n")) == (1, 5, 1)
    assert "5 of 6 data sets; run again for the others, what is there stays: squad (hazyresearch/based-squad): " in err
    with served(hub, tmp_path / "client"):
        assert prepare("suite=table4", f"out={tmp_path / 'out'}")[0] == 0


def test_offline(tmp_path: Path, prepare: Command, monkeypatch: pytest.MonkeyPatch):
    hub_at(monkeypatch, "http://127.0.0.1:9", tmp_path)
    code, said, err = prepare("suite=table4", f"out={tmp_path / 'out'}")
    assert (code, said, err.count("\n"), err.count("refused")) == (1, "", 1, 1)
    assert "0 of 6 data sets" in err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("suite=table4", "out: none given; allowed is out=DIR"),
        ("out=there suite=small", "suite=small: allowed is one of table2, table3, table4, all"),
        ("out=there where=here", "where=here: allowed is KEY=VALUE, each once, with one of suite, out"),
    ],
)
def test_mistakes(typed: str, said: str, prepare: Command):
    code, out, err = prepare(*typed.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"deltalab: {said}")
