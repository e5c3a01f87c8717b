"""The repository around the package: what loads torch, configuration, studies, Makefile, image, hooks."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path, PurePosixPath

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from deltalab.dispatch.launch import plan_study
from deltalab.spec import load
from deltalab.spec.launcher import Kind, LauncherSpec
from deltalab.spec.study_file import read_study

ROOT = load.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))


def choices(folder: str) -> list[str]:
    return sorted(path.stem for path in (load.CONF / folder).glob("*.yaml"))


def imported(report: str) -> set[str]:
    """The modules that ``-X importtime`` reports."""
    return set(re.findall(r"^import time:.*\| +(\S+)$", report, re.MULTILINE))


class TestLightImports:
    """A plan, a status and a table load neither torch nor mlflow."""

    def test_modules_for_plan_status_and_table(self) -> None:
        modules = ["deltalab.cli", "deltalab.study.plan", "deltalab.spec.load", "analysis.compare"]
        code = f"import json, sys, {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = json.loads(done.stdout)
        assert set(modules) <= set(loaded)
        assert {"torch", "triton", "mlflow"}.isdisjoint(loaded)

    def test_launch_help(self) -> None:
        command = [sys.executable, "-X", "importtime", "launch.py", "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = imported(done.stderr)
        assert "python launch.py -m study=" in done.stdout
        assert "deltalab.spec.load" in loaded
        assert {"torch", "triton", "mlflow"}.isdisjoint(loaded)

    def test_status_where_nothing_was_launched(self, tmp_path: Path) -> None:
        """The whole way of the console script."""
        command = [sys.executable, "-X", "importtime", "-m", "deltalab", "status"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DELTALAB_")}
        done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        loaded = imported(done.stderr)
        assert {"deltalab.cli", "deltalab.study.ledger"} <= loaded
        assert {"torch", "mlflow", "pandas", "matplotlib"}.isdisjoint(loaded)
        assert list(tmp_path.iterdir()) == []


class TestConfiguration:
    """conf/GROUP/ ↔ deltalab/spec/GROUP.py ↔ one field of the configuration's root."""

    def test_a_folder_per_group(self) -> None:
        folders = {path.name for path in load.CONF.iterdir() if path.is_dir()}
        assert folders == {*load.GROUPS, "hydra"}
        assert [path.name for path in (load.CONF / "hydra").iterdir()] == ["launcher"]

    def test_a_field_and_a_spec_module_per_group(self) -> None:
        fields = {f.name: f.type for f in dataclasses.fields(load.LaunchConfig) if dataclasses.is_dataclass(f.type)}
        assert tuple(fields) == (*load.GROUPS, "sweep")  # sweep takes the keys of a study file
        for group, spec in fields.items():
            if group == "sweep":
                continue
            module = importlib.import_module(f"deltalab.spec.{group}")
            assert getattr(module, f"{group.capitalize()}Spec") is spec
        assert LauncherSpec.__module__ == "deltalab.spec.launcher"

    @pytest.mark.parametrize(("group", "name"), [(group, name) for group in load.GROUPS for name in choices(group)])
    def test_every_choice_composes(self, group: str, name: str) -> None:
        config = load.compose([f"{group}={name}"])
        assert load.trial_spec(config).trial_id
        assert load.launch_spec(config)
        if group == "variant":
            assert config.variant.name == name

    @pytest.mark.parametrize("name", choices("hydra/launcher"))
    def test_every_launcher_composes(self, name: str) -> None:
        kind = load.launcher([f"hydra/launcher={name}"]).kind.value
        assert kind == name or name not in {known.value for known in Kind}  # a profile of one's own has another name

    @pytest.mark.parametrize("name", SWEEPS)
    def test_every_study_is_read_and_planned(self, name: str, tmp_path: Path) -> None:
        study = read_study(ROOT / "sweeps" / f"{name}.yaml")
        plan = plan_study(study, {}, tmp_path)
        assert study.question
        assert plan.warnings == []
        assert all(abs(cell.mismatch) <= 0.005 for cell in plan.cells if cell.excluded is None)
        tuned = len(study.tune.grid) * len(study.tune.seeds) if study.tune else len(study.seeds)
        assert len(plan.specs) == tuned * sum(cell.excluded is None for cell in plan.cells)
        assert list(tmp_path.iterdir()) == []


class TestMakefile:
    """Targets in a copy of the checkout whose .venv is a stand-in that records what it is asked to run."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, tmp_path)
        program(tmp_path / ".venv/bin/python", 'echo "$@" >> calls; test "$1" != "$FAILS"')
        (tmp_path / ".venv/.installed").touch()
        return tmp_path

    def test_every_target_is_in_the_help(self, checkout: Path) -> None:
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert targets
        listed = re.findall(r"^  (\S+) +\S+", make(checkout).stdout, re.MULTILINE)
        assert listed == targets[1].split()

    def test_installs_once_until_its_inputs_change(self, checkout: Path) -> None:
        make(checkout, "install")
        assert calls(checkout) == []
        os.utime(checkout / ".venv/.installed", (0, 0))
        make(checkout, "install")
        installs = [call for call in calls(checkout) if " install " in call]
        assert installs == ["-m pip install --disable-pip-version-check -c constraints.txt -e .[dev]"]
        make(checkout, "install")
        assert len([call for call in calls(checkout) if " install " in call]) == 1

    def test_an_old_python_is_refused_in_one_line(self, checkout: Path) -> None:
        program(checkout / "python3", 'test "$1" != --version || echo Python 3.9.2; test "$1" = --version')
        (checkout / ".venv/.installed").unlink()
        done = make(checkout, "install", "PYTHON=./python3", code=2)
        said = done.stderr.splitlines()
        assert (
            said[0]
            == "make: deltalab needs Python 3.11 or newer, ./python3 is Python 3.9.2; try make PYTHON=python3.12"
        )
        assert len(said) == 2
        assert not (checkout / "calls").exists()

    def test_a_missing_python_is_refused_in_one_line(self, checkout: Path) -> None:
        (checkout / ".venv/.installed").unlink()
        said = make(checkout, "install", "PYTHON=python3.99", code=2).stderr.splitlines()
        assert said[0] == "make: no python3.99 here; name a Python: make PYTHON=/path/to/python3"
        assert len(said) == 2

    def test_a_failed_launch_fails_quickstart(self, checkout: Path) -> None:
        assert "make dashboard" in make(checkout, "quickstart").stdout
        assert calls(checkout) == ["launch.py -m study=quickstart", "-m analysis.compare quickstart"]
        (checkout / "calls").unlink()
        make(checkout, "quickstart", code=2, FAILS="launch.py")
        assert calls(checkout) == ["launch.py -m study=quickstart"]

    def test_the_suite_gets_the_arguments(self, checkout: Path) -> None:
        make(checkout, "test", "ARGS=-k plan")
        readme = (ROOT / "README.md").read_text()
        (without_make,) = re.findall(r"^\.venv/bin/python (-m pytest .*)$", readme, re.MULTILINE)
        assert calls(checkout) == [" ".join([*shlex.split(without_make), "-k plan"])]
        (checkout / "calls").unlink()
        make(checkout, "test-slurm", "ARGS=-k plan")
        assert calls(checkout) == ["-m pytest -rs -m slurm tests/slurm -k plan"]

    def test_the_dashboard_has_the_runs_folder_and_the_port(self, checkout: Path) -> None:
        program(checkout / ".venv/bin/deltalab", 'echo "$@" >> calls')
        make(checkout, "dashboard")
        make(checkout, "dashboard", "PORT=5001", "ARGS=gates", DELTALAB_RUNS="elsewhere")
        assert calls(checkout) == ["dashboard --runs runs --port 5000", "dashboard --runs elsewhere --port 5001 gates"]

    def test_clean_keeps_runs_and_environment(self, checkout: Path) -> None:
        kept = [checkout / name for name in ("runs/__pycache__", "runs/build", ".venv/lib/__pycache__")]
        gone = [
            checkout / name for name in ("src/deltalab/__pycache__", ".pytest_cache", "src/deltalab.egg-info", "build")
        ]
        for folder in kept + gone:
            folder.mkdir(parents=True)
        make(checkout, "clean")
        assert all(folder.exists() for folder in kept)
        assert not any(folder.exists() for folder in gone)


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def make(folder: Path, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "MLFLOW_", "DELTALAB_"))}
    clean = {k: v for k, v in clean.items() if k not in ("ARGS", "PORT", "PYTHON", "WORKERS")} | environment
    done = subprocess.run(["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def ci_run(folder: Path, make: str = "", user: str = "0") -> subprocess.CompletedProcess[str]:
    """``.ci/run`` in a folder where every program it starts is a stub; TeX is there, so it is not asked for."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    program(folder / "bin/make", f'echo "$@" >> calls\n{make}')
    program(folder / "bin/apt-get", "exit 1")
    program(folder / "bin/pdflatex", "exit 1")
    program(folder / "bin/id", f"echo {user}")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return subprocess.run([folder / ".ci/run"], env=os.environ | {"PATH": path}, capture_output=True, text=True)


class TestContinuousIntegration:
    ALONE = ("install", "check", "docs", "test", "test-faults", "test-ranks")
    BESIDE = ("test-tritons", "test-servers", "test-browser")

    def test_the_script_runs_the_targets(self) -> None:
        script = ROOT / ".ci/run"
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", script], check=True)
        text = script.read_text()
        assert "set -euo pipefail" in text
        steps = re.findall(r"^ *(?:step|beside) make (\S+)", text, re.MULTILINE)
        assert steps == [*self.ALONE, "test-slurm", *self.BESIDE, "test-latex"]

    @pytest.mark.parametrize(("user", "runs"), [("0", True), ("1000", False)])
    def test_cluster_and_tex_are_tested_where_they_can_be_installed(
        self, tmp_path: Path, user: str, runs: bool
    ) -> None:
        done = ci_run(tmp_path, user=user)
        assert done.returncode == 0, done.stderr
        made = calls(tmp_path)
        assert made[: len(self.ALONE)] == list(self.ALONE)
        beside = [*self.BESIDE, "test-latex", "test-slurm"] if runs else self.BESIDE
        assert sorted(made[len(self.ALONE) :]) == sorted(beside)  # in which order a step beside others comes, is open
        assert ("make test-latex: left out, TeX is installed as root" in done.stdout) is not runs
        assert ("make test-slurm: left out, it installs Slurm" in done.stdout) is not runs
        assert ("=== make test-slurm: done in" in done.stdout) is runs

    @pytest.mark.parametrize("failing", ["test", "test-slurm", "test-browser", "test-latex"])
    def test_any_step_that_fails_fails_it(self, tmp_path: Path, failing: str) -> None:
        done = ci_run(tmp_path, f'case "$1" in {failing}) exit 3;; test-slurm) sleep 0.5; echo late >> calls;; esac')
        time.sleep(1)
        assert done.returncode == 3
        assert "Every step passed" not in done.stdout
        assert f"make {failing}: done" not in done.stdout
        assert "late" not in calls(tmp_path)  # the cluster's tests end with the rest

    def test_pre_commit_runs_what_the_environment_has(self) -> None:
        (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            if hook["language"] == "pygrep":
                re.compile(hook["entry"])
            else:
                program, *_ = hook["entry"].split()
                assert program.startswith(".venv/bin/")
                assert (Path(sys.executable).parent / PurePosixPath(program).name).exists()


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) in order; comments dropped, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, " ".join(rest.split())) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


class TestImage:
    """The Dockerfile by the rules of hadolint that matter; no Docker is needed."""

    def arguments(self, instruction: str) -> list[str]:
        return [rest for name, rest in dockerfile() if name == instruction]

    def test_only_known_instructions(self) -> None:
        known = {
            "ARG",
            "CMD",
            "COPY",
            "ENTRYPOINT",
            "ENV",
            "FROM",
            "LABEL",
            "RUN",
            "SHELL",
            "USER",
            "VOLUME",
            "WORKDIR",
        }
        assert {name for name, _ in dockerfile()} <= known  # so no ADD either

    def test_the_base_is_pinned(self) -> None:
        (base,) = self.arguments("FROM")
        assert re.fullmatch(r"nvidia/cuda:13\.0\.\d+-runtime-ubuntu24\.04(@sha256:[0-9a-f]{64})?", base)
        assert any(f'image.base.name="docker.io/{base.split("@")[0]}"' in label for label in self.arguments("LABEL"))

    def test_system_packages_leave_no_lists(self) -> None:
        for run in self.arguments("RUN"):
            assert "sudo" not in run
            assert ("apt-get update" in run) == ("apt-get install" in run)
            if "apt-get install" in run:
                assert "apt-get install -y --no-install-recommends" in run
                assert run.endswith("rm -rf /var/lib/apt/lists/*")

    def test_pip_obeys_the_constraints_and_keeps_no_cache(self) -> None:
        installs = re.findall(r"pip install [^&]*", " && ".join(self.arguments("RUN")))
        assert len(installs) == 2
        for install in installs:
            assert "--no-cache-dir" in install
            assert "-c constraints.txt" in install or "--no-deps" in install

    def test_sources_exist_and_are_let_through(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        allowed = {line[1:] for line in ignored if line.startswith("!")}
        assert "*" in ignored
        copied = [source for copy in self.arguments("COPY") for source in copy.split()[:-1]]
        assert set(copied) == allowed
        assert all((ROOT / source).exists() for source in copied)
        assert {"launch.py", "conf", "sweeps", "analysis", "src"} <= set(copied)
        assert copied[:2] == ["pyproject.toml", "constraints.txt"]

    def test_it_runs_as_a_user_in_exec_form(self) -> None:
        assert self.arguments("USER") == ["deltalab"]
        names = [name for name, _ in dockerfile()]
        assert {"RUN", "COPY"}.isdisjoint(names[names.index("USER") :])
        assert all(PurePosixPath(folder).is_absolute() for folder in self.arguments("WORKDIR"))
        assert json.loads(self.arguments("CMD")[-1]) == ["python", "launch.py", "--help"]
        assert json.loads(self.arguments("ENTRYPOINT")[-1]) == []

    def test_labels(self) -> None:
        labels = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", " ".join(self.arguments("LABEL"))))
        assert {"title", "description", "licenses", "revision", "base.name"} <= labels

    def test_pins_lie_in_the_projects_ranges(self) -> None:
        ranges = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"])}
        pins = {r.name: r.specifier for r in map(Requirement, (ROOT / "constraints.txt").read_text().split())}
        assert set(pins) == {"torch", "triton", "hydra-core", "submitit", "mlflow", "datasets"}
        for name, pin in pins.items():
            (exact,) = pin
            assert exact.operator == "=="
            assert exact.version in ranges[name]
        pythons = set(re.findall(r"python(3\.\d+)", " ".join(self.arguments("RUN"))))
        assert pythons == {"3.12"}
        assert all(python in SpecifierSet(PROJECT["requires-python"]) for python in pythons)


def test_the_licence_is_the_declared_one() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
