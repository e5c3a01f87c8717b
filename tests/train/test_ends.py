"""Ends before the end, samples, profiles and determinism: what a trial does when asked to."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from deltalab.errors import ConfigError, UsageError
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.track.journal import Journal, State
from deltalab.train import loop
from deltalab.train.checkpoint import WEIGHTS, latest_checkpoint
from deltalab.train.trial import run_trial
from tests.data.tiny import use_tiny_corpus
from tests.specs import trial
from tests.train.runs import StopAt, assert_equal


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def notes(folder: Path) -> list[dict]:
    return [line for line in journal.entries(folder)[0] if line["event"] == "note"]


def hours(monkeypatch: pytest.MonkeyPatch, seconds: Sequence[float]) -> None:
    """The trainer's clock shows these seconds, one a look, then the last of them for ever."""
    left = list(seconds)
    shown = property(lambda clock: left.pop(0) if len(left) > 1 else left[0])
    monkeypatch.setattr("deltalab.train.meters.Clock.seconds", shown)


def test_a_trial_whose_hours_are_over_ends_whole_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.Trainer._train_step

    def slow(trainer: loop.Trainer) -> None:
        original(trainer)
        if trainer.step == 7:
            hours(monkeypatch, [3600.0])

    monkeypatch.setattr(loop.Trainer, "_train_step", slow)
    assert run_trial(trial("train.max_hours=1"), tmp_path, Device.cpu) is State.completed
    record = journal.read(tmp_path)
    assert record.early == "train.max_hours=1"
    assert record.details["step"] == 7
    assert record.metrics["eval/loss"].keys() == {7}
    assert (tmp_path / WEIGHTS).exists()
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == "step-00000007"


def test_hours_are_counted_over_all_executions(tmp_path: Path) -> None:
    spec = trial("train.max_hours=1")
    assert run_trial(spec, tmp_path, Device.cpu, StopAt(5)) is State.preempted
    lines = journal.entries(tmp_path)[0]
    for line in lines[1:]:
        line["t"] += 3600  # as if the first execution had taken an hour
    (tmp_path / journal.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_trial(spec, tmp_path, Device.cpu) is State.completed
    assert journal.read(tmp_path).details["step"] == 5


def test_without_its_hours_being_over_a_trial_ends_at_its_end(tmp_path: Path) -> None:
    run_trial(trial("train.max_hours=1"), tmp_path, Device.cpu)
    record = journal.read(tmp_path)
    assert (record.early, record.details["step"]) == (None, 20)
    assert max(record.metrics["train/seconds_to_go"].values()) < 3600


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.max_hours=0", "train.max_hours=0"),
        ("train.peak_tflops=-1", "train.peak_tflops=-1"),
        ("eval.sample_every=5", "0 with data of task state_tracking"),
        ("eval.samples=0", "eval.samples=0"),
    ],
)
def test_a_mistake_is_one_line(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        trial(change)


def test_samples_are_written_at_intervals_and_change_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_corpus(monkeypatch, tmp_path / "cache")
    text = ("data=text", "data.train_length=32", "data.test_length=32", "train.steps=12", "eval.sequences=4")
    sampled = ("eval.sample_every=5", "eval.samples=2", "eval.sample_tokens=9")
    run_trial(trial(*text), tmp_path / "without", Device.cpu)
    run_trial(trial(*text, *sampled), tmp_path / "with", Device.cpu)
    assert_equal(tmp_path / "with", tmp_path / "without")
    files = [note["files"][0] for note in notes(tmp_path / "with")]
    assert files == [f"samples/step-{step:08d}.txt" for step in (5, 10, 12)]
    page = (tmp_path / "with" / files[0]).read_text()
    assert page.startswith("step 5\n")
    assert page.count("\n--- written\n") == 2


@pytest.mark.parametrize(("steps", "name"), [(10, "steps-7-9"), (4, "steps-2-4")])
def test_a_profile_is_a_trace_of_the_steps_its_name_says(
    steps: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = trial("train.profile=true", f"train.steps={steps}", "train.batch_size=2", "train.log_every=99")
    assert run_trial(spec, tmp_path, Device.cpu) is State.completed
    trace = tmp_path / "profile" / f"{name}.trace.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event["name"].startswith("Optimizer.step") for event in events) == 3
    assert "aten::mm" in trace.with_name(f"{name}.txt").read_text()
    assert str(trace) in capsys.readouterr().out
    assert notes(tmp_path)[0]["files"] == [f"profile/{name}.trace.json.gz", f"profile/{name}.txt"]


def test_two_deterministic_runs_are_bitwise_equal_and_leave_torch_as_it_was(tmp_path: Path) -> None:
    spec = trial("train.deterministic=true", "variant.pattern=[mixer,swa]")
    for name in ("one", "other"):
        assert run_trial(spec, tmp_path / name, Device.cpu) is State.completed
    assert_equal(tmp_path / "one", tmp_path / "other")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_an_operation_without_a_deterministic_form_is_named(
    wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.Trainer._train_step

    def scatter(trainer: loop.Trainer) -> None:
        torch.zeros(4).put_(torch.tensor([1]), torch.tensor([2.0]))
        original(trainer)

    monkeypatch.setattr(loop.Trainer, "_train_step", scatter)
    spec = trial(f"train.deterministic={wanted}", "train.steps=2")
    if wanted == "false":
        assert run_trial(spec, tmp_path, Device.cpu) is State.completed
        return
    with pytest.raises(UsageError, match=r"train\.deterministic=true: allowed is false here: put_ has no"):
        run_trial(spec, tmp_path, Device.cpu)
    assert journal.read(tmp_path).state is State.failed


def test_notes_leave_a_record_as_it_was(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    log.state(State.running, steps=10)
    log.metrics(5, {"train/loss": 1.0})
    log.note(5, "loss spike")
    record = journal.read(tmp_path)
    assert (record.state, record.step, record.last("train/loss")) == (State.running, 5, 1.0)
    assert journal.glance(tmp_path).step == 5
