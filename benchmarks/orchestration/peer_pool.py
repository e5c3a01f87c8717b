"""The peer's side of ``pool``: this project's configuration and trials, started by hydra-submitit-launcher."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from deltalab.spec import load
from deltalab.study import ledger
from deltalab.study.resolve import resolve


@hydra.main(version_base="1.3", config_path=str(load.CONF), config_name="config")
def trial(config: DictConfig) -> None:
    """Run the trial that was composed, in a run directory, as a worker of ours does."""
    import torch

    from deltalab.train.trial import run_trial

    torch.set_num_threads(1)
    spec = resolve(load.trial_spec(config))
    run_trial(spec, ledger.freeze(Path(config.runs), spec))


if __name__ == "__main__":
    load.register()
    trial()
