"""How trials are dispatched: execution only, never part of a trial's identity."""

from dataclasses import dataclass
from enum import Enum

from deltalab.errors import ConfigError


class Kind(Enum):
    """inline: in this process, one after another; local: a pool of submitit workers on this machine."""

    inline = "inline"
    local = "local"


class Device(Enum):
    """auto takes a GPU where there is one."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True, kw_only=True)
class LauncherSpec:
    """The launcher's options (group ``hydra/launcher``).

    Attributes:
        kind: inline or local.
        workers: trials at a time; null is one per GPU, or half the cores (2 at least) without one.
        threads: CPU threads a trial uses; null divides the cores among the workers.
        trials_per_job: trials one worker process runs at most before it ends (saves start-up for short trials).
        device: auto, cpu or cuda.
        retry_failed: run failed and diverged trials of the study again.
    """

    kind: Kind = Kind.local
    workers: int | None = None
    threads: int | None = None
    trials_per_job: int = 1
    device: Device = Device.auto
    retry_failed: bool = False

    def __post_init__(self) -> None:
        for key in ("workers", "threads", "trials_per_job"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"hydra.launcher.{key}", value, "a whole number from 1, or null")
