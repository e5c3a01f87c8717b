"""Hydra's shim: gathers the jobs of a multirun into studies and hands them to ``dispatch``. Imported by every Hydra app
on the machine, so nothing heavy is imported at the top."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class DeltalabLauncher(Launcher):
    """``hydra/launcher=local|inline|slurm``: plans and dispatches; exits with the study's code.

    Args:
        options: the fields of ``spec.launcher.LauncherSpec`` (Slurm: ``SlurmSpec``).
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from deltalab.track.files import refuse_unwritable

        refuse_unwritable(Path(config.runs).resolve())  # Hydra's sweeper writes there next, and would say less
        self._config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from deltalab.dispatch.launch import launch_jobs
        from deltalab.spec.launcher import launcher_spec
        from deltalab.spec.load import launch_spec

        assert self._config is not None, "Hydra calls setup before launch"
        code = launch_jobs(job_overrides, launcher_spec(self._options), launch_spec(self._config))
        if code:
            sys.exit(code)
        return []
