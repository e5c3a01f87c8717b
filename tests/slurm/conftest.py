"""One Slurm cluster for all tests here, and one undisturbed run to compare with."""

from collections.abc import Iterator

import pytest

from tests.dispatch.launching import LOCAL, QUIET
from tests.slurm.cluster import Cluster, unavailable
from tests.slurm.desk import LONG, TWO_TRIALS, Result, SlurmDesk
from tests.slurm.together import Started, start


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, up; Slurm's commands in this process and its children are its own."""
    if reason := unavailable():
        pytest.skip(reason)
    with Cluster().running() as up, pytest.MonkeyPatch.context() as patch:
        for name, value in up.environment.items():
            patch.setenv(name, value)
        yield up


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What TWO_TRIALS with LONG come to in this machine's own pool, where nothing happens to them."""
    desk = SlurmDesk(tmp_path_factory.mktemp("undisturbed"), cluster)
    done = desk.launch("-m", f"study={desk.study(TWO_TRIALS)}", *LOCAL, QUIET, *LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    return desk.results()


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """This module's scenarios, as far as they were asked for, all started."""
    cluster.set()
    names = [item.name for item in request.session.items if getattr(item, "module", None) is request.module]

    def give(scenario: str, what: str) -> object:
        if what == "desk":
            return SlurmDesk(tmp_path_factory.mktemp(scenario[:30]), cluster)
        return request.getfixturevalue(what)

    with start(request.module, names, give) as futures:
        yield futures
