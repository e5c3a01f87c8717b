"""Training a trial: the loss falls, resume is bitwise, divergence is a result, failures are raised."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from deltalab.errors import UsageError
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train import loop, loss
from deltalab.train.checkpoint import latest_checkpoint
from deltalab.train.loop import build_model
from deltalab.train.optim import learning_rate, make_optimizer
from deltalab.train.trial import run_trial
from tests.specs import VARIANTS, trial
from tests.train.runs import StopAt, assert_equal, outcome


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_the_journal_tells(tmp_path: Path, variant: str) -> None:
    spec = trial(f"variant={variant}", "variant.pattern=[mixer,swa]", "train.steps=60", "train.lr=1e-2")
    assert run_trial(spec, tmp_path, Device.cpu) is State.completed
    record = journal.read(tmp_path)
    losses = record.metrics["train/loss"]
    assert losses[60] < losses[1]
    assert record.state is State.completed
    assert 0 <= record.metrics["eval/accuracy"][60] <= 1
    assert {"eval/accuracy/1-32", "eval/accuracy/33-64", "eval/loss"} <= record.metrics.keys()


@pytest.mark.parametrize("stops", [[7], [10], [1, 5, 13]], ids=str)
@pytest.mark.parametrize("data", ["parity", "recall"])
def test_an_interrupted_run_ends_bitwise_as_the_uninterrupted_one(tmp_path: Path, stops: list[int], data: str) -> None:
    spec = trial(f"data={data}", "eval.every=6")
    assert run_trial(spec, tmp_path / "whole", Device.cpu) is State.completed
    broken = tmp_path / "broken"
    done = 0
    for stop in stops:
        assert run_trial(spec, broken, Device.cpu, StopAt(stop - done)) is State.preempted
        done = stop
        checkpoint = latest_checkpoint(broken)
        assert checkpoint is not None
        assert checkpoint.name == f"step-{stop:08d}"
    assert run_trial(spec, broken, Device.cpu) is State.completed
    assert_equal(broken, tmp_path / "whole")


def test_a_run_killed_between_checkpoints_redoes_the_steps_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trial()
    run_trial(spec, tmp_path / "whole", Device.cpu)

    def die(trainer: loop.Trainer) -> None:
        if trainer.step == 16:
            raise SystemExit("killed")
        original(trainer)

    original = loop.Trainer._train_step
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_train_step", die)
        with pytest.raises(SystemExit):
            run_trial(spec, tmp_path / "killed", Device.cpu)
    assert journal.read(tmp_path / "killed").state is State.running
    run_trial(spec, tmp_path / "killed", Device.cpu)
    assert_equal(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "stop", "state"),
    [
        ("train.steps=2", 9, State.completed),
        ("train.steps=2", 1, State.preempted),
        ("train.loss_bound=0.01", 9, State.diverged),
    ],
)
def test_the_last_line_says_how_much_memory_it_took(tmp_path: Path, change: str, stop: int, state: State) -> None:
    assert run_trial(trial(change), tmp_path, Device.cpu, StopAt(stop)) is state
    details = journal.read(tmp_path).details
    assert 10 * 2**20 < details["memory"] < 2**40
    assert "world" not in details


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    spec = trial()
    run_trial(spec, tmp_path, Device.cpu, StopAt(5))
    part = tmp_path / "checkpoints" / ".part-00000009-1"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-00000005"
    assert run_trial(spec, tmp_path, Device.cpu) is State.completed


def test_accumulated_parts_are_the_whole_batch(tmp_path: Path) -> None:
    for parts in (1, 4):
        run_trial(trial(f"train.accumulation={parts}", "train.steps=5"), tmp_path / str(parts), Device.cpu)
    (whole, _), (split, _) = outcome(tmp_path / "1"), outcome(tmp_path / "4")
    for name in whole:
        torch.testing.assert_close(split[name], whole[name], rtol=1e-4, atol=1e-5)


def test_bf16_trains_with_fp32_weights(tmp_path: Path) -> None:
    spec = trial("train.precision=bf16", "train.steps=60", "train.lr=1e-2", "variant.pattern=[mixer,swa]")
    assert run_trial(spec, tmp_path, Device.cpu) is State.completed
    weights, metrics = outcome(tmp_path)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert metrics["train/loss"][60] < metrics["train/loss"][1]


@pytest.mark.parametrize("change", ["train.lr=1e6", "train.loss_bound=0.01"])
def test_divergence_is_a_state_of_its_own_and_raises_nothing(tmp_path: Path, change: str) -> None:
    assert run_trial(trial(change, "train.clip=1e9"), tmp_path, Device.cpu) is State.diverged
    record = journal.read(tmp_path)
    assert record.state is State.diverged
    assert "loss" in record.details["error"]
    assert not (tmp_path / "model.safetensors").exists()


def test_nan_after_the_last_logged_loss_is_divergence_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poison(trainer: loop.Trainer) -> None:
        original(trainer)
        if trainer.step == trainer.spec.train.steps:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(float("nan"))

    original = loop.Trainer._train_step
    monkeypatch.setattr(loop.Trainer, "_train_step", poison)
    assert run_trial(trial(), tmp_path, Device.cpu) is State.diverged
    assert not (tmp_path / "model.safetensors").exists()


def test_a_spike_between_logged_steps_is_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spike(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return original(*arguments) * (1e6 if len(calls) == 3 else 1)

    calls: list[int] = []
    original = loss.summed_loss
    monkeypatch.setattr(loss, "summed_loss", spike)
    assert run_trial(trial("train.log_every=5"), tmp_path, Device.cpu) is State.diverged
    assert journal.read(tmp_path).step == 5


def test_a_failure_is_journaled_with_its_last_line_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(trainer: loop.Trainer) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(loop.Trainer, "_train_step", explode)
    with pytest.raises(RuntimeError):
        run_trial(trial(), tmp_path, Device.cpu)
    record = journal.read(tmp_path)
    assert record.state is State.failed
    assert record.details["error"] == "RuntimeError: out of luck"
    assert "in explode" in record.details["traceback"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device=cuda"):
        run_trial(trial(), tmp_path, Device.cuda)
    assert journal.read(tmp_path).state is State.failed


def test_the_same_seed_gives_every_cell_the_same_batches(tmp_path: Path) -> None:
    first, second = (
        loop.Trainer(trial(f"variant={variant}"), tmp_path / variant, torch.device("cpu"), journal.Journal(tmp_path))
        for variant in ("kda", "delta_net")
    )
    for step in (0, 7):
        assert (first.task.train_batch(step, 4).tokens == second.task.train_batch(step, 4).tokens).all()


def test_weight_decay_spares_gates_norms_convolutions_and_the_embedding() -> None:
    spec = trial("variant.pattern=[mixer,swa]")
    module = build_model(spec, torch.device("cpu"))
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    decayed, free = make_optimizer(module, spec.train).param_groups
    assert decayed["weight_decay"] == spec.train.weight_decay
    assert free["weight_decay"] == 0
    spared = {names[id(parameter)] for parameter in free["params"]}
    assert {name.rsplit(".", 1)[-1] for name in spared} == {"a", "delta", "embedding", "weight"}
    assert all("norm" in name or "conv" in name for name in spared if name.endswith("weight"))
    assert any("gates.decay.a" in name for name in spared)
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_the_learning_rate_warms_up_peaks_and_ends_at_its_floor() -> None:
    spec = trial("train.steps=100", "train.warmup_steps=10", "train.lr=1", "train.min_lr_ratio=0.1")
    rates = [learning_rate(spec.train, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
