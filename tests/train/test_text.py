"""Training on a prepared text: documents apart or not, parts, kills, and the same tokens for every cell."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from deltalab.data.batch import make_task
from deltalab.data.prepare import prepare
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel, logits_of
from deltalab.spec.data import TextSpec
from deltalab.spec.launcher import Device
from deltalab.track.journal import State
from deltalab.train.trial import run_trial
from tests.data.files import texts, use_empty_cache, write_parquet
from tests.specs import trial
from tests.train.ranks import launch
from tests.train.runs import StopAt, assert_equal, outcome


@pytest.fixture
def overrides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A trial on parquet files that were prepared, with documents apart."""
    use_empty_cache(monkeypatch, tmp_path / "cache")
    files = str(write_parquet(tmp_path / "hub", texts(200)) / "*.parquet")
    prepare(TextSpec(corpus=None, files=files))
    given = ["data=text", "data.corpus=null", f"data.files={files}", "data.reset=true"]
    return [*given, "data.train_length=48", "data.test_length=48", "variant.pattern=[mixer,swa]"]


@pytest.mark.parametrize("variant", ["gated_delta_net_2", "mamba2", "mamba3", "transformer"])
def test_a_document_knows_nothing_of_the_one_before(variant: str) -> None:
    spec = trial(f"variant={variant}", "model.conv_width=4")
    model = LanguageModel(spec.variant, spec.model)
    initialise(model, spec.model, 0)
    tokens = torch.randint(spec.data.vocab_size, (2, 20), generator=torch.Generator().manual_seed(0))
    starts = torch.zeros(2, 20, dtype=torch.bool)
    starts[0, 7] = starts[1, 11] = True
    logits = logits_of(model, tokens, starts)
    for row, cut in ((0, 7), (1, 11)):
        for part in (slice(0, cut), slice(cut, 20)):
            torch.testing.assert_close(logits[row, part], model(tokens[row : row + 1, part])[0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(logits_of(model, tokens, None), model(tokens))


def test_resetting_is_a_factor_with_an_effect(overrides: list[str], tmp_path: Path) -> None:
    apart, running = trial(*overrides), trial(*overrides, "data.reset=false")
    assert apart.trial_id != running.trial_id
    for name, spec in (("apart", apart), ("running", running)):
        assert run_trial(spec, tmp_path / name, Device.cpu) is State.completed
    losses = [outcome(tmp_path / name)[1]["eval/loss"] for name in ("apart", "running")]
    assert losses[0] != losses[1]


def test_accumulated_parts_are_the_whole_batch_with_documents_apart(overrides: list[str], tmp_path: Path) -> None:
    run_trial(trial(*overrides), tmp_path / "whole", Device.cpu)
    run_trial(trial(*overrides, "train.accumulation=4"), tmp_path / "parts", Device.cpu)
    losses = [outcome(tmp_path / name)[1]["train/loss"] for name in ("whole", "parts")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_an_interrupted_trial_reads_on_where_it_was(overrides: list[str], tmp_path: Path) -> None:
    spec = trial(*overrides, "train.log_every=1")
    assert run_trial(spec, tmp_path / "whole", Device.cpu) is State.completed
    assert run_trial(spec, tmp_path / "parts", Device.cpu, StopAt(7)) is State.preempted
    assert run_trial(spec, tmp_path / "parts", Device.cpu) is State.completed
    assert_equal(tmp_path / "parts", tmp_path / "whole")


def test_a_streamed_text_needs_no_preparing_and_reads_on_where_it_was(overrides: list[str], tmp_path: Path) -> None:
    prepared = trial(*overrides, "train.log_every=1")
    for store in (tmp_path / "cache" / "stores").iterdir():
        shutil.rmtree(store)
    spec = trial(*overrides, "train.log_every=1", "data.streaming=true", "eval.sample_every=100", "eval.samples=1")
    assert spec.trial_id != prepared.trial_id
    assert run_trial(spec, tmp_path / "whole", Device.cpu) is State.completed
    assert [file.stem for file in (tmp_path / "whole" / "samples").iterdir()] == [f"step-{spec.train.steps:08d}"]
    assert run_trial(spec, tmp_path / "parts", Device.cpu, StopAt(7)) is State.preempted
    assert run_trial(spec, tmp_path / "parts", Device.cpu) is State.completed
    assert_equal(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_two_ranks_and_then_one_read_what_one_process_reads(overrides: list[str], tmp_path: Path) -> None:
    spec = trial(*overrides, "train.log_every=1", "train.batch_size=8")
    assert run_trial(spec, tmp_path / "whole", Device.cpu) is State.completed
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_dict()))
    (tmp_path / "run").mkdir()
    assert [code for code, _ in launch(tmp_path, "stopped")] == [0, 0]
    assert run_trial(spec, tmp_path / "run", Device.cpu) is State.completed
    whole, parts = (outcome(tmp_path / name)[1]["train/loss"] for name in ("whole", "run"))
    assert len(whole) == spec.train.steps
    assert parts == pytest.approx(whole, abs=1e-5)


def test_every_cell_of_a_seed_reads_the_same_tokens(overrides: list[str]) -> None:
    specs = [trial(*overrides, f"variant={name}", "seed=3") for name in ("gated_delta_net_2", "transformer")]
    one, other = (make_task(spec.data, spec.seed).train_batch(5, 16).tokens for spec in specs)
    assert (one == other).all()
    assert (one != make_task(specs[0].data, 4).train_batch(5, 16).tokens).any()
