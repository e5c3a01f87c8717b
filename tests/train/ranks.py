"""Ranks for the tests of data parallelism: processes with the environment that torchrun gives them.

``python -m tests.train.ranks FOLDER SCENARIO DEVICE`` is one rank; ``launch`` starts them all.
"""

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from deltalab.errors import UsageError
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.train import loop
from deltalab.train.distributed import World, joined
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import StopAt, filling_at

ROOT = Path(__file__).parents[2]

SUITES = ("eval.suites=['small samples=4']", "eval.suite_every=8")
SHARED = ("variant.pattern=[mixer,swa]", "train.log_every=1", "eval.every=8")
PARTED = (*SHARED, *SUITES)
WHOLE = trial(*PARTED, "train.accumulation=2")
OTHER_SUMS = trial(*PARTED, "train.accumulation=4")
LOUD = trial("train.lr=1e6", "train.clip=1e9")
ODD = trial("train.batch_size=18", "train.accumulation=6")


def launch(folder: Path, scenario: str, device: Device = Device.cpu, size: int = 2) -> list[tuple[int, str]]:
    """Exit code and output of every rank of a scenario."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "tests.train.ranks", str(folder), scenario, device.value]
    everybody = os.environ | {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    everybody |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=everybody | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, output) for rank, output in zip(ranks, outputs, strict=True)]


def several(folder: Path, device: Device, world: World) -> None:
    """Trials of every kind of end, one after another in the same world; each rank notes what it saw."""

    def run(name: str, spec: TrialSpec, stop: Callable[[], bool] = lambda: False) -> None:
        try:
            seen[name] = run_trial(spec, folder / name, device, stop, world).value
        except UsageError as error:
            seen[name] = str(error)

    seen: dict[str, str] = {}
    run("whole", WHOLE)
    run("stopped", WHOLE, StopAt(7) if world.rank == 1 else lambda: False)
    seen["stopped on two"] = seen["stopped"]
    if world.main:
        shutil.copytree(folder / "stopped", folder / "copy")
    world.share(None)
    run("stopped", WHOLE)
    run("diverged", LOUD)
    run("odd", ODD)
    (folder / f"seen.{world.rank}.json").write_text(json.dumps(seen))


def under(strategy: str, *overrides: str) -> TrialSpec:
    """The trial that strategies are compared on: two sequences a pass, whatever the ranks."""
    return trial(*SHARED, "eval.batch_size=2", "train.micro_batch_size=2", f"train.strategy={strategy}", *overrides)


IN_FOUR = {"ddp": under("ddp"), "fsdp": under("fsdp"), "hsdp": under("hsdp", "train.shard_size=2")}
IN_TWO = {
    "fsdp": under("fsdp"),
    "blocks computed again": under("fsdp", "train.activation_checkpointing=true"),
    "bf16": under("fsdp", "train.precision=bf16"),
}


def four(folder: Path, device: Device, world: World) -> None:
    """Every strategy on four ranks, and a trial in shares that stops."""
    for name, spec in IN_FOUR.items():
        run_trial(spec, folder / "four" / name, device, world=world)
    run_trial(IN_FOUR["hsdp"], folder / "four stopped", device, StopAt(7) if world.rank == 3 else lambda: False, world)


def two(folder: Path, device: Device, world: World) -> None:
    """Shares on two ranks; two go on with what four began, and with what one did."""
    for name, spec in IN_TWO.items():
        run_trial(spec, folder / "two" / name, device, world=world)
    run_trial(under("fsdp"), folder / "four, then two", device, world=world)
    run_trial(under("fsdp"), folder / "one, then two", device, world=world)
    run_trial(under("fsdp", "train.keep_checkpoints=2"), folder / "two stopped", device, StopAt(17), world)


def killed_in_shares(folder: Path, device: Device, world: World) -> None:
    """The last rank of a trial in shares is killed in the middle, after a checkpoint."""
    kill = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
    _ends_in_the_middle(kill, folder, device, world, under("fsdp", "train.checkpoint_every=2"))


def filled(folder: Path, device: Device, world: World) -> None:
    """A trial in shares whose disk is full from its seventh step on."""
    if world.main:
        run_trial(under("fsdp"), folder, device, filling_at(6, folder.parent, room=16384), world)
    else:
        run_trial(under("fsdp"), folder, device, world=world)


def stopped(folder: Path, device: Device, world: World) -> None:
    """The trial that the folder has the configuration of, stopped after seven steps."""
    spec = TrialSpec.from_dict(json.loads((folder / "spec.json").read_text()))
    run_trial(spec, folder / "run", device, StopAt(7), world)


def broken(folder: Path, device: Device, world: World) -> None:
    """The last rank fails in the middle."""

    def luckless() -> None:
        raise RuntimeError("out of luck")

    _ends_in_the_middle(luckless, folder, device, world)


def killed(folder: Path, device: Device, world: World) -> None:
    """The last rank is killed in the middle."""
    _ends_in_the_middle(lambda: os.kill(os.getpid(), signal.SIGKILL), folder, device, world)


def _ends_in_the_middle(
    end: Callable[[], None], folder: Path, device: Device, world: World, spec: TrialSpec = WHOLE
) -> None:
    def step(trainer: loop.Trainer) -> None:
        if trainer.step == 3 and world.rank == world.size - 1:
            end()
        original(trainer)

    original = loop.Trainer._train_step
    loop.Trainer._train_step = step
    run_trial(spec, folder, device, world=world)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, scenario, where = Path(sys.argv[1]), sys.argv[2], Device(sys.argv[3])
    with joined(where) as joint:
        scenarios = [several, four, two, stopped, filled, broken, killed, killed_in_shares]
        {run.__name__: run for run in scenarios}[scenario](place, where, joint)
