"""Evaluations as arrays: a study's trials measured on a suite, a task of a trial in each array task."""

import pytest

from deltalab.track import journal
from deltalab.track.journal import State
from tests.dispatch.launching import INLINE, QUIET
from tests.slurm.desk import SLURM, TWO_TRIALS, SlurmDesk
from tests.slurm.together import together

pytestmark = pytest.mark.slurm
SET = [word for setting in SLURM if setting.startswith("hydra") for word in ("--set", setting)]
RECALL = TWO_TRIALS.replace("overrides: {", "overrides: {data: recall, ")
TASKS = ("mqar", "mqar_overwrite")
ASKED = ("eval", "ask", "suite=small", f"task={','.join(TASKS)}", "lengths=64", "samples=4")


@together
def test_a_study_is_measured_by_an_array(desk: SlurmDesk) -> None:
    launched = desk.launch("-m", f"study={desk.study(RECALL)}", *INLINE, QUIET)
    assert launched.returncode == 0, launched.stderr
    done = desk.deltalab(*ASKED, *SET)
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = desk.jobs()
    assert f"Submitted batch array {job}: 4 trials in 4 tasks" in done.stdout
    assert "deltalab status ask-eval-small --watch" in done.stdout
    desk.finish()
    assert [run.state for run in desk.cluster.sacct(job)] == ["COMPLETED"] * 4
    assert set(desk.journals("ask-eval-small").values()) == {State.completed}
    for trial in desk.trials():
        found = journal.read(desk.dir(trial)).evaluations
        assert sorted({one["task"] for one in found}) == sorted(TASKS)
        assert len({one["name"] for one in found}) == len(found) == 3  # one task has two numbers of pairs that fit
    again = desk.deltalab(*ASKED, *SET)
    assert (again.returncode, again.stdout.count("small/mqar")) == (0, 6)
    assert desk.jobs() == [job]
