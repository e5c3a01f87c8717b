"""Texts prepared by an array: every shard once, interrupted or not, and the store as one process makes it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.files import texts, write_parquet
from tests.slurm.desk import SLURM, SlurmDesk
from tests.slurm.together import together

pytestmark = pytest.mark.slurm
ARRAY = [option for option in SLURM if option.startswith("hydra")]
SHARDS = 7
HELD = "hydra.launcher.sbatch=[hold]"


def overrides(desk: SlurmDesk) -> list[str]:
    """A text of some megabytes, so that it becomes several shards, with a tokenizer that takes a while."""
    desk.env["DELTALAB_CACHE"] = str(desk.folder / "cache")
    folder = desk.folder / "hub"
    if not folder.exists():
        write_parquet(folder, [text * 12 for text in texts(1600)], SHARDS)
    return [
        "data=text",
        "data.corpus=null",
        f"data.files={folder}/*.parquet",
        "data.tokenizer=bpe",
        "data.bpe_vocab=300",
    ]


def status(desk: SlurmDesk) -> dict[str, Any]:
    done = desk.deltalab("prepare", *overrides(desk), "--status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def submit(desk: SlurmDesk, *more: str) -> str:
    done = desk.deltalab("prepare", *overrides(desk), *ARRAY, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def assert_as_one_process_makes_it(desk: SlurmDesk, store: Path) -> None:
    made = tree(store)
    aside = store.rename(store.with_name("aside"))
    done = desk.deltalab("prepare", *overrides(desk), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert tree(store) == made
    assert tree(aside) == made


@together
def test_an_array_makes_every_shard_once_and_the_last_task_ends_the_store(desk: SlurmDesk) -> None:
    said = submit(desk, HELD, "hydra.launcher.cpus_per_trial=2")
    (job,) = desk.jobs()
    now = status(desk)
    of = now["of"]
    assert f"Submitted batch array {job}: {of} shards in {-(-of // 2)} tasks" in said
    assert (now["shards"], now["queued"], now["unattended"]) == (0, of, 0)
    assert f"{of} in the queue" in submit(desk)
    assert desk.jobs() == [job]
    desk.cluster.call("scontrol", "release", job)
    desk.finish()
    assert {run.state for run in desk.cluster.sacct(job)} == {"COMPLETED"}
    now = status(desk)
    assert (now["complete"], now["shards"]) == (True, of)
    assert f"{of} of {of} shards are there" in submit(desk)
    assert desk.jobs() == [job]
    verified = desk.deltalab("prepare", *overrides(desk), "--verify")
    assert verified.returncode == 0, verified.stderr
    assert_as_one_process_makes_it(desk, Path(now["store"]))


@together
def test_a_task_that_is_asked_to_stop_comes_back_for_what_is_missing(desk: SlurmDesk) -> None:
    submit(desk, HELD, "hydra.launcher.array_parallelism=1")
    (job,) = desk.jobs()
    store = Path(status(desk)["store"])
    desk.cluster.call("scontrol", "release", job)
    desk.cluster.wait(lambda: list(store.glob("shard-*")), 240)
    desk.cluster.call("scancel", "--batch", "--signal=USR2", f"{job}_0")
    desk.cluster.wait(lambda: "REQUEUED" in {run.state for run in desk.cluster.sacct(job)}, 240)
    desk.finish()
    states = [run.state for run in desk.cluster.sacct(job)]
    assert states == ["REQUEUED", "COMPLETED"]
    assert f"requeued job {job}_0" in desk.logs()
    assert status(desk)["complete"]
    assert_as_one_process_makes_it(desk, store)


@together
def test_what_a_cancelled_array_left_is_submitted_again(desk: SlurmDesk) -> None:
    submit(desk, HELD, "hydra.launcher.cpus_per_trial=2")
    (job,) = desk.jobs()
    desk.cluster.call("scancel", job)
    desk.cluster.wait(lambda: status(desk)["unattended"] == status(desk)["of"], 240)
    assert "Submitted batch array" in submit(desk, "hydra.launcher.cpus_per_trial=2")
    desk.finish()
    assert len(desk.jobs()) == 2
    assert status(desk)["complete"]
