"""Strategies: two and four ranks, with whole models or shares, train as one process does, and go on with each other's
checkpoints."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deltalab.errors import ConfigError
from deltalab.spec.launcher import Device
from deltalab.spec.train import Strategy
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train.checkpoint import complete_checkpoints, latest_checkpoint, read_weights, weights_in
from deltalab.train.distributed import World
from deltalab.train.loop import build_model
from deltalab.train.loss import Scorer
from deltalab.train.strategy import make_replica
from deltalab.train.trial import run_trial
from tests.train.ranks import IN_FOUR, launch, under
from tests.train.runs import StopAt, outcome
from tests.train.test_disk import disk
from tests.train.test_distributed import TWO_GPUS, assert_close

CPU = Device.cpu
__all__ = ["disk"]  # a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process, four and two made of the same trial, and of each other's checkpoints."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("strategies")
    run_trial(under("auto"), folder / "alone", CPU)
    run_trial(under("auto"), folder / "one, then two", CPU, StopAt(7))
    for size, scenario in ((4, "four"), (2, "two")):
        ranks = launch(folder, scenario, CPU, size)
        assert [code for code, _ in ranks] == [0] * size, ranks
        if size == 4:
            shutil.copytree(folder / "four stopped", folder / "four, then two")
    return folder


@pytest.mark.ranks
@pytest.mark.parametrize("name", [*(f"four/{name}" for name in IN_FOUR), "two/fsdp", "two/blocks computed again"])
def test_ranks_under_every_strategy_train_as_one_process_does(folder: Path, name: str) -> None:
    assert_close(folder / name, folder / "alone")


@pytest.mark.ranks
def test_shares_in_bf16_have_the_losses_of_autocast(folder: Path) -> None:
    run_trial(under("auto", "train.precision=bf16"), folder / "alone in bf16", CPU)
    (weights, metrics), (_, expected) = outcome(folder / "two" / "bf16"), outcome(folder / "alone in bf16")
    assert metrics["train/loss"] == pytest.approx(expected["train/loss"], rel=2e-3)
    assert metrics["train/loss"] != pytest.approx(outcome(folder / "alone")[1]["train/loss"], rel=1e-6)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.ranks
@pytest.mark.parametrize("name", ["four, then two", "one, then two"])
def test_two_ranks_in_shares_go_on_with_what_others_began(folder: Path, name: str) -> None:
    states = [line for line in journal.entries(folder / name)[0] if line["event"] == "state"]
    began = [line.get("world", 1) for line in states if line["state"] == "running"]
    assert began == [4 if "four" in name else 1, 2]
    assert_close(folder / name, folder / "alone")


@pytest.mark.ranks
def test_one_process_goes_on_with_shares_and_reads_their_weights(folder: Path) -> None:
    stopped = folder / "two stopped"
    assert [path.name for path in complete_checkpoints(stopped)] == ["step-00000010", "step-00000017"]  # two are kept
    checkpoint = latest_checkpoint(stopped)
    assert checkpoint is not None
    assert len([*checkpoint.glob("*.distcp")]) == 2
    assert not [*(stopped / "checkpoints").glob(".part-*")]
    file = weights_in(checkpoint)
    assert file is not None
    read = read_weights(file)
    assert run_trial(under("auto"), stopped, CPU) is State.completed
    assert_close(stopped, folder / "alone")
    final = load_file(folder / "alone" / "model.safetensors")
    assert {name: x.shape for name, x in read.items()} == {name: x.shape for name, x in final.items()}
    assert all((read[name] - final[name]).abs().max() < 0.1 for name in final)


@pytest.mark.ranks
def test_a_killed_rank_of_a_trial_in_shares_leaves_it_resumable(tmp_path: Path, folder: Path) -> None:
    (main, output), (killed, _) = launch(tmp_path, "killed_in_shares", CPU)
    assert killed == -signal.SIGKILL
    assert main > 0, output
    record = journal.read(tmp_path)
    assert (record.state, "a rank was lost" in record.details["error"]) == (State.preempted, True)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == "step-00000002"
    assert run_trial(under("auto"), tmp_path, CPU) is State.completed
    assert_close(tmp_path, folder / "alone")


@pytest.mark.ranks
def test_a_disk_that_fills_under_shares_leaves_the_trial_resumable(disk: Path) -> None:
    run_dir = disk / "run"
    for code, output in launch(run_dir, "filled", CPU):
        assert code > 0
        assert "DiskFull: no space left" in output
    record = journal.read(run_dir)
    assert (record.state, "no space left" in record.details["error"]) == (State.preempted, True)
    assert not [*(run_dir / "checkpoints").iterdir()]
    (disk / "filler").unlink()
    assert run_trial(under("auto"), run_dir, CPU) is State.completed


@pytest.mark.gpu
@TWO_GPUS
def test_two_gpus_in_shares_train_as_one_does(tmp_path: Path) -> None:
    ranks = launch(tmp_path, "two", Device.cuda)
    assert [code for code, _ in ranks] == [0, 0], ranks
    alone, again = tmp_path / "alone", tmp_path / "again"
    run_trial(under("auto"), alone, Device.cuda)
    run_trial(under("auto", "train.micro_batch_size=1"), again, Device.cuda)
    assert_close(tmp_path / "two" / "fsdp", alone, again)
    assert_close(tmp_path / "two" / "blocks computed again", alone, again)
    run_trial(under("auto", "train.precision=bf16"), tmp_path / "alone in bf16", Device.cuda)
    losses, expected = (outcome(tmp_path / name)[1]["train/loss"] for name in ("two/bf16", "alone in bf16"))
    assert losses == pytest.approx(expected, rel=5e-3)
    assert run_trial(under("auto"), tmp_path / "two stopped", Device.cuda) is State.completed
    assert_close(tmp_path / "two stopped", alone, again)


def test_shares_that_do_not_divide_the_ranks_are_one_line() -> None:
    spec = under("hsdp", "train.shard_size=3")
    scorer = Scorer(build_model(spec, torch.device("cpu")))
    with pytest.raises(ConfigError, match=r"train.shard_size=3: allowed is a divisor of the 4 processes"):
        make_replica(scorer, spec.train, Strategy.hsdp, World(0, 4, 0, 4))
