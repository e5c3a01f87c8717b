"""``deltalab doctor`` as a real process: on this machine, and where something is missing, hangs or refuses."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from deltalab.dispatch.doctor import devices, findings, machine, run
from deltalab.dispatch.doctor.cluster import check_slurm
from deltalab.dispatch.doctor.findings import Check, Verdict
from deltalab.dispatch.doctor.machine import MLFLOW_SECONDS, check_folder, check_mlflow, check_python
from deltalab.dispatch.doctor.run import examine
from deltalab.track.provenance import gpus
from tests.dispatch.launching import Desk

SLURM = {
    "sbatch": "",
    "squeue": "",
    "scontrol": 'case "$1" in ping) echo "Slurmctld(primary) at head is UP";; *) cat "$0.config";; esac',
    "sacct": "",
    "sinfo": 'cat "$0.nodes"',
}
NODES = """gpu*|up|4|idle|gpu:a100:8(S:0-1)
gpu*|up|1|drained|gpu:a100:8(S:0-1)
cpu|up|2|mixed|(null)
old|down|3|idle|(null)
"""
CONFIG = "ClusterName             = ci\nMaxArraySize            = 1001\nSLURM_VERSION           = 23.11.4\n"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, with a shell's basics in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "sleep"):
        (folder / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def cluster(folder: Path, **instead: str) -> None:
    """Slurm's programs as they answer on a cluster, some of them otherwise."""
    for name, body in (SLURM | instead).items():
        program(folder / name, body)
    (folder / "scontrol.config").write_text(CONFIG)
    (folder / "sinfo.nodes").write_text(NODES)


def checks(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def done(home: Desk) -> "subprocess.CompletedProcess[str]":
    return home.deltalab("doctor", "--json", "--runs", "runs")


class TestHere:
    """One run for several questions: it loads torch."""

    def test_what_the_suite_runs_on_is_sound(self, home: Desk, done: "subprocess.CompletedProcess[str]") -> None:
        assert done.returncode == 0, done.stdout
        assert json.loads(done.stdout)["ok"] is True
        assert json.loads(done.stdout)["runs"] == str(home.runs)
        found = checks(done)
        for name in ("Python", "packages", "runs folder", "clock", "MLflow", "torch", "recurrence"):
            assert found[name]["verdict"] == "ok", found[name]
            assert found[name]["mend"] == ""
        assert found["Python"]["found"].endswith(sys.executable)
        assert "agrees with the reference" in found["recurrence"]["found"]

    @pytest.mark.skipif(bool(gpus()), reason="a GPU is here")
    def test_no_gpu_is_a_note_and_the_recurrence_says_what_is_used_instead(
        self, done: "subprocess.CompletedProcess[str]"
    ) -> None:
        found = checks(done)
        assert found["GPU"]["verdict"] == "note"
        assert "trials run on the CPU" in found["GPU"]["mend"]
        assert "the chunk form" in found["recurrence"]["found"]
        assert "runs on cpu" in found["recurrence"]["found"]

    @pytest.mark.usefixtures("done")
    def test_it_leaves_nothing_behind(self, home: Desk) -> None:
        assert list(home.folder.iterdir()) == []


class TestPackages:
    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(machine, "ROOT", tmp_path)
        return tmp_path / "pyproject.toml"

    def test_one_that_is_missing_or_out_of_range_is_named_with_what_is_allowed(self, project: Path) -> None:
        needed = ["numpy>=2.0,<3", "rich<2", "no-such-thing>=1", "not-here>=1; platform_system == 'Plan9'"]
        project.write_text(f"[project]\nrequires-python = '>=3.11'\ndependencies = {json.dumps(needed)}\n")
        python, packages = check_python()
        assert python.verdict is Verdict.ok
        assert packages.verdict is Verdict.broken
        assert packages.found == f"rich {version('rich')} (needs <2), no-such-thing missing (needs >=1)"
        assert "make install" in packages.mend

    def test_a_python_that_is_too_old_is_broken(self, project: Path) -> None:
        project.write_text("[project]\nrequires-python = '>=3.99'\ndependencies = []\n")
        python, _ = check_python()
        assert python.verdict is Verdict.broken
        assert "deltalab needs >=3.99" in python.found

    def test_without_a_checkout_what_was_installed_says_it(self, project: Path) -> None:
        assert "torch" in check_python()[1].found


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="no GPU here")
def test_a_gpu_is_named_and_a_triton_kernel_runs_on_it(desk: Desk) -> None:
    found = checks(desk.deltalab("doctor", "--json"))
    assert gpus()[0] in found["GPU"]["found"]
    assert "ran it on the GPU" in found["Triton"]["found"]
    assert "the triton form" in found["recurrence"]["found"]
    assert {found[name]["verdict"] for name in ("GPU", "torch", "Triton", "recurrence")} == {"ok"}


def test_the_table_has_a_word_and_a_sign_for_each_verdict_and_fits_100_columns(desk: Desk, programs: Path) -> None:
    desk.runs.write_text("a file")
    desk.env |= {"PATH": str(programs), "COLUMNS": "100"}
    done = desk.deltalab("doctor", "--runs", "runs", "--uri", "http://somebody:secret@127.0.0.1:9")
    assert done.returncode == 1
    assert done.stdout.startswith(f"deltalab doctor on {platform.node()}, runs folder {desk.runs}\n")
    assert "✓ ok      packages" in done.stdout
    assert "• note    git          no git in PATH" in done.stdout
    assert "→ install git" in done.stdout
    assert "✗ broken  runs folder" in done.stdout
    assert "• note    MLflow       http://somebody:***@127.0.0.1:9" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert "mend first: runs folder" in done.stdout.splitlines()[-1]


class TestTorch:
    """A probe that answers late, in part or not at all in torch's place."""

    CUDA = '{"cuda": {"torch": "2.13.0", "built": null, "devices": 0}}'

    @pytest.mark.parametrize(
        ("body", "found"),
        [
            ("exec sleep 60", {"torch": (Verdict.note, "slow: no answer in 0.5 s, so nothing is known of it")}),
            (
                f"echo '{CUDA}'; exec sleep 60",
                {
                    "torch": (Verdict.ok, "2.13.0, built without CUDA, uses no GPU"),
                    "Triton": (Verdict.note, "slow: no answer in 0.5 s, so nothing is known of it"),
                    "recurrence": (Verdict.note, "slow: no answer in 0.5 s, so nothing is known of it"),
                },
            ),
            (
                "echo 'ImportError: libcudart.so' >&2; exit 1",
                {"torch": (Verdict.broken, "cannot be loaded: ImportError: libcudart.so")},
            ),
        ],
        ids=["late", "late in part", "broken"],
    )
    def test_what_is_slow_is_not_called_broken(
        self,
        programs: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        body: str,
        found: dict[str, tuple[Verdict, str]],
    ) -> None:
        program(tmp_path / "python", body)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setattr(devices, "TORCH_SECONDS", 0.5)
        _, *checks = devices.check_gpu()
        assert {check.name: (check.verdict, check.found) for check in checks} == found


class TestFolder:
    def test_what_is_made_only_by_a_launch_is_looked_at_above(self, tmp_path: Path) -> None:
        runs, clock, disk = check_folder(tmp_path / "a" / "runs")
        assert runs.verdict is clock.verdict is Verdict.ok
        assert "not made yet" in runs.found
        assert "GiB free" in disk.found
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("runs", ["/proc/runs", "file"])
    def test_one_that_cannot_be_written_is_broken_and_the_hint_names_the_option(
        self, tmp_path: Path, runs: str
    ) -> None:
        (tmp_path / "file").touch()
        (check,) = check_folder(tmp_path / runs)
        assert check.verdict is Verdict.broken
        assert "cannot be written" in check.found
        assert "--runs" in check.mend
        assert "DELTALAB_RUNS" in check.mend

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder_is_broken(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        (check,) = check_folder(tmp_path)
        tmp_path.chmod(0o700)
        assert check.verdict is Verdict.broken

    @pytest.mark.parametrize(
        ("skew", "verdict"), [(0.5, Verdict.ok), (-10.0, Verdict.note), (40.0, Verdict.broken), (-40.0, Verdict.broken)]
    )
    def test_a_clock_that_is_off_is_judged_by_the_heartbeat(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float, verdict: Verdict
    ) -> None:
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - skew)  # this machine's clock; the file system's is right
        clock = check_folder(tmp_path)[1]
        assert clock.verdict is verdict
        if verdict is not Verdict.ok:
            assert f"{abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}" in clock.found
            assert "NTP" in clock.mend


class TestMlflow:
    @pytest.fixture
    def silent(self) -> Iterator[str]:
        """A server that takes connections and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"

    def test_a_store_that_is_not_there_is_not_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        check = check_mlflow(tmp_path / "runs", None)
        assert check.verdict is Verdict.ok
        assert "the first launch makes it" in check.found
        assert list(tmp_path.iterdir()) == []

    def test_the_environment_names_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        check = check_mlflow(tmp_path, None)
        assert check.verdict is Verdict.note
        assert check.found == "http://127.0.0.1:9: [Errno 111] Connection refused"
        assert "deltalab sync" in check.mend

    @pytest.mark.slow
    def test_a_store_that_is_there_answers_and_one_that_is_none_does_not(self, tmp_path: Path) -> None:
        uri = f"sqlite:///{tmp_path / 'store.db'}"
        make = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
        subprocess.run([sys.executable, "-c", make, uri], cwd=tmp_path, capture_output=True, check=True)
        assert check_mlflow(tmp_path, uri) == Check("MLflow", Verdict.ok, f"{uri} answers")
        (tmp_path / "store.db").write_text("no database")
        assert "file is not a database" in check_mlflow(tmp_path, uri).found

    @pytest.mark.slow
    def test_a_server_that_never_answers_is_not_waited_for(self, tmp_path: Path, silent: str) -> None:
        began = time.monotonic()
        check = check_mlflow(tmp_path, silent)
        assert time.monotonic() - began < MLFLOW_SECONDS + 2
        assert check.verdict is Verdict.note
        assert "timed out" in check.found or "no answer in" in check.found


class TestSlurm:
    """Programs that answer as Slurm's do; tests/slurm asks a real cluster."""

    def test_none_is_a_note(self, programs: Path) -> None:
        (check,) = check_slurm()
        assert check.verdict is Verdict.note
        assert "no sbatch in PATH" in check.found
        assert "the local pool does without" in check.mend

    def test_programs_that_are_missing_are_named(self, programs: Path) -> None:
        cluster(programs)
        (programs / "sacct").unlink()
        (check,) = check_slurm()
        assert check.found == "no sacct in PATH"

    def test_a_cluster_that_answers(self, programs: Path) -> None:
        cluster(programs)
        slurm, accounting, partitions = check_slurm()
        assert {slurm.verdict, accounting.verdict, partitions.verdict} == {Verdict.ok}
        assert slurm.found == "23.11.4, cluster ci, MaxArraySize 1001"
        assert partitions.found == (
            "gpu*: 4 idle + 1 drained with gpu:a100:8; cpu: 2 mixed without GPU; old (down): 3 idle without GPU"
        )

    def test_a_controller_that_is_down(self, programs: Path) -> None:
        cluster(programs, scontrol='echo "Slurmctld(primary) at head is DOWN"; echo "*****"; exit 1')
        (check,) = check_slurm()
        assert check.verdict is Verdict.note
        assert "Slurmctld(primary) at head is DOWN" in check.found
        assert "SLURM_CONF" in check.mend

    def test_accounting_that_is_off(self, programs: Path) -> None:
        cluster(programs, sacct='echo "Slurm accounting storage is disabled" >&2; exit 1')
        accounting = check_slurm()[1]
        assert accounting.verdict is Verdict.note
        assert accounting.found == "Slurm accounting storage is disabled"
        assert "60 s after its heartbeat stops" in accounting.mend

    def test_nodes_that_are_all_down(self, programs: Path) -> None:
        cluster(programs, sinfo="echo 'gpu*|up|4|down*|gpu:8'")
        partitions = check_slurm()[2]
        assert partitions.verdict is Verdict.note
        assert "sinfo --list-reasons" in partitions.mend

    def test_a_program_that_hangs_is_told(self, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster(programs, sacct="exec sleep 60")
        monkeypatch.setattr(findings, "TOOL_SECONDS", 0.5)
        accounting = check_slurm()[1]
        assert accounting.found == "no answer in 0.5 s"


class TestExamine:
    def test_a_group_that_hangs_is_given_up_and_the_others_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run, "DEADLINE_SECONDS", 0.3)
        fine = Check("git", Verdict.ok, "here")
        ended = threading.Event()
        groups = {"git": lambda: [fine], "Slurm": lambda: [fine] * ended.wait(60), "machine": lambda: ended.wait(60)}
        found = dict(examine(groups))  # type: ignore[arg-type]
        ended.set()
        assert found["git"] == [fine]
        assert found["Slurm"][0].verdict is Verdict.note
        assert found["machine"][0].verdict is Verdict.broken
        assert found["machine"][0].found == "no answer in 0.3 s"

    def test_a_check_that_fails_hides_no_other(self) -> None:
        fine = Check("git", Verdict.ok, "here")
        found = dict(examine({"machine": lambda: [1 / 0], "git": lambda: [fine]}))  # type: ignore[list-item]
        assert found["git"] == [fine]
        assert "ZeroDivisionError" in found["machine"][0].found
