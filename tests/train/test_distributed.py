"""Data parallelism: two ranks train as one process does, stop together, diverge together, and one of them writes."""

import json
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from deltalab.errors import ConfigError, DeltalabError
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.track.journal import State
from deltalab.train.distributed import ALONE, joined
from deltalab.train.trial import run_trial
from tests.train.ranks import OTHER_SUMS, WHOLE, launch
from tests.train.runs import outcome

ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture(scope="module", params=[Device.cpu, pytest.param(Device.cuda, marks=[pytest.mark.gpu, TWO_GPUS])])
def device(request: pytest.FixtureRequest) -> Device:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Path:
    """What two ranks made of the scenario ``several``, and one process of the same trial."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    ranks = launch(folder, "several", device)
    assert [code for code, _ in ranks] == [0, 0], ranks
    run_trial(WHOLE, folder / "alone", device)
    if device is Device.cuda:
        run_trial(OTHER_SUMS, folder / "again", device)
    return folder


@pytest.fixture(scope="module")
def again(folder: Path, device: Device) -> Path | None:
    """Where fp32 products are less exact than a CPU's: the trial alone in another order of sums."""
    return folder / "again" if device is Device.cuda else None


def seen(folder: Path, name: str) -> list[str]:
    return [json.loads((folder / f"seen.{rank}.json").read_text())[name] for rank in (0, 1)]


def apart(one: Path, other: Path) -> dict[str, float]:
    """How far apart two runs are, per metric and in their weights, 1 being what the order of sums makes on a CPU.

    It decides which of two nearly equal logits is the larger (accuracy: two of 512 positions, and of a suite's 128 its
    error, too), and Adam divides small gradients by themselves (weights).
    """
    (weights, metrics), (expected, recorded) = outcome(one), outcome(other)
    assert {name: points.keys() for name, points in metrics.items()} == {n: p.keys() for n, p in recorded.items()}
    found = {}
    for name, points in recorded.items():
        pairs = torch.tensor([(metrics[name][step], value) for step, value in points.items()], dtype=torch.float64)
        values, wanted = pairs.unbind(1)
        if "accuracy" in name or "stderr" in name:
            unit = torch.full_like(wanted, 3.2e-2 if name.startswith("small/") else 4e-3)
        else:
            unit = ((1e-3 if name == "train/grad_norm" else 1e-5) * wanted.abs()).clamp_min(1e-12)
        found[name] = float(((values - wanted).abs() / unit).max())
    assert weights.keys() == expected.keys()
    for name, wanted in expected.items():
        found[name] = float(((weights[name] - wanted).abs() / (1e-5 + 1e-4 * wanted.abs())).max())
    return found


def assert_close(one: Path, other: Path, again: Path | None = None) -> None:
    """Summation order aside, two runs are the same.

    ``again`` is ``other`` in another order of sums: where products are less exact than a CPU's (fp32 from tf32 three
    times, on a GPU), ten times what it is apart is allowed.
    """
    allowed = 1 if again is None else max(1, 10 * max(apart(again, other).values()))
    too_far = {name: value for name, value in apart(one, other).items() if not value <= allowed}
    assert not too_far, f"allowed is {allowed:.3g}"


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does(folder: Path, again: Path | None) -> None:
    assert seen(folder, "whole") == ["completed", "completed"]
    assert_close(folder / "whole", folder / "alone", again)


@pytest.mark.slow
def test_less_exact_products_are_told_from_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where no CPU's bounds hold: by noise in the gradients, relative to each weight's."""
    noise = torch.Generator().manual_seed(0)
    clip = torch.nn.utils.clip_grad_norm_

    def noisy(weights: Iterable[torch.nn.Parameter], norm: float, size: float) -> torch.Tensor:
        weights = [*weights]
        for weight in weights:
            if weight.grad is not None:
                weight.grad += size * weight.grad.square().mean().sqrt() * torch.randn(weight.shape, generator=noise)
        return clip(weights, norm)

    run_trial(WHOLE, tmp_path / "exact", Device.cpu)
    for name, spec, size in (("one", WHOLE, 1e-6), ("again", OTHER_SUMS, 1e-6), ("faulty", WHOLE, 1e-3)):
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", partial(noisy, size=size))
        run_trial(spec, tmp_path / name, Device.cpu)
    one, again, faulty, exact = (tmp_path / name for name in ("one", "again", "faulty", "exact"))
    assert_close(one, exact, again)
    for far, measure in ((one, None), (faulty, again)):
        with pytest.raises(AssertionError, match="allowed is"):
            assert_close(far, exact, measure)


@pytest.mark.slow
def test_one_rank_writes_each_line_once_and_says_how_many_there_were(folder: Path) -> None:
    lines, _ = journal.entries(folder / "whole")
    steps = Counter(line["step"] for line in lines if "train/loss" in line.get("values", {}))
    assert steps == dict.fromkeys(range(1, 21), 1)
    states = [line for line in lines if line["event"] == "state"]
    assert [(line["state"], line["world"]) for line in states] == [("running", 2), ("completed", 2)]
    assert states[-1]["memory"] > 2**20
    results = [(line["step"], line["name"]) for line in lines if line["event"] == "evaluation"]
    names = [f"small/parity/{length}" for length in (32, 64, 128)]
    assert results == [(step, name) for step in (8, 16, 20) for name in names]  # each by one of the two, in order


@pytest.mark.slow
def test_a_stop_on_one_rank_stops_both_and_any_number_goes_on(folder: Path, device: Device, again: Path | None) -> None:
    assert seen(folder, "stopped on two") == ["preempted", "preempted"]
    assert [path.name for path in (folder / "copy" / "checkpoints").iterdir()] == ["step-00000007"]
    assert seen(folder, "stopped") == ["completed", "completed"]
    assert_close(folder / "stopped", folder / "alone", again)
    shutil.copytree(folder / "copy", folder / "one")
    assert run_trial(WHOLE, folder / "one", device) is State.completed
    assert_close(folder / "one", folder / "alone", again)


@pytest.mark.slow
def test_divergence_ends_both(folder: Path) -> None:
    assert seen(folder, "diverged") == ["diverged", "diverged"]
    assert journal.read(folder / "diverged").state is State.diverged


@pytest.mark.slow
def test_a_batch_that_does_not_divide_is_refused_in_one_line(folder: Path) -> None:
    line = "train.batch_size=18: allowed is a multiple of 12 (train.accumulation=6 × 2 processes)"
    assert seen(folder, "odd") == [line, line]
    record = journal.read(folder / "odd")
    assert record.state is State.failed
    assert line in record.details["error"]


@pytest.mark.slow
def test_when_a_rank_fails_the_other_ends_too_and_tells_why(tmp_path: Path, device: Device) -> None:
    (main, _), (failed, output) = launch(tmp_path, "broken", device)
    assert main != 0
    assert failed != 0
    assert "RuntimeError: out of luck" in output
    record = journal.read(tmp_path)
    assert (record.state, record.details["error"]) == (State.failed, "rank 1: RuntimeError: out of luck")


@pytest.mark.slow
def test_when_a_rank_is_killed_the_trial_can_be_resumed(tmp_path: Path, device: Device) -> None:
    (main, output), (killed, _) = launch(tmp_path, "killed", device)
    assert killed == -signal.SIGKILL
    assert main != 0, output
    record = journal.read(tmp_path)
    assert record.state is State.preempted
    assert "a rank was lost" in record.details["error"]
    assert run_trial(WHOLE, tmp_path, device) is State.completed


@pytest.mark.parametrize("size", [None, "1"])
def test_alone_nothing_is_joined(size: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size:
        monkeypatch.setenv("WORLD_SIZE", size)
    with joined(Device.cpu) as world:
        assert world == ALONE
        assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("RANK", None, "RANK=(unset): allowed is a whole number from 0 to 1"),
        ("RANK", "2", "RANK=2: allowed is a whole number from 0 to 1"),
        ("LOCAL_RANK", "x", "LOCAL_RANK=x: allowed is a whole number from 0 to 1"),
        ("WORLD_SIZE", "0", "WORLD_SIZE=0: allowed is a whole number from 1"),
        ("MASTER_PORT", "99999", "MASTER_PORT=99999: allowed is a whole number from 1 to 65535"),
        ("MASTER_ADDR", None, "MASTER_ADDR=(unset): allowed is the machine of rank 0"),
    ],
)
def test_a_wrong_environment_is_one_line(
    name: str, value: str | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, right in ENVIRONMENT.items():
        monkeypatch.setenv(key, right)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused, joined(Device.cpu):
        pass
    assert str(refused.value).startswith(text)


def test_a_port_that_is_taken_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for key, value in (ENVIRONMENT | {"MASTER_PORT": port}).items():
            monkeypatch.setenv(key, value)
        with pytest.raises(DeltalabError, match=f"MASTER_PORT={port}: rank 0 of 2 could not join"), joined(Device.cpu):
            pass
