"""What holds for every test, before anything is imported that reads it.

One thread of torch's a process, as several processes test at once. Without a GPU, Triton's kernels run in its
interpreter, which must be chosen before the first import of Triton, whoever does it.
"""

import os
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # which torch reads when it is imported, by subprocesses too
    os.environ.setdefault(name, "1")

import torch  # noqa: E402, it reads the threads

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Repositories of the hub's form with a few rows of every data set of the paper's tables."""
    from tests.evals.hub import make_hub

    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def prepared(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``deltalab prepare-eval`` makes of them."""
    from deltalab.evals.sets import SETS, keep
    from tests.evals.hub import served

    folder = tmp_path_factory.mktemp("prepared")
    with served(hub, folder / "cache"):
        for name in (name for sets in SETS.values() for name in sets):
            keep(name, folder)
    return folder
