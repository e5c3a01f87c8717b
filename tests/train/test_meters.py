"""What a run measures and what it overlaps: meters, spikes, peaks, batches made ahead, the journal's thread."""

import contextlib
import errno
import threading
import time
from pathlib import Path

import pytest
import torch

from deltalab.data.batch import Batch, make_task
from deltalab.model.accounting import cost
from deltalab.spec.launcher import Device
from deltalab.spec.train import Precision
from deltalab.track import journal
from deltalab.track.journal import Journal
from deltalab.train import loss
from deltalab.train.feed import Feed
from deltalab.train.meters import MEASURED, Clock, Meters, Phase
from deltalab.train.peaks import peak_tflops
from deltalab.train.recorder import Recorder
from deltalab.train.spikes import FIRST, Spikes
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import StopAt

CPU = torch.device("cpu")


def test_a_logged_step_says_everything(tmp_path: Path) -> None:
    run_trial(trial("train.peak_tflops=0.001", "train.log_every=5"), tmp_path, Device.cpu)
    record = journal.read(tmp_path)
    assert set(MEASURED) <= record.metrics.keys()
    assert record.metrics["train/loss_spikes"] == dict.fromkeys([1, 5, 10, 15, 20], 0.0)
    assert all(0 <= share < 1 for share in record.metrics["train/data_wait"].values())
    assert list(record.metrics["train/seconds_to_go"]) == [5, 10, 15, 20]  # the first step tells no pace
    assert record.seconds_to_go == 0
    spent = record.details["seconds"]
    assert spent.keys() == {"all", *(phase.value for phase in Phase)}
    assert 0 < spent["evaluation"] < spent["all"]
    assert spent["samples"] == 0


def test_mfu_is_the_share_of_the_peak_and_absent_where_that_is_not_known(tmp_path: Path) -> None:
    spec = trial("train.peak_tflops=2")
    clock = Clock()
    values = Meters(spec, CPU, 3, clock, 0).measure(1, float("inf"))
    flops = 3 * cost(spec.variant, spec.model, spec.data.train_length).flops
    assert values["train/mfu"] == pytest.approx(flops * values["train/tokens_per_second"] / (3 * 2e12))
    assert "train/mfu" not in Meters(trial(), CPU, 3, clock, 0).measure(1, float("inf"))


def test_pauses_do_not_count_as_training_and_waiting_is_a_share_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    spec, clock = trial("train.batch_size=4", "train.steps=100"), Clock()
    meters = Meters(spec, CPU, 1, clock, 0)
    for phase, seconds in ((Phase.data, 2.0), (Phase.evaluation, 30.0), (Phase.checkpoint, 10.0), (Phase.samples, 5.0)):
        with clock.spending(phase):
            now[0] += seconds
    now[0] += 6.0
    first = meters.measure(10, float("inf"))
    assert first["train/tokens_per_second"] == pytest.approx(10 * 4 * spec.data.train_length / 8)
    assert first["train/data_wait"] == pytest.approx(2 / 8)
    assert "train/seconds_to_go" not in first
    now[0] += 20.0
    assert meters.measure(20, float("inf"))["train/seconds_to_go"] == pytest.approx(160)
    now[0] += 20.0
    assert meters.measure(30, 7.0)["train/seconds_to_go"] == 7.0  # no more than train.max_hours leaves


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5, 67.0),
        ("NVIDIA H100 PCIe", 756.5, 51.0),
        ("NVIDIA H100 NVL", 835.5, 60.0),
        ("NVIDIA H200", 989.5, 67.0),
        ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None),
        ("NVIDIA L40S", 362.0, 91.6),
        ("NVIDIA B200", 2250.0, None),
        ("NVIDIA GeForce RTX 2080", None, None),
        ("NVIDIA A1000", None, None),
    ],
)
def test_a_peak_is_found_by_the_whole_words_of_a_name(name: str, bf16: float | None, fp32: float | None) -> None:
    assert peak_tflops(name, Precision.bf16) == bf16
    assert peak_tflops(name, Precision.fp32) == fp32


def test_a_spike_is_counted_once_and_moves_the_mean_little() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = 2 + 0.1 * torch.randn(300, generator=generator)
    losses[10], losses[200] = 50.0, 20.0  # the first before anything is known
    spikes = Spikes(CPU)
    for value in losses[:200]:
        spikes.see(value)
    assert spikes.figures.tolist() == [0, 0]
    spikes = Spikes(CPU, spikes.state)  # as after a resume
    before = spikes.state[0]
    spikes.see(losses[200])
    assert spikes.figures.tolist() == [1, 20]
    assert spikes.state[0] - before < 20 / 100
    spikes.looked()
    for value in losses[201:]:
        spikes.see(value)
    assert spikes.figures.tolist() == [1, 0]


def test_calm_losses_have_no_spike_and_falling_ones_neither() -> None:
    spikes = Spikes(CPU)
    for step in range(4 * FIRST):
        spikes.see(torch.tensor(5 / (1 + step)))
    assert spikes.figures.tolist() == [0, 0]


def test_a_spike_is_noted_and_counted_on_by_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spiking(*arguments: torch.Tensor) -> torch.Tensor:
        steps.append(len(steps) + 1)
        return original(*arguments) * (20 if steps[-1] in (8, 13) else 1)

    steps: list[int] = []
    original = loss.summed_loss
    monkeypatch.setattr(loss, "summed_loss", spiking)
    monkeypatch.setattr("deltalab.train.spikes.FIRST", 3)
    spec = trial("train.log_every=5")
    run_trial(spec, tmp_path, Device.cpu, StopAt(9))
    run_trial(spec, tmp_path, Device.cpu)
    steps.clear()
    run_trial(spec, tmp_path / "whole", Device.cpu)
    counted = journal.read(tmp_path).metrics["train/loss_spikes"]
    assert counted == {1: 0, 5: 0, 10: 1, 15: 2, 20: 2}
    assert counted == journal.read(tmp_path / "whole").metrics["train/loss_spikes"]
    notes = [line for line in journal.entries(tmp_path)[0] if line["event"] == "note"]
    assert [(note["step"], note["spikes"]) for note in notes] == [(10, 1), (15, 2)]
    assert "loss spike" in notes[0]["text"]


@pytest.mark.parametrize("ahead", [0, 2])
def test_the_feed_hands_out_the_steps_in_order(ahead: int) -> None:
    spec = trial("data=recall")
    task = make_task(spec.data, 0)
    with Feed(task, 8, slice(2, 4), CPU, range(3, 9), ahead) as feed:
        for step in range(3, 9):
            share, batch = feed.take(), task.train_batch(step, 8)
            assert (share.tokens.numpy() == batch.tokens[2:4]).all()
            assert (share.targets.numpy() == batch.targets[2:4]).all()
            assert share.scored == batch.scored.sum()


class Broken:
    """A task whose third batch cannot be made."""

    def __init__(self) -> None:
        self.task = make_task(trial().data, 0)

    def train_batch(self, step: int, rows: int) -> Batch:
        if step == 2:
            raise OSError(errno.EIO, "the disk is gone")
        return self.task.train_batch(step, rows)


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_the_feed_meets_is_raised_where_its_batch_is_taken(ahead: int) -> None:
    with Feed(Broken(), 4, slice(0, 4), CPU, range(9), ahead) as feed:  # pyright: ignore[reportArgumentType]
        feed.take()
        feed.take()
        with pytest.raises(OSError, match="the disk is gone"):
            feed.take()


def test_no_thread_outlives_a_trial(tmp_path: Path) -> None:
    run_trial(trial("train.steps=50"), tmp_path, Device.cpu, StopAt(2))
    assert {thread.name for thread in threading.enumerate()}.isdisjoint({"feed", "recorder"})


def test_the_recorder_keeps_the_order_and_has_written_all_when_asked(tmp_path: Path) -> None:
    with Recorder(Journal(tmp_path)) as recorder:
        for step in range(200):
            recorder.metrics(step, {"x": 1.0})
        recorder.check()
        assert [line["step"] for line in journal.entries(tmp_path)[0]] == list(range(200))
        recorder.note(200, "done")
    assert journal.entries(tmp_path)[0][-1]["text"] == "done"


def test_the_recorder_raises_what_the_journal_raised_and_writes_no_more(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    with contextlib.suppress(FileNotFoundError), Recorder(log) as recorder:  # its end raises it again
        recorder.metrics(1, {"x": 1.0})
        recorder.check()
        (tmp_path / journal.FILE).unlink()
        recorder.metrics(2, {"x": 1.0})
        with pytest.raises(FileNotFoundError, match="deleted"):
            recorder.check()
        with pytest.raises(FileNotFoundError, match="deleted"):
            recorder.metrics(3, {"x": 1.0})
    assert not (tmp_path / journal.FILE).exists()
