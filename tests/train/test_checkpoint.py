"""Checkpoints are written beside the training: steps go on, what fails is told, as many stay as are asked for."""

import itertools
import threading
from pathlib import Path

import pytest
import torch

from deltalab.errors import Busy
from deltalab.spec.launcher import Device
from deltalab.track.journal import State
from deltalab.train import checkpoint
from deltalab.train.checkpoint import Checkpoints, complete_checkpoints, load_checkpoint, read_weights, weights_in
from deltalab.train.loop import build_model
from deltalab.train.optim import make_optimizer
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import StopAt, assert_equal


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("train.checkpoint_every=5", "train.log_every=1")
    run_trial(spec, tmp_path / "undisturbed", Device.cpu)
    slow, original = threading.Event(), checkpoint.save_file
    seen: list[int] = []
    begun = itertools.count()

    def wait_for_later_steps(tensors: dict[str, torch.Tensor], file: Path) -> None:
        assert slow.wait(60)
        original(tensors, file)

    def stop() -> bool:  # asked before every step
        if next(begun) == 9:
            seen.extend(int(path.name[-2:]) for path in complete_checkpoints(tmp_path / "run"))
            slow.set()
        return False

    monkeypatch.setattr(checkpoint, "save_file", wait_for_later_steps)
    assert run_trial(spec, tmp_path / "run", Device.cpu, stop) is State.completed
    assert seen == []  # at step 9 that of step 5 was still on its way
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["step-00000015"]
    assert_equal(tmp_path / "run", tmp_path / "undisturbed")


def test_a_checkpoint_holds_the_step_it_was_begun_at(tmp_path: Path) -> None:
    spec = trial()
    model = build_model(spec, torch.device("cpu"))
    optimizer = make_optimizer(model, spec.train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    then = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with Checkpoints(tmp_path, model, optimizer) as checkpoints:
        checkpoints.begin(1, {"seed": 7})
        optimizer.step()  # while it is written
    (folder,) = complete_checkpoints(tmp_path)
    file = weights_in(folder)
    assert file is not None
    read = read_weights(file)
    assert all(torch.equal(read[name], then[name]) for name in then)
    assert load_checkpoint(folder, model, optimizer) == {"step": 1, "seed": 7}
    assert all(torch.equal(parameter, then[name]) for name, parameter in model.named_parameters())
    assert {float(state["step"]) for state in optimizer.state.values()} == {1.0}


def test_as_many_stay_as_are_asked_for(tmp_path: Path) -> None:
    spec = trial("train.checkpoint_every=4", "train.keep_checkpoints=3")
    run_trial(spec, tmp_path, Device.cpu, StopAt(18))
    assert [path.name[-2:] for path in complete_checkpoints(tmp_path)] == ["12", "16", "18"]
    run_trial(trial("train.checkpoint_every=4"), tmp_path, Device.cpu, StopAt(1))
    assert [path.name[-2:] for path in complete_checkpoints(tmp_path)] == ["19"]


def test_who_lost_the_right_to_write_leaves_no_checkpoint(tmp_path: Path) -> None:
    asked: list[int] = []

    def taken_over() -> None:
        asked.append(1)
        raise Busy("another process took this trial over")

    spec = trial()
    model = build_model(spec, torch.device("cpu"))
    optimizer = make_optimizer(model, spec.train)
    sum(parameter.sum() for parameter in model.parameters()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    checkpoints = Checkpoints(tmp_path, model, optimizer, check=taken_over)
    checkpoints.begin(1, {})
    with pytest.raises(Busy):
        checkpoints.wait()
    assert asked == [1]
    assert not [*(tmp_path / "checkpoints").iterdir()]
