"""How a batch is split among processes, and what of a training's keys is part of a trial's identity."""

import pytest

from deltalab.errors import ConfigError
from deltalab.spec.train import PLACING, Strategy, TrainSpec
from tests.specs import trial


@pytest.mark.parametrize(
    ("spec", "processes", "parts"),
    [
        (TrainSpec(batch_size=48, accumulation=3), 1, 3),
        (TrainSpec(batch_size=48, accumulation=3), 8, 3),
        (TrainSpec(batch_size=48, micro_batch_size=2), 1, 24),
        (TrainSpec(batch_size=48, micro_batch_size=2), 8, 3),
        (TrainSpec(batch_size=48, micro_batch_size=6), 8, 1),
    ],
)
def test_parts_of_a_batch_follow_from_the_number_of_processes(spec: TrainSpec, processes: int, parts: int) -> None:
    assert spec.parts(processes) == parts


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        (
            TrainSpec(batch_size=48, accumulation=3),
            "train.batch_size=48: allowed is a multiple of 15 (train.accumulation=3 × 5 processes)",
        ),
        (
            TrainSpec(batch_size=48, micro_batch_size=4),
            "train.batch_size=48: allowed is a multiple of 20 (train.micro_batch_size=4 × 5 processes)",
        ),
    ],
)
def test_a_batch_that_does_not_divide_is_one_line(spec: TrainSpec, line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        spec.parts(5)
    assert str(refused.value) == line


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.micro_batch_size=0"], "train.micro_batch_size=0: allowed is a whole number from 1, or null"),
        (["train.shard_size=0"], "train.shard_size=0: allowed is a whole number from 1, or null"),
        (["train.keep_checkpoints=0"], "train.keep_checkpoints=0: allowed is a whole number from 1"),
        (["train.strategy=zero"], "train.strategy=zero: allowed is one of auto, ddp, fsdp, hsdp"),
        (
            ["train.micro_batch_size=2", "train.accumulation=2"],
            "train.micro_batch_size=2: allowed is null with train.accumulation=2: each says how a batch is split",
        ),
    ],
)
def test_a_wrong_key_is_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError if "zero" not in line else Exception) as refused:
        trial(*overrides)
    assert line in str(refused.value)


def test_where_a_trials_parts_lie_is_no_part_of_its_identity() -> None:
    placed = {"strategy": "hsdp", "shard_size": "2", "micro_batch_size": "4", "keep_checkpoints": "3"}
    assert placed.keys() == set(PLACING)
    other = trial(*(f"train.{key}={value}" for key, value in placed.items()))
    assert other.train.strategy is Strategy.hsdp
    assert other != trial()
    assert other.trial_id == trial().trial_id
    assert trial("train.accumulation=2").trial_id != trial().trial_id
