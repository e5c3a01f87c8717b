"""The peer's side of ``queue``: an application that does nothing, so that only launching it takes time."""

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=None)
def trial(config: DictConfig) -> None:
    """Its jobs are held in the queue and never run."""


if __name__ == "__main__":
    trial()
