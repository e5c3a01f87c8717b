"""Plans as commands show them, measure them, ask about them and carry them out."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from deltalab.dispatch import slurm
from deltalab.dispatch.launch import Request, launch_jobs, plan_and_launch, plan_study, refuse_impossible
from deltalab.dispatch.show import MIN_PREFIX, plan_json, prefixes, show_plan
from deltalab.errors import UsageError
from deltalab.model.memory import training_memory
from deltalab.spec import load
from deltalab.spec.launcher import Device, Kind, LauncherSpec, SlurmSpec
from deltalab.spec.study_file import read_study
from deltalab.study import estimates, ledger
from deltalab.study.plan import Plan
from deltalab.track import journal
from deltalab.track.journal import Journal, State
from tests.dispatch.launching import INLINE, LOCAL, QUIET, Desk, jobs, settings_for
from tests.dispatch.slurm_programs import SlurmPrograms
from tests.specs import TWO_CELLS, study_file
from tests.study.planning import planned

HERE = (*INLINE, QUIET)


def shown(plan: Plan, launcher: LauncherSpec | None = None) -> str:
    """The plan on a wide terminal, its lines' insides one space apart."""
    console = Console(file=io.StringIO(), width=250)
    show_plan(console, plan, launcher or LauncherSpec())
    return "\n".join(" ".join(line.split()) for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def measure(runs: Path, plan: Plan, trials: list[str], hours: float) -> None:
    """Let trials have been measured to take about so many hours for 20 steps."""
    for trial in trials:
        times = [("state", 0.0), (1, 0.0), (11, hours * 1800), (20, hours * 3600), ("state", hours * 3600)]
        folder = runs / "measured" / trial
        folder.mkdir(parents=True, exist_ok=True)
        lines: list[dict[str, Any]] = []
        for what, t in times:
            if what == "state":
                state = "completed" if lines else "running"
                lines.append({"t": t, "event": "state", "state": state, "device": "cpu", "memory": 3 * 2**30})
            else:
                lines.append({"t": t, "event": "metrics", "step": what, "values": {"train/loss": 0.5}})
        (folder / journal.FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
        estimates.learn(runs, plan.specs[trial], folder)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.text("01a", min_size=12, max_size=12), max_size=40))
def test_a_shown_id_names_one_trial(trials: set[str]) -> None:
    short = prefixes(trials)
    assert short.keys() == trials
    for trial, prefix in short.items():
        assert [other for other in trials if other.startswith(prefix)] == [trial]
        assert len(prefix) == MIN_PREFIX or sum(other.startswith(prefix[:-1]) for other in trials) > 1


STUDY = """
question: what does a plan show?
baseline: {narrowing: project, range: "1"}
factors:
  narrowing: {project: {variant.narrowing: project}, pool: {variant.narrowing: pool}}
  range: {"1": {variant.erase_range: 1}, "2": {variant.erase_range: 2}}
seeds: [0, 1]
overrides: {variant: gated_delta_net_2, train: smoke, eval.sequences: 8}
exclude: [{when: {narrowing: pool, range: "2"}, reason: known from before}]
metrics: {eval/loss: min}
"""


def test_the_plan_says_what_runs_what_is_shared_and_what_is_left_out(tmp_path: Path) -> None:
    plan = planned(tmp_path, STUDY)
    Journal(ledger.trial_dir(tmp_path, plan.cells[0].trials[0])).state(State.preempted)
    text = shown(planned(tmp_path, STUDY))
    assert "ask: what does a plan show?" in text
    assert "1 would resume, 1 would run" in text
    assert "equivalent to narrowing=project range=1" in text
    assert "excluded: known from before" in text
    assert "4 trials over seeds 0, 1: 1 would resume, 3 would run" in text
    assert "parameters are equal in every cell" in text
    for trial in plan.specs:
        assert trial[:MIN_PREFIX] in text
    held = shown(planned(tmp_path, STUDY + "equivalence: assert\n"))
    assert "2 would run; must equal narrowing=project range=1" in held
    assert "6 trials over seeds 0, 1" in held


def test_the_plan_says_what_waits_for_tuning_and_what_it_chose(tmp_path: Path) -> None:
    text = TWO_CELLS + "tune: {key: train.lr, grid: [1e-3, 3e-3], seeds: [7], metric: eval/loss}\n"
    plan = planned(tmp_path, text)
    before = shown(plan)
    assert "waits for tuning: 2 would run" in before
    assert "train.lr is chosen per cell by eval/loss on seeds 7; 2 cells wait for it" in before
    for trial, spec in plan.specs.items():
        log = Journal(ledger.trial_dir(tmp_path, trial))
        log.metrics(20, {"eval/loss": spec.train.lr})
        log.state(State.completed)
    after = shown(planned(tmp_path, text))
    assert "train.lr=1e-3; 2 would run" in after
    assert "wait" not in after
    assert "8 trials over seeds 0, 1: 4 completed, 4 would run" in after


def test_the_plan_says_what_a_fraction_gives_up(tmp_path: Path) -> None:
    factors = "a: {x: {train.lr: 1e-3}, y: {train.lr: 2e-3}}, b: {x: {train.clip: 1}, y: {train.clip: 2}}"
    text = f"""
baseline: {{a: x, b: x, c: x}}
factors: {{{factors}, c: {{x: {{train.beta1: 0.9}}, y: {{train.beta1: 0.8}}}}}}
design: fractional_factorial
resolution: 3
overrides: {{train: smoke}}
"""
    plan = planned(tmp_path, text)
    lines = ["c = a × b (resolution III, 4 of 8 cells)", "not told apart: a, b × c"]
    assert all(line in shown(plan) for line in lines)
    plain = plan_json(plan, LauncherSpec())
    assert plain["generators"][:2] == lines
    assert (plain["design"], len(plain["cells"])) == ("fractional_factorial", 4)


def test_the_plan_as_json_is_whole(tmp_path: Path) -> None:
    plan = planned(tmp_path, STUDY)
    trials = list(plan.specs)
    Journal(ledger.trial_dir(tmp_path, trials[0])).state(State.completed)
    measure(tmp_path, plan, trials[:2], hours=1)
    plan = planned(tmp_path, STUDY)
    plain = json.loads(json.dumps(plan_json(plan, LauncherSpec(device=Device.cpu)), allow_nan=False))
    assert (plain["study"], plain["question"], plain["seeds"]) == ("ask", "what does a plan show?", [0, 1])
    baseline, wide, twin, out = (
        next(cell for cell in plain["cells"] if cell["levels"] == {"narrowing": n, "range": r})
        for n, r in (("project", "1"), ("project", "2"), ("pool", "1"), ("pool", "2"))
    )
    assert plain["cells"][0] == baseline
    assert (out["excluded"], out["trials"], out["equivalent"]) == ("known from before", {}, None)
    assert twin["equivalent"] == "narrowing=project range=1"
    assert twin["trials"] == baseline["trials"]
    assert list(wide["trials"]) == ["0", "1"]
    assert baseline["trials"]["0"].keys() == {"id", "state", "seconds", "memory_bytes", "memory_counted_bytes"}
    assert (baseline["trials"]["0"]["id"], baseline["trials"]["0"]["state"]) == (trials[0], "completed")
    assert baseline["trials"]["1"]["seconds"] == pytest.approx(3600 * 20 / 19, rel=0.1)
    assert baseline["trials"]["1"]["memory_bytes"] == 3 * 2**30
    assert baseline["trials"]["1"]["memory_counted_bytes"] == training_memory(plan.specs[trials[1]], gpu=False).peak
    assert baseline["parameters"] == wide["parameters"] > 1000
    assert baseline["flops_per_token"] > baseline["state_size"] > 0
    assert baseline["mismatch"] == pytest.approx(baseline["parameters"] / baseline["budget"] - 1)
    assert (baseline["layers"], baseline["layer_state"], baseline["state_mismatch"]) == ({"gated_delta": 2}, 512, 0)
    assert (baseline["cache_size"], baseline["waits_for_tuning"]) == (0, False)
    totals = plain["totals"]
    assert (totals["trials"], totals["states"]) == (4, {"completed": 1, "planned": 3})
    assert totals["worker_seconds"] == sum(
        cell["trials"][seed]["seconds"] for cell, seed in ((baseline, "1"), (wide, "0"), (wide, "1"))
    )
    assert (totals["gpu_hours"], totals["money"]) == (None, None)
    assert totals["largest_mismatch"] == abs(baseline["mismatch"])


def test_totals_count_gpus_and_money_as_far_as_times_are_known(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO_CELLS)
    slurm = SlurmSpec(gpus_per_trial=4, gpu_hour_price=2.5)
    totals = plan_json(plan, slurm)["totals"]
    assert (totals["worker_seconds"], totals["gpu_hours"], totals["money"]) == (None, None, None)
    assert "never measured; plan=calibrate" in shown(plan, slurm)
    measure(tmp_path, plan, list(plan.specs), hours=1)
    plan = planned(tmp_path, TWO_CELLS)
    totals = plan_json(plan, slurm)["totals"]
    hours = totals["worker_seconds"] / 3600 * 4
    assert totals["gpu_hours"] == pytest.approx(hours)
    assert hours == pytest.approx(4 * 4 * 20 / 19, rel=0.1)
    assert totals["money"] == pytest.approx(hours * 2.5)
    assert f"{hours:,.2f} GPU-hours, {hours * 2.5:,.2f} at 2.5 a GPU-hour" in shown(plan, slurm)
    assert "3.0 GiB" in shown(plan)
    without = SlurmSpec(gpus_per_trial=0, gpu_hour_price=2.5)
    totals = plan_json(plan, without)["totals"]
    assert (totals["gpu_hours"], totals["money"]) == (None, None)
    assert "a GPU-hour" not in shown(plan, without)


def test_what_is_known_to_be_too_much_is_asked_about_though_more_is_unknown(tmp_path: Path) -> None:
    study = read_study(study_file(tmp_path, TWO_CELLS))
    plan = plan_study(study, {}, tmp_path)
    measure(tmp_path, plan, [plan.cells[0].trials[0]], hours=1000)
    asked = load.launch_spec(load.compose([f"runs={tmp_path}", QUIET]))
    with pytest.raises(UsageError, match=r"confirm_gpu_hours=24: .* --yes launches it"):
        plan_and_launch(
            Request(study=study, overrides={"train.steps": "1"}), LauncherSpec(kind=Kind.inline, threads=1), asked
        )
    assert not (tmp_path / "trials").exists()


KDA, DELTA = ("variant=kda",), ("variant=delta_net",)


def test_a_study_given_on_the_command_line_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [
        "sweep.design=one_at_a_time", "sweep.baseline={variant:delta_net,train.clip:1}", "sweep.match=parameters",
        "sweep.tune={key:train.lr,grid:[1e-3,3e-3],seeds:[7]}", "sweep.name=mine", "sweep.metrics={eval/loss:min}",
    ]  # fmt: skip
    grid = [(variant, f"train.clip={clip}", f"seed={s}") for variant in (*KDA, *DELTA) for clip in "12" for s in "01"]
    launch_jobs(jobs(*grid), LauncherSpec(), settings_for(tmp_path, *sweep))
    plain = json.loads(capsys.readouterr().out)
    assert (plain["study"], plain["design"], plain["seeds"]) == ("mine", "one_at_a_time", [0, 1])
    designed = (("delta_net", "1"), ("kda", "1"), ("delta_net", "2"))
    assert [cell["levels"] for cell in plain["cells"]] == [{"variant": v, "train.clip": clip} for v, clip in designed]
    assert plain["totals"]["trials"] == 6
    assert all(list(cell["tuning"]) == ["train.lr=0.001", "train.lr=0.003"] for cell in plain["cells"])
    assert plain["totals"]["largest_mismatch"] < 0.005
    assert not (tmp_path / "studies").exists()


def test_what_the_command_line_overrides_beside_a_study_given_there_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("sweep.overrides={train.lr:5e-3}", "sweep.equivalence=assert")
    launch_jobs(jobs(KDA, DELTA), LauncherSpec(), settings_for(tmp_path, *sweep))
    given = {cell["name"]: cell["trials"]["0"]["id"] for cell in json.loads(capsys.readouterr().out)["cells"]}
    launch_jobs(jobs((*KDA, "train.lr=5e-3"), (*DELTA, "train.lr=5e-3")), LauncherSpec(), settings_for(tmp_path))
    assert given == {c["name"]: c["trials"]["0"]["id"] for c in json.loads(capsys.readouterr().out)["cells"]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk with a study whose shapes ``plan=calibrate`` has measured."""
    desk = Desk(tmp_path_factory.mktemp("measured"))
    done = desk.launch("-m", f"study={desk.study(TWO_CELLS)}", *HERE, "plan=calibrate")
    (desk.folder / "said.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return desk


@pytest.mark.slow
def test_a_calibration_measures_every_shape_and_the_plan_shows_it(measured: Desk) -> None:
    said = (measured.folder / "said.txt").read_text()
    assert "ask-calibration: 2 completed" in said
    assert "4 trials over seeds 0, 1: 4 would run" in said
    assert "never measured" not in said
    assert "to go" in said
    assert len(list((measured.runs / estimates.FOLDER).iterdir())) == 2
    assert not ledger.study_dir(measured.runs, "ask").exists()
    specs = [ledger.load_spec(folder) for folder in (measured.runs / "trials").iterdir()]
    assert [spec.train.steps for spec in specs] == [20, 20]
    record = ledger.read_study(measured.runs, "ask-calibration")
    assert [cell.name for cell in record.cells] == ["variant=gated_delta_net_2", "variant=gated_delta_net_2_wide"]


@pytest.mark.slow
def test_both_commands_say_the_same_json(measured: Desk) -> None:
    path = str(measured.folder / "ask.yaml")
    one = measured.deltalab("plan", path, "train.steps=7", "--json")
    assert one.returncode == 0, one.stderr
    plain = json.loads(one.stdout)
    assert plain["totals"]["worker_seconds"] > 0
    trials = [trial for cell in plain["cells"] for trial in cell["trials"].values()]
    assert all(trial["seconds"] > 0 and trial["memory_bytes"] > 2**20 for trial in trials)
    again = measured.launch("-m", f"study={path}", "train.steps=7", "plan=calibrate", "--json", QUIET)
    assert "nothing to calibrate" in again.stderr
    assert json.loads(again.stdout) == plain


@pytest.mark.slow
def test_the_plan_command_takes_what_a_launch_takes(measured: Desk) -> None:
    path = str(measured.folder / "ask.yaml")
    priced = ("hydra/launcher=slurm", "hydra.launcher.gpu_hour_price=3")
    done = measured.deltalab("plan", path, "seed=5", "sweep.equivalence=assert", "sweep.match=none", *priced)
    assert done.returncode == 0, done.stderr
    assert "2 trials over seeds 5" in done.stdout
    assert "at 3 a GPU-hour" in done.stdout
    mistaken = measured.deltalab("plan", path, "sweep.match=maybe")
    assert mistaken.returncode == 2
    assert "command line: match=maybe" in mistaken.stderr


@pytest.mark.slow
def test_a_study_that_costs_too_much_is_launched_when_told_to(measured: Desk) -> None:
    path = str(measured.folder / "ask.yaml")
    arguments = ("-m", f"study={path}", *HERE, "seed=0", "train.steps=2", "hydra.launcher.confirm_gpu_hours=0")
    refused = measured.launch(*arguments)
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert line.startswith("deltalab: hydra.launcher.confirm_gpu_hours=0: ask takes about 0.0 ")
    assert "--yes launches it" in line
    assert not ledger.study_dir(measured.runs, "ask").exists()
    done = measured.launch(*arguments, "--yes")
    assert done.returncode == 0, done.stderr
    assert measured.states() == [State.completed] * 2
    assert measured.launch(*arguments).returncode == 0  # what is done costs nothing


@pytest.mark.slow
def test_at_a_terminal_the_question_is_asked(measured: Desk) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    arguments = (f"study={measured.folder / 'ask.yaml'}", *HERE, "seed=8", "hydra.launcher.confirm_gpu_hours=0")
    done = subprocess.run(
        [sys.executable, str(measured.root / "launch.py"), "-m", *arguments],
        cwd=measured.folder, env=measured.env, stdin=theirs, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert "-hours; launch it?" in done.stdout
    assert done.returncode == 2
    assert not any(spec.seed == 8 for spec in map(ledger.load_spec, (measured.runs / "trials").iterdir()))


@pytest.mark.slow
def test_a_tuned_study_runs_both_stages_in_one_command(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    text = TWO_CELLS.replace("[gated_delta_net_2, gated_delta_net_2_wide]", "[gated_delta_net_2]")
    path = desk.study(text.replace("[0, 1]", "[0]") + "tune: {key: train.lr, grid: [1e-3, 1e-1], seeds: [7]}\n")
    done = desk.launch("-m", f"study={path}", *LOCAL, QUIET, "train.steps=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert desk.states() == [State.completed]
    assert "ask: 3 completed in" in done.stdout
    (cell,) = ledger.read_study(desk.runs, "ask").cells
    scores = {
        value: journal.read(ledger.trial_dir(desk.runs, trials[7])).last("eval/accuracy") or 0.0
        for value, trials in cell.tuning.items()
    }
    assert len(set(scores.values())) == 2
    assert f"train.lr={cell.tuned}" == max(scores, key=scores.__getitem__)
    assert ledger.load_spec(ledger.trial_dir(desk.runs, cell.trials[0])).train.lr == float(cell.tuned or "nan")


@pytest.mark.slow
def test_cells_held_equal_that_differ_end_in_an_error(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    path = desk.study(STUDY.replace("seeds: [0, 1]", "seeds: [0]") + "equivalence: assert\n")
    arguments = ("-m", f"study={path}", *HERE, "train.steps=2")
    done = desk.launch(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differs" not in done.stdout
    twin = next(cell for cell in ledger.read_study(desk.runs, "ask").cells if cell.equivalent)
    Journal(ledger.trial_dir(desk.runs, twin.trials[0])).metrics(2, {"eval/loss": 0.5})
    again = desk.launch(*arguments)
    assert again.returncode == 1
    assert "nothing to run" in again.stdout
    (said,) = (line for line in again.stdout.splitlines() if "differs" in line)
    assert said.startswith(f"{twin.name} seed=0: eval/loss 0.5 differs from 0.")
    assert f"of {twin.equivalent}, which computes the same: an error in the code" in said


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_said_before_anything_is_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = SlurmPrograms(tmp_path / "bin", monkeypatch)
    for name in ("sbatch", "srun"):
        slurm.says(name)
    slurm.says("scontrol", code=1, error="scontrol: fatal: Unable to process configuration file\n")
    desk = Desk(tmp_path)
    arguments = ("-m", "variant=kda", "train=smoke", "train.steps=1", "eval.sequences=1", QUIET)
    done = desk.launch(*arguments, "hydra/launcher=slurm")
    assert done.returncode == 1
    assert done.stderr == (
        "deltalab: hydra/launcher=slurm: scontrol: Unable to process configuration file; nothing was submitted or put "
        "on record (deltalab doctor says more)\n"
    )
    assert len(slurm.calls("scontrol")) == 1
    assert slurm.calls("sbatch") == []
    assert not (desk.runs / "studies").exists()
    assert desk.launch(*arguments, *INLINE).returncode == 0
    submitted = desk.launch(*arguments, "hydra/launcher=slurm")  # nothing to submit, so nothing is asked
    assert submitted.returncode == 0, submitted.stderr
    assert len(slurm.calls("scontrol")) == 1


def test_a_gpu_that_is_too_small_is_warned_of_in_a_plan_and_refused_in_a_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "refuse_without_slurm", lambda submits: None)
    plan = planned(tmp_path, TWO_CELLS)
    small, large = SlurmSpec(gpus_per_trial=2, gpu_memory_gb=0.01), SlurmSpec(gpus_per_trial=2, gpu_memory_gb=80)
    line = (
        r"hydra.launcher.gpu_memory_gb=0.01: .*seed=0 takes about 0\.\d GB a GPU; train.micro_batch_size, .* lessen it"
    )
    with pytest.raises(UsageError, match=line):
        refuse_impossible(plan, small)
    assert len(plan_json(plan, small)["warnings"]) == len(plan.warnings) + 2  # a line for each cell, not for each seed
    assert "warning: hydra.launcher.gpu_memory_gb=0.01" in shown(plan, small)
    refuse_impossible(plan, large)
    assert "gpu_memory_gb" not in shown(plan, large)


def test_a_plan_says_how_many_tokens_a_step_takes(tmp_path: Path) -> None:
    plan = planned(tmp_path, TWO_CELLS)
    length = next(iter(plan.specs.values())).data.train_length
    assert f"4 would run, {16 * length:,} tokens a step" in shown(plan)
