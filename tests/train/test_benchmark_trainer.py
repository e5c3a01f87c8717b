"""The benchmark of the training loop, run small: what it says, never how fast."""

import re
from pathlib import Path

import pytest

from benchmarks import trainer
from tests.data.tiny import use_tiny_corpus

SMALL = ["--preset", "tiny", "--sequences", "1", "--length", "16", "--steps", "5", "--repeats", "1", "--markdown"]


def test_every_share_is_measured_and_the_exit_code_says_whether_it_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_tiny_corpus(monkeypatch, tmp_path)
    code = trainer.main([*SMALL, "--checkpoint-every", "1000000000", "--log-every", "1000000000"])
    shown = capsys.readouterr().out
    assert code == 0
    for what in ("a step, everything on", "a step, everything off", "logging a step", "a checkpoint"):
        assert re.search(rf"\| {what} \| [\d.,e-]+ ms \|", shown)
    monkeypatch.setattr(trainer, "WANTED", 0.0)
    assert trainer.main(SMALL) == 1


def test_too_few_steps_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        trainer.main(["--steps", "2"])
    assert ended.value.code == 2
    assert "--steps 2: allowed is a whole number from 4" in capsys.readouterr().err
