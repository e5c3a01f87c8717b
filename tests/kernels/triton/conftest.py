"""What several modules of tests of the Triton kernels share."""

from typing import Any

import pytest
import torch

from deltalab.kernels.triton import passes


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The launches of the passes, by their configurations, as they come."""
    names: list[str] = []
    start = passes.launch

    def launch(kernel: Any, config: str, *args: Any, **constants: Any) -> None:
        names.append(config)
        start(kernel, config, *args, **constants)

    monkeypatch.setattr(passes, "launch", launch)
    return names


@pytest.fixture
def hopper() -> None:
    """Needs a GPU that the kernels in Gluon are for."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("kernels in Gluon are for Hopper")
