"""How trials are dispatched: execution only, never part of a trial's identity."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from deltalab.errors import ConfigError


class Kind(Enum):
    """inline: in this process, one after another; local: a pool of submitit workers on this machine; slurm: arrays."""

    inline = "inline"
    local = "local"
    slurm = "slurm"


class Device(Enum):
    """auto takes a GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Code(Enum):
    """Which code an interrupted trial continues with: today's, or the snapshot it was submitted with."""

    current = "current"
    submitted = "submitted"


@dataclass(frozen=True, kw_only=True)
class LauncherSpec:
    """The launcher's options (group ``hydra/launcher``), inline and local.

    Attributes:
        kind: inline, local or slurm.
        workers: trials at a time in the local pool; null is one per GPU (or ``gpus_per_trial`` GPUs), or half the cores
            (2 at least) without one.
        threads: CPU threads a trial uses; null divides the cores among the workers (Slurm: the job's CPUs).
        trials_per_job: trials one worker process runs at most before it ends (saves start-up for short trials).
        gpus_per_trial: GPUs a trial uses, over all its nodes; above 1 it trains data-parallel, a process per GPU.
        trials_per_gpu: local trials that share a GPU.
        gpu_memory_gb: memory of a GPU in 10⁹ bytes; a trial that is counted to take more is refused before it is
            queued, and ``train.strategy=auto`` is planned by it. null checks nothing.
        device: auto, cpu or cuda.
        retry_failed: run failed, diverged and cancelled trials of the study again.
        code: what trials that were submitted before with other code continue with.
        confirm_gpu_hours: an estimate above it is asked about, or takes ``--yes``; without GPUs, worker-hours.
        gpu_hour_price: money per GPU-hour, for the plan; null shows none.
    """

    kind: Kind = Kind.local
    workers: int | None = None
    threads: int | None = None
    trials_per_job: int = 1
    gpus_per_trial: int = 1
    trials_per_gpu: int = 1
    gpu_memory_gb: float | None = None
    device: Device = Device.auto
    retry_failed: bool = False
    code: Code = Code.current
    confirm_gpu_hours: float = 24.0
    gpu_hour_price: float | None = None

    def __post_init__(self) -> None:
        _at_least(self, 1, "workers", "threads", "trials_per_job", "trials_per_gpu")
        _at_least(self, 0, "gpus_per_trial")
        if self.gpus_per_trial > 1 and self.trials_per_gpu > 1:
            raise ConfigError("hydra.launcher.trials_per_gpu", self.trials_per_gpu, "1 with gpus_per_trial above 1")
        if self.gpu_memory_gb is not None and not 0 < self.gpu_memory_gb < math.inf:
            raise ConfigError("hydra.launcher.gpu_memory_gb", self.gpu_memory_gb, "a number above 0, or null")
        for key in ("confirm_gpu_hours", "gpu_hour_price"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"hydra.launcher.{key}", value, "a number from 0")

    @property
    def processes(self) -> int:
        """Processes a trial runs as."""
        return max(1, self.gpus_per_trial)

    @property
    def hosts(self) -> int:
        """Nodes a trial runs on."""
        return 1

    @property
    def gpu_memory(self) -> float | None:
        """Bytes that one of the trials that share a GPU may take; None where that is not said."""
        return None if self.gpu_memory_gb is None else self.gpu_memory_gb * 1e9 / self.trials_per_gpu


@dataclass(frozen=True, kw_only=True)
class SlurmSpec(LauncherSpec):
    """A Slurm cluster: one ``sbatch`` an array, an array task a worker.

    Attributes:
        partition: sbatch's --partition; null takes the cluster's default, and so for the next three.
        qos: --qos.
        account: --account.
        constraint: --constraint (features of nodes).
        timeout_min: time limit of an array task in minutes; a trial that needs longer is checkpointed and requeued.
        signal_delay_s: seconds before the limit at which the trial is asked to checkpoint.
        nodes: nodes a trial runs on; above 1 it trains data-parallel.
        cpus_per_trial: CPUs of each of the trial's processes.
        mem_gb: memory a node gives the trial; null takes the cluster's default.
        array_parallelism: array tasks that run at a time.
        patience_s: seconds to wait, in all, when the cluster refuses further submissions for a limit of its own.
        setup: shell lines before the worker starts (``module load``, ``source activate``).
        python: the interpreter on the nodes; null is this one (in a container: ``python``).
        container: an image to run in; null runs on the node itself.
        container_command: how to run in it; {image} and {runs} are replaced.
        srun_args: further arguments of srun, where a trial has several processes.
        sbatch: further options of sbatch (``['exclude=n7', exclusive]``; quoted, where Hydra reads them).
    """

    kind: Kind = Kind.slurm
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    timeout_min: int = 24 * 60
    signal_delay_s: int = 120
    nodes: int = 1
    cpus_per_trial: int = 4
    mem_gb: float | None = None
    array_parallelism: int = 256
    patience_s: float = 60.0
    setup: list[str] = field(default_factory=list)
    python: str | None = None
    container: str | None = None
    container_command: str = "apptainer exec --nv --bind {runs} {image}"
    srun_args: list[str] = field(default_factory=list)
    sbatch: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, 1, "timeout_min", "nodes", "cpus_per_trial", "array_parallelism")
        _at_least(self, 0, "signal_delay_s", "patience_s")
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ConfigError(
                "hydra.launcher.signal_delay_s", self.signal_delay_s, f"less than timeout_min = {self.timeout_min} min"
            )
        if self.gpus_per_trial % self.nodes:
            raise ConfigError(
                "hydra.launcher.gpus_per_trial", self.gpus_per_trial, f"0 or a multiple of nodes = {self.nodes}"
            )
        if self.mem_gb is not None and not self.mem_gb > 0:
            raise ConfigError("hydra.launcher.mem_gb", self.mem_gb, "a number above 0, or null")
        if self.container is not None and "{image}" not in self.container_command:
            raise ConfigError(
                "hydra.launcher.container_command", self.container_command, "a command with {image} in it"
            )

    @property
    def processes(self) -> int:
        return max(self.nodes, self.gpus_per_trial)

    @property
    def hosts(self) -> int:
        return self.nodes


def launcher_spec(options: Mapping[str, Any]) -> LauncherSpec:
    """The spec of a launcher's options, by their ``kind`` (an enum's value will do, as a record holds it); options that
    this kind does not have are left out.

    Raises:
        ConfigError: a value that is not allowed.
    """
    known = {f.name for f in fields(SlurmSpec)}
    for key, value in options.items():
        if key not in known:
            raise ConfigError(f"hydra.launcher.{key}", value, sorted(known))
    typed = {key: value if isinstance(value, kind) else kind(value) for key, kind, value in _enums(options)}
    spec = SlurmSpec if typed.get("kind") is Kind.slurm else LauncherSpec
    taken = {f.name for f in fields(spec)}
    return spec(**{key: value for key, value in {**options, **typed}.items() if key in taken})


def _enums(options: Mapping[str, Any]) -> Iterator[tuple[str, type[Enum], Any]]:
    for key, kind in (("kind", Kind), ("device", Device), ("code", Code)):
        if key in options:
            yield key, kind, options[key]


def _at_least(spec: LauncherSpec, least: int, *keys: str) -> None:
    for key in keys:
        value = getattr(spec, key)
        if value is not None and value < least:
            raise ConfigError(f"hydra.launcher.{key}", value, f"a whole number from {least}, or null")
