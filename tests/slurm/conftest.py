"""One Slurm cluster for all tests here."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster, unavailable


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, up; Slurm's commands in this process and its children are its own."""
    if reason := unavailable():
        pytest.skip(reason)
    with Cluster().running() as up, pytest.MonkeyPatch.context() as patch:
        for name, value in up.environment.items():
            patch.setenv(name, value)
        yield up
