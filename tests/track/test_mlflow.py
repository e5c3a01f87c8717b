"""The MLflow mirror: everything the journals say, once; a server away costs nothing."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path

import pytest
from mlflow import MlflowClient

from deltalab.study import ledger
from deltalab.track import journal
from deltalab.track.book import read_book
from deltalab.track.connection import MirrorFailed, tracking_uri
from deltalab.track.journal import Journal, State
from deltalab.track.mirrored import mirrored
from deltalab.track.mlflow import Mirror, log_report
from deltalab.track.palette import HUES
from tests.dispatch.launching import INLINE, Desk
from tests.specs import TWO_CELLS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A small study, launched with the default tracking."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    done = desk.launch("-m", f"study={desk.study(TWO_CELLS)}", *INLINE, "tracking.flush_seconds=0.2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not brought up to date" not in done.stdout
    return desk


def children(desk: Desk) -> list:
    client = MlflowClient(tracking_uri(desk.runs))
    experiment = client.get_experiment_by_name("ask")
    return client.search_runs([experiment.experiment_id], "tags.`deltalab.kind` = 'trial'")


def history(desk: Desk, run_id: str, metric: str) -> list[tuple[int, float]]:
    points = MlflowClient(tracking_uri(desk.runs)).get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in points)


def assert_mirrors(desk: Desk) -> None:
    """Every point of every journal is in MLflow exactly once, and nothing else."""
    runs = {run.data.tags["deltalab.trial"]: run for run in children(desk)}
    assert sorted(runs) == sorted(desk.trials())
    for trial, run in runs.items():
        recorded = journal.read(ledger.trial_dir(desk.runs, trial)).metrics
        assert {name for name in run.data.metrics if not name.startswith(journal.SYSTEM)} == set(recorded)
        for metric, points in recorded.items():
            assert history(desk, run.info.run_id, metric) == sorted(points.items())


def test_the_mirror_holds_what_the_journals_say(desk: Desk) -> None:
    assert_mirrors(desk)


def test_runs_are_described(desk: Desk) -> None:
    client = MlflowClient(tracking_uri(desk.runs))
    experiment = client.get_experiment_by_name("ask")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`deltalab.kind` = 'study'")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"].startswith("**does the wide range help?**")
    for run in children(desk):
        tags, params = run.data.tags, run.data.params
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["deltalab.state"] == "completed"
        assert tags["level.variant"] == tags["variant"] == params["variant.name"] == params["level.variant"]
        assert run.info.run_name == f"{tags['variant']} s{tags['seed']}"
        assert f"/runs/{parent.info.run_id}/artifacts/report/report.html" in tags["mlflow.note.content"]
        assert params["seed"] == tags["seed"]
        assert params["train.steps"] == "20"
        assert run.info.status == "FINISHED"
        assert 0 < run.info.end_time - run.info.start_time < 60_000
        assert "config.json" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_the_study_s_run_sums_up(desk: Desk) -> None:
    client = MlflowClient(tracking_uri(desk.runs))
    experiment = client.get_experiment_by_name("ask")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`deltalab.kind` = 'study'")
    found = parent.data.metrics
    assert (found["trials/completed"], found["trials/running"]) == (4, 0)
    for cell in ledger.read_study(desk.runs, "ask").cells:
        records = [journal.read(ledger.trial_dir(desk.runs, trial)) for trial in cell.trials.values()]
        for metric in ("eval/accuracy", "eval/loss"):
            expected = sum(record.last(metric) or 0 for record in records) / len(records)
            assert found[f"{metric}/{cell.levels['variant']}"] == pytest.approx(expected, rel=1e-12)
            (last,) = client.get_metric_history(parent.info.run_id, f"{metric}/{cell.levels['variant']}")[-1:]
            assert last.step == 2


def test_seeds_of_a_cell_have_its_colour_and_cells_their_own(desk: Desk) -> None:
    color = {(run.data.tags["variant"], run.data.tags["mlflow.runColor"]) for run in children(desk)}
    assert color == {("gated_delta_net_2", HUES[0]), ("gated_delta_net_2_wide", HUES[5])}


def test_the_experiment_has_views_of_its_trials(desk: Desk) -> None:
    experiment = MlflowClient(tracking_uri(desk.runs)).get_experiment_by_name("ask")
    states = {key: view_of(value) for key, value in experiment.tags.items() if "sharedViewState" in key}
    curves, table = states["mlflow.sharedViewState.curves"], states["mlflow.sharedViewState.table"]
    lines = [chart["metricKey"] for chart in curves["compareRunCharts"] if chart["type"] == "LINE"]
    assert lines == ["train/loss"]  # the smoke trials are evaluated at their ends only: results, no curves
    bars = [chart["metricKey"] for chart in curves["compareRunCharts"] if chart["type"] == "BAR"]
    assert bars == ["eval/accuracy", "eval/loss"]
    assert (table["orderByKey"], table["orderByAsc"]) == ("metrics.`eval/accuracy`", False)
    assert states["mlflow.sharedViewState.means"]["groupBy"]["groupByKeys"][0]["groupByData"] == "cell"
    sections = {section["uuid"] for section in curves["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in curves["compareRunCharts"]} == sections


def view_of(tag: str) -> dict:
    """The state of a saved view, inflated as MLflow's page does it."""
    return json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;"))))


def test_a_launch_says_where_its_curves_are(desk: Desk) -> None:
    book = read_book(desk.runs / "studies" / "ask")
    assert book is not None
    said = desk.deltalab("sync", "ask").stdout.splitlines()[-1]
    page = f"#/experiments/{book.experiment_id}/runs?viewStateShareKey=curves&compareRunsMode=CHART"
    assert said.startswith(f"Curves: deltalab dashboard, then http://127.0.0.1:5000/{page}")


def test_a_second_sync_sends_nothing_and_a_resumed_step_is_not_doubled(desk: Desk) -> None:
    mirror = Mirror(desk.runs, "ask")
    assert mirror.sync() == 0
    trial = desk.trials()[0]
    log = Journal(ledger.trial_dir(desk.runs, trial))
    record = journal.read(ledger.trial_dir(desk.runs, trial))
    log.metrics(20, {"train/loss": record.metrics["train/loss"][20]})
    log.metrics(21, {"train/loss": 0.25})
    log.state(State.completed)
    assert mirror.sync() == 1
    assert_mirrors(desk)


def test_the_report_is_kept_with_the_parent(desk: Desk, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "table.md").write_text("| a |")
    address = log_report(desk.runs, "ask", report)
    client = MlflowClient(tracking_uri(desk.runs))
    experiment = client.get_experiment_by_name("ask")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`deltalab.kind` = 'study'")
    assert address is not None
    assert parent.info.run_id in address
    kept = client.list_artifacts(parent.info.run_id, "report")
    assert [file.path for file in kept] == ["report/table.md"]


def test_the_report_can_be_logged_while_a_launch_still_mirrors(desk: Desk, tmp_path: Path) -> None:
    report = tmp_path / "halfway"
    report.mkdir()
    (report / "table.md").write_text("| a |")
    command = [sys.executable, "-m", "deltalab.track.mlflow", str(desk.runs), "ask", "--every", "0.2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as mirror:
        time.sleep(3)
        assert log_report(desk.runs, "ask", report) is not None
        assert mirror.stdin is not None
        mirror.stdin.close()
        assert mirror.wait(30) == 0


def test_a_run_whose_description_fails_is_not_made_twice(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(children(desk))
    mirror = Mirror(desk.runs, "ask", fresh=True)
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_describe", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
        for _ in range(3):
            with pytest.raises(MirrorFailed):
                mirror.sync()
    assert len(children(desk)) == before + 1
    assert mirror.sync() == 4
    assert len(children(desk)) == before + 4


def test_a_uri_that_cannot_work_is_one_line_without_the_password(desk: Desk) -> None:
    done = desk.deltalab("sync", "ask", "--uri", "postgresql://me:secret@127.0.0.1:9/x")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "secret" not in done.stderr


def test_a_server_away_is_one_phrase(desk: Desk) -> None:
    done = desk.deltalab("sync", "ask", "--uri", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == "deltalab: MLflow at http://127.0.0.1:9: [Errno 111] Connection refused\n"


def test_a_database_that_was_removed_is_written_anew_when_told_to(desk: Desk, tmp_path: Path) -> None:
    book = desk.runs / "studies" / "ask" / "mlflow.json"
    kept, uri = book.read_text(), f"sqlite:///{tmp_path / 'other.db'}"
    try:
        first = desk.deltalab("sync", "ask", "--uri", uri)
        assert (first.returncode, first.stderr) == (0, "")  # a new database is made without chatter
        (tmp_path / "other.db").unlink()
        again = desk.deltalab("sync", "ask", "--uri", uri)
        (line,) = again.stderr.splitlines()
        assert again.returncode == 1
        assert line.endswith("not found; deltalab sync ask --fresh writes new runs")
        assert desk.deltalab("sync", "ask", "--uri", uri, "--fresh").returncode == 0
    finally:
        book.write_text(kept)


def test_a_tracking_server_gets_the_same(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    uri = f"http://127.0.0.1:{port}"
    with subprocess.Popen([*command, *store], env=env, start_new_session=True) as server:
        try:
            desk.until(lambda: answers(uri), 90)
            desk.env["MLFLOW_TRACKING_URI"] = uri
            done = desk.launch("-m", f"study={desk.study(TWO_CELLS)}", *INLINE, "train.steps=3")
            assert done.returncode == 0
            assert "not brought up to date" not in done.stdout
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name("ask")
            runs = client.search_runs([experiment.experiment_id], "tags.`deltalab.kind` = 'trial'")
            assert sorted(run.data.tags["deltalab.trial"] for run in runs) == sorted(desk.trials())
            assert all("config.json" in {f.path for f in client.list_artifacts(run.info.run_id)} for run in runs)
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def answers(uri: str) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_a_server_away_never_stops_a_trial_and_sync_catches_up(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    desk.env["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    done = desk.launch("-m", f"study={desk.study(TWO_CELLS)}", *INLINE, "train.steps=3")
    assert done.returncode == 0, done.stdout
    assert desk.states() == [State.completed] * 4
    assert "deltalab sync ask" in done.stdout
    refused = desk.deltalab("sync", "ask")
    assert refused.returncode == 1
    assert refused.stderr.startswith("deltalab: MLflow at http://127.0.0.1:9")
    assert len(refused.stderr.strip().splitlines()) == 1
    with pytest.raises(MirrorFailed):
        Mirror(desk.runs, "ask", "http://127.0.0.1:9").sync()
    del desk.env["MLFLOW_TRACKING_URI"]
    caught_up = desk.deltalab("sync", "ask")
    assert caught_up.returncode == 0, caught_up.stderr
    assert "4 trials had something new" in caught_up.stdout
    assert_mirrors(desk)


def test_an_evaluation_is_sent_with_how_it_was_made_again_too(desk: Desk) -> None:
    trial = desk.trials()[1]
    log, mirror = Journal(ledger.trial_dir(desk.runs, trial)), Mirror(desk.runs, "ask")
    mirror.sync()
    name = "table3/niah_single_2/1024/help-1a2b3c4d"
    for samples, accuracy in ((4, 0.25), (8, 0.5)):
        log.evaluation(20, {f"{name}/accuracy": accuracy}, name=name, samples=samples, dtype="float32")
        assert mirror.sync() == 1
    book = json.loads((desk.runs / "studies" / "ask" / "mlflow.json").read_text())  # --fresh may have left older runs
    run = MlflowClient(tracking_uri(desk.runs)).get_run(book["trials"][trial]["run_id"])
    assert history(desk, run.info.run_id, f"{name}/accuracy") == [(20, 0.25), (20, 0.5)]
    assert run.data.metrics[f"{name}/accuracy"] == 0.5
    assert run.info.status == "FINISHED"
    client = MlflowClient(tracking_uri(desk.runs))
    nested = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    (suite,) = client.search_runs([run.info.experiment_id], nested)
    assert (suite.info.run_name, suite.info.status, suite.data.tags["deltalab.kind"]) == (
        "table3",
        "FINISHED",
        "evaluation",
    )
    assert suite.data.metrics == {f"{name}/accuracy": 0.5}
    assert suite.data.params["dtype"] == "float32"
    assert json.loads(suite.data.tags[f"deltalab.evaluation.{name}"]) == {"samples": 8, "dtype": "float32"}


def test_a_run_whose_answer_was_lost_is_found_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Mirror._new_run
    before = len(children(desk))
    mirror = Mirror(desk.runs, "ask", fresh=True)
    with monkeypatch.context() as patch:
        patch.setattr(
            Mirror, "_new_run", lambda *asked: made(*asked) and (_ for _ in ()).throw(ConnectionError("lost"))
        )
        with pytest.raises(MirrorFailed):
            mirror.sync()
    assert mirror.sync() == 4
    assert len(children(desk)) == before + 4


def test_what_the_machine_did_is_sent_over_time_and_no_result(desk: Desk) -> None:
    trial = desk.trials()[2]
    folder = ledger.trial_dir(desk.runs, trial)
    log, before = Journal(folder), journal.read(folder).metrics
    for busy in (40.0, 60.0):
        log.machine({"system/cpu_utilization_percentage": busy})
    assert Mirror(desk.runs, "ask").sync() == 1
    book = read_book(desk.runs / "studies" / "ask")
    assert book is not None
    points = history(desk, book.trials[trial].run_id, "system/cpu_utilization_percentage")
    assert [value for _, value in points[-2:]] == [40.0, 60.0]
    assert journal.read(folder).metrics == before
    assert mirrored(desk.runs, "ask")[trial].history.points.keys() == before.keys()


def test_what_workers_measure_reaches_the_runs_of_the_trials(desk: Desk) -> None:
    one, other = desk.trials()[:2]
    asked = ("suite=small", "lengths=32", "samples=4", "--set", "hydra/launcher=inline")
    done = desk.deltalab("eval", one, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not brought up to date" not in done.stdout
    client = MlflowClient(tracking_uri(desk.runs))
    book = json.loads((desk.runs / "studies" / "ask" / "mlflow.json").read_text())["trials"]
    suite = client.get_run(book[one]["evaluations"]["small"])
    assert suite.data.tags["mlflow.parentRunId"] == book[one]["run_id"]
    assert json.loads(suite.data.tags["deltalab.evaluation.small/parity/32"])["samples"] == 4
    assert "small" not in book[other]["evaluations"]
    assert client.get_experiment_by_name("ask-eval-small") is None
    assert Mirror(desk.runs, "ask").sync() == 0
    again = desk.deltalab("sync", "ask-eval-small")
    assert (again.returncode, again.stdout.split(":")[0]) == (0, "ask-eval-small")


def test_files_that_notes_name_are_kept_and_an_early_end_is_a_tag(desk: Desk) -> None:
    trial = desk.trials()[2]
    folder, mirror = ledger.trial_dir(desk.runs, trial), Mirror(desk.runs, "ask")
    mirror.sync()
    (folder / "samples").mkdir()
    (folder / "samples" / "step-00000020.txt").write_text("step 20\n")
    log = Journal(folder)
    log.note(20, "samples", files=["samples/step-00000020.txt", "samples/gone.txt"])
    log.state(State.completed, early="train.max_hours=2")
    assert mirror.sync() == 1
    book = json.loads((desk.runs / "studies" / "ask" / "mlflow.json").read_text())
    client, run_id = MlflowClient(tracking_uri(desk.runs)), book["trials"][trial]["run_id"]
    assert [file.path for file in client.list_artifacts(run_id, "samples")] == ["samples/step-00000020.txt"]
    assert client.get_run(run_id).data.tags["deltalab.early"] == "train.max_hours=2"
    assert mirrored(desk.runs, "ask")[trial].history.record.early == "train.max_hours=2"
