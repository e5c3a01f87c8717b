"""What a launch is asked for that cannot be: one line with key, value and what is allowed, and nothing started."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from deltalab.dispatch.launch import launch_jobs
from deltalab.errors import UsageError
from deltalab.spec.launcher import LauncherSpec
from deltalab.track.provenance import gpus
from tests.dispatch.launching import QUIET, Desk, jobs, settings_for
from tests.specs import TWO_CELLS

SMALL = ("train=smoke", "train.steps=1", "eval.sequences=1", QUIET)
Refused = Callable[..., str]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def refused(desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """``python launch.py`` in this process, which must end with exit code 2 and one line; returns the line."""
    monkeypatch.chdir(desk.folder)
    monkeypatch.setenv("DELTALAB_RUNS", str(desk.runs))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def refused(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["launch.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(desk.root / "launch.py"), run_name="__main__")
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (desk.runs / "trials").exists()
        assert line.startswith("deltalab: ")
        return line.removeprefix("deltalab: ")

    return refused


MISTAKES = [
    (["variant=kdaa"], "variant=kdaa: allowed is one of"),
    (["-m", "variant=kda,kdaa"], "variant=kdaa: allowed is one of"),
    (["-m", "study=nothing"], "study=nothing: no such study"),
    (["-m", "study={study}", "variant=kda"], "variant=kda: variant is set by factor variant of study ask"),
    (["-m", "study={study}", "train.lr=1e-3,1e-2"], "train.lr: several values"),
    (["-m", "study={study}", "seed=a"], "seed=a: allowed is an integer"),
    (["-m", "study={study}", "seed=0,-1"], "seed=-1: allowed is a whole number from 0"),
    (["-m", "study={study}", "sweep.design=fractional_factorial"], "command line: design=fractional_factorial: "),
    (["-m", "study={study}", "sweep.design=list"], "command line: cells=0 cells: allowed is at least one with design:"),
    (["seed=-1"], "seed=-1: allowed is a whole number from 0"),
    (["-m", "seed=-1"], "seed=-1: allowed is a whole number from 0"),
    (["variant.tie=true"], "variant.tie=true"),
    (["tracking.uri=nonsense"], "tracking.uri=nonsense: allowed is http://HOST, https://HOST, sqlite:///FILE, "),
    (["-m", "tracking.uri=nonsense"], "tracking.uri=nonsense: allowed is http://HOST, https://HOST, sqlite:///FILE, "),
    (["hydra.launcher.workers=0"], "hydra.launcher.workers=0"),
    (["~tracking"], "~tracking: allowed is key=value"),
    (["model=null"], "a group's value is missing"),
    (["variant="], "variant=: allowed is one of"),
    (["model=[a]"], "In 'config': Could not load 'model/a'"),
    (["-m", "hydra/launcher=slurm"], "hydra/launcher=slurm: sbatch is not here; allowed is local or inline"),
    (["hydra/launcher=slurm"], "hydra/launcher=slurm: allowed with -m; without it a trial runs in this process"),
    (["-m", "hydra/launcher=basic"], "hydra/launcher=basic: allowed is one of inline, local, slurm"),
    (["-m", "hydra.launcher.wrokers=2"], "hydra.launcher.wrokers: no such key; allowed is one of kind, workers"),
    (["-m", "sweep.desing=list"], "sweep.desing: no such key; allowed is one of name, question"),
    (["sweep.seeds=[1,2]"], "sweep.seeds=[1, 2]: allowed with -m or study=NAME"),  # of one trial there is no sweep
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_exit_code_2_and_nothing_started(
    desk: Desk, refused: Refused, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.setenv("PATH", str(desk.folder))  # no Slurm here
    path = desk.study(TWO_CELLS)
    assert refused(*(argument.replace("{study}", path) for argument in arguments)).startswith(said)


@pytest.mark.parametrize("arguments", [["variant=kdaa"], ["-m", "variant=kdaa", "seed=0,1"]], ids=" ".join)
def test_a_process_of_its_own_ends_the_same_way(desk: Desk, arguments: list[str]) -> None:
    done = desk.launch(*arguments, *SMALL)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("deltalab: variant=kdaa: allowed is one of")
    assert not (desk.runs / "trials").exists()


@pytest.mark.skipif(bool(gpus()), reason="a GPU is here")
@pytest.mark.parametrize("arguments", [(), ("-m", "seed=0,1")])
def test_a_gpu_that_is_not_there_is_said_before_anything_starts(refused: Refused, arguments: tuple[str, ...]) -> None:
    assert "no GPU is visible here" in refused(*arguments, "hydra.launcher.device=cuda", QUIET)


SWEEP_MISTAKES = [
    ("sweep.design=some", "command line: design=some: allowed is one of full_factorial, "),
    (
        "sweep.baseline={variant:kdaa}",
        "command line: baseline.variant=kdaa: allowed is a level of the factor: kda, del",
    ),
    ("sweep.baseline={varaint:kda}", "command line: baseline.varaint=kda: allowed is a factor of this study: variant"),
    ("sweep.design=list", "command line: cells=0 cells: allowed is at least one with design: list"),
    ("sweep.resolution=3", "command line: resolution=3: allowed is only with design: fractional_factorial"),
    ("sweep.tune={key:train.lr,grid:[1e-3]}", "command line: tune.seeds=missing"),
    ("sweep.tune={key:train.steps,grid:[1,2],seeds:[7]}", "command line: tune.key=train.steps: allowed is a key that "),
    ("sweep.tune={key:train.lr,grid:[1e-3,2e-3],seeds:[0]}", "command line: tune.seeds=[0]: allowed is seeds that are"),
    ("sweep.metrics={eval/los:min}", "command line: metrics.eval/los=min: allowed is eval/loss, "),
    ("sweep.within=[data]", "command line: within[0]=data: allowed is factors of this study: variant"),
    ("sweep.zip=[[variant,train.lr]]", "command line: zip[0]=train.lr: allowed is factors of this study: variant"),
    ("sweep.name=a/b", "command line: name=a/b: allowed is letters"),
    ("sweep.equivalence=maybe", "command line: equivalence=maybe: allowed is one of share, assert"),
    ("sweep.factors={train.lr:[1e-3,1e-2]} sweep.baseline={train.lr:1e-3}", "command line: factors"),  # beside variant
]


@pytest.mark.parametrize(("given", "said"), SWEEP_MISTAKES, ids=[given for given, _ in SWEEP_MISTAKES])
def test_a_mistake_in_a_study_on_the_command_line_is_one_line(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        launch_jobs(
            jobs(("variant=kda",), ("variant=delta_net",)), LauncherSpec(), settings_for(tmp_path, *given.split())
        )
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
