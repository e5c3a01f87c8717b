"""The benchmark of whole models, run small: its rows, ratios, and what it does where it cannot measure."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import models
from benchmarks.kernels import clock
from benchmarks.model_rows import FIGURE, FOOTNOTE, Row, cells, markdown, ratio

SMALL = ["--device", "cpu", "--families", "recurrent", "--shapes", "1x32", "--prompts", "8"]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is not the point here."""
    monkeypatch.setattr(clock, "TIMED", 0.01)


def test_every_system_is_trained_and_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    variants = ["gated_delta_net_2", "kda", "transformer"]
    assert models.main([*SMALL, "--variants", *variants, "--markdown", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [(row["kind"], row["variant"]) for row in rows] == [(k, v) for k in ("train", "decode") for v in variants]
    for row in rows:
        assert row["speed"] > 0
        assert row["peak"] > 70_000 * 4 * (4 if row["kind"] == "train" else 1)  # weights, gradients, moments
        assert (row["prefill"] is not None) == (row["kind"] == "decode")
    first = rows[0]
    assert first["over_gated_delta_net_2"] == 1
    assert first["over_kda"] == pytest.approx(first["speed"] / rows[1]["speed"])
    shown = capsys.readouterr().out
    assert "| train | kda | recurrent | 1×32 |" in shown
    assert FOOTNOTE in shown


def test_a_row_without_memory_says_so_and_the_rest_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greedy(spec: models.TrialSpec, device: torch.device) -> object:
        tried.append(spec.train.activation_checkpointing)
        if spec.variant.name == "kda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …\nmore lines")
        return original(spec, device)

    tried: list[bool] = []
    original = models.training_step
    monkeypatch.setattr(models, "training_step", greedy)
    assert models.main([*SMALL, "--kinds", "train", "--variants", "kda", "gated_delta_net_2"]) == 0
    assert tried == [False, True, False]  # once more with less
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train kda recurrent 1x32: out of memory"
    assert "tokens/s" in lines[1]


def test_any_other_error_is_a_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(spec: models.TrialSpec, device: torch.device) -> object:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(models, "training_step", broken)
    assert models.main([*SMALL, "--kinds", "train", "--variants", "kda"]) == 1
    assert capsys.readouterr().out.startswith("train kda recurrent 1x32: RuntimeError: no kernel for this\n")


def test_what_the_time_does_not_suffice_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main([*SMALL, "--variants", "kda", "--seconds", "1e-6"]) == 0
    out = capsys.readouterr().out
    assert "left out, the 1e-06 s were spent: train kda recurrent 1x32, decode kda recurrent 1x8" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "models: --device cuda: no GPU is visible here; allowed is auto or cpu\n"


@pytest.mark.parametrize(("flag", "value"), [("--variants", "kdaa"), ("--seconds", "0"), ("--json", "/nowhere/x.json")])
def test_a_wrong_option_is_exit_code_2(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        models.main([flag, value])
    assert stop.value.code == 2
    assert value in capsys.readouterr().err


def test_ratios_are_to_the_same_family_and_shape_and_a_transformers_to_the_hybrid() -> None:
    kda = Row(kind="train", variant="kda", family="hybrid", shape="4x4096", speed=50.0)
    rows = [
        replace(kda, family="recurrent", speed=10.0), kda, replace(kda, shape="1x16384", speed=20.0),
        replace(kda, variant="mamba2", speed=100.0),
        replace(kda, variant="transformer", family="transformer", speed=25.0),
    ]  # fmt: skip
    assert [ratio(row, rows, "kda") for row in rows] == [1, 1, 1, 2, 0.5]
    assert ratio(kda, rows, "gated_delta_net_2") is None
    assert [row.published for row in rows] == [None, 39.0, 38.5, 43.5, 42.3]
    assert replace(kda, kind="decode").published is None
    assert all(len(speeds) == 4 for speeds in FIGURE.values())
    assert len(markdown(rows).splitlines()) == 2 + len(cells(rows)) == 7
