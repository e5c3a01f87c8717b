"""The mirror on a real PostgreSQL and MLflow server: many writers, an outage, resumed trials, artifacts by URI."""

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.book import read_book
from deltalab.track.connection import MirrorFailed, quiet_mlflow
from deltalab.track.journal import State
from deltalab.track.mlflow import Mirror, log_report
from tests.analysis.studies import ACCURACY, LOSS, Made, Outcome, make_study
from tests.dispatch.launching import INLINE, Desk
from tests.servers.servers import TrackingServer, postgres, unavailable, until
from tests.specs import TWO_CELLS

pytestmark = pytest.mark.servers
WRITERS = 64
STEPS = 150
ATTEMPTS = 5
"""A mirror beside a launch tries again with every batch; these are as patient."""
Points = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := unavailable():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("postgres")
    for parent in (folder, *folder.parents[:2]):  # PostgreSQL runs as another user than root and passes through
        parent.chmod(0o755)
    with postgres(folder / "server") as uri:
        yield uri


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    quiet_mlflow()
    server = TrackingServer(tmp_path_factory.mktemp("tracking"), database)
    server.start()
    yield server
    server.kill()


def studies(folder: Path, count: int, prefix: str) -> list[Made]:
    """Finished studies of one trial each, every one in a runs folder of its own."""

    def outcome(_: Mapping[str, str], seed: int) -> Outcome:
        curve = {step: 1 / step for step in range(1, STEPS + 1)}
        return Outcome(values={ACCURACY: 0.5 + seed / 7, LOSS: 0.25}, step=STEPS, curve=curve)

    return [
        make_study(folder / str(place), {"variant": ["plain"]}, outcome, seeds=1, name=f"{prefix}-{place}")
        for place in range(count)
    ]


def mirror_once(made: Made, uri: str, attempts: int) -> None:
    """A writer's process: exit code 0 when everything was acknowledged."""
    for _ in range(attempts):
        try:
            Mirror(made.runs, made.name, uri).sync()
        except MirrorFailed:
            continue
        raise SystemExit(0)
    raise SystemExit(1)


def start_writers(made: list[Made], uri: str, attempts: int = ATTEMPTS) -> list[multiprocessing.Process]:
    """A process for every study, all writing at once."""
    import mlflow  # noqa: F401, once for all of them: they are forked

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=mirror_once, args=(one, uri, attempts)) for one in made]
    for writer in writers:
        writer.start()
    return writers  # type: ignore[return-value]


def stored(database: str, run_id: str) -> Points:
    """Every point of a run as the database has it, doubled ones too."""
    import psycopg

    found: Points = {}
    with psycopg.connect(database) as connection:
        rows = connection.execute("select key, step, value from metrics where run_uuid = %s", [run_id])
        for key, step, value in rows:
            if not key.startswith(journal.SYSTEM):
                found.setdefault(key, []).append((step, value))
    return {key: sorted(points) for key, points in found.items()}


def journaled(run_dir: Path) -> Points:
    return {name: sorted(points.items()) for name, points in journal.read(run_dir).metrics.items()}


def assert_all_there(database: str, made: list[Made]) -> None:
    """Every journal's points are in the database once, in one run per trial."""
    for one in made:
        book = read_book(one.runs / "studies" / one.name)
        assert book is not None
        (trial,) = ledger.read_study(one.runs, one.name).cells[0].trials.values()
        assert stored(database, book.trials[trial].run_id) == journaled(ledger.trial_dir(one.runs, trial))
        assert runs_of(database, one.name) == 2  # the study's own and the trial's


def runs_of(database: str, experiment: str) -> int:
    import psycopg

    query = "select count(*) from runs join experiments using (experiment_id) where experiments.name = %s"
    with psycopg.connect(database) as connection:
        row = connection.execute(query, [experiment]).fetchone()
    assert row is not None
    return row[0]


def test_64_processes_that_log_at_once_lose_nothing(server: TrackingServer, database: str, tmp_path: Path) -> None:
    made = studies(tmp_path, WRITERS, "writer")
    writers = start_writers(made, server.uri)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert_all_there(database, made)


def test_sync_repairs_what_an_outage_left(
    server: TrackingServer, database: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = studies(tmp_path, 12, "outage")
    writers = start_writers(made, server.uri, attempts=1)
    until(lambda: any(read_book(one.runs / "studies" / one.name) for one in made), "the first study's run")
    server.kill()
    for writer in writers:
        writer.join()
    assert any(writer.exitcode != 0 for writer in writers)
    server.start()
    desk = Desk(tmp_path)
    for one in made[1:]:
        Mirror(one.runs, one.name, server.uri).sync()
    desk.env["DELTALAB_RUNS"] = str(made[0].runs)
    done = desk.deltalab("sync", made[0].name, "--uri", server.uri)
    assert done.returncode == 0, done.stderr
    assert f"Curves: {server.uri}/#/experiments/" in done.stdout
    for one in made:
        book = read_book(one.runs / "studies" / one.name)
        (trial,) = ledger.read_study(one.runs, one.name).cells[0].trials.values()
        assert book is not None
        assert stored(database, book.trials[trial].run_id) == journaled(ledger.trial_dir(one.runs, trial))


def test_a_resumed_trial_has_no_point_twice(database: str, tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    kept = tmp_path / "elsewhere"
    sets = (*INLINE, f"tracking.uri={database}", f"tracking.artifacts={kept.as_uri()}", "tracking.flush_seconds=0.3")
    training = ("sweep.seeds=[0]", "train.steps=60", "train.checkpoint_every=7")
    command = ("-m", f"study={desk.study(TWO_CELLS)}", *sets, *training)
    launch = desk.start(*command)
    desk.until(lambda: any(ledger.record_of(desk.runs, trial).step >= 20 for trial in desk.running()))
    desk.end(launch, signal.SIGINT)
    assert State.completed not in desk.states()[-1:]
    again = desk.launch(*command)
    assert again.returncode == 0, again.stdout
    assert desk.states() == [State.completed] * 2
    book = read_book(desk.runs / "studies" / "ask")
    assert book is not None
    for trial in desk.trials():
        run_id = book.trials[trial].run_id
        assert stored(database, run_id) == journaled(ledger.trial_dir(desk.runs, trial))
        assert [path.name for path in kept.glob(f"**/{run_id}/**/config.json")] == ["config.json"]


def test_the_report_goes_to_the_servers_artifact_store(server: TrackingServer, tmp_path: Path) -> None:
    (made,) = studies(tmp_path, 1, "report")
    Mirror(made.runs, made.name, server.uri).sync()
    made.report.mkdir(parents=True)
    (made.report / "report.html").write_text("<!doctype html><title>kept</title>")
    where = log_report(made.runs, made.name, made.report)
    assert where is not None
    assert where.startswith(f"{server.uri}/#/experiments/")
    (kept,) = server.artifacts.glob("**/report.html")
    assert kept.read_text() == "<!doctype html><title>kept</title>"


def test_a_database_away_is_one_line_at_once(database: str, tmp_path: Path) -> None:
    (made,) = studies(tmp_path, 1, "away")
    desk = Desk(tmp_path)
    desk.env["DELTALAB_RUNS"] = str(made.runs)
    done = desk.deltalab("sync", made.name, "--uri", "postgresql://me:secret@127.0.0.1:9/x")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("deltalab: MLflow at postgresql://me:***@127.0.0.1:9/x: ")
    assert "refused" in line
