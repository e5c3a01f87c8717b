"""Submissions: what is on record comes back, and whose jobs they are."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from deltalab.errors import NotFoundError
from deltalab.spec.launcher import Device, Kind, LauncherSpec, SlurmSpec
from deltalab.spec.tracking import TrackingSpec
from deltalab.study import submissions
from deltalab.study.submissions import Submission, new_submission, with_job


def submission(launcher: LauncherSpec, study: str = "ask") -> Submission:
    return new_submission(
        study, "python launch.py", "d1gest", launcher, TrackingSpec(mlflow=False), [["a", "b"], ["c"]]
    )


SLURM = SlurmSpec(partition="long", device=Device.cuda, sbatch=["exclude=n7"], mem_gb=1.5)


@pytest.mark.parametrize("launcher", [LauncherSpec(), LauncherSpec(kind=Kind.inline, workers=3), SLURM])
def test_what_was_submitted_comes_back(tmp_path: Path, launcher: LauncherSpec) -> None:
    written = with_job(with_job(submission(launcher), "12", 0, 1), "", 1, 1)
    folder = submissions.write(tmp_path, written)
    assert folder == submissions.folder_of(tmp_path, written.token)
    again = submissions.read(folder)
    assert again == written
    assert again.spec == launcher
    assert again.on_slurm == (launcher.kind is Kind.slurm)
    assert TrackingSpec(**again.tracking) == TrackingSpec(mlflow=False)
    assert [path.name for path in folder.iterdir()] == [submissions.FILE]


def test_a_follower_is_on_record(tmp_path: Path) -> None:
    written = dataclasses.replace(submission(SLURM), follower="77")
    assert submissions.read(submissions.write(tmp_path, written)).follower == "77"


def test_a_record_written_before_there_were_jobs_is_read(tmp_path: Path) -> None:
    folder = submissions.write(tmp_path, submission(SLURM))
    plain = json.loads((folder / submissions.FILE).read_text())
    del plain["jobs"], plain["follower"]
    (folder / submissions.FILE).write_text(json.dumps(plain))
    assert submissions.read(folder).jobs == []


@pytest.mark.parametrize("study", ["ask", "a b/c,d", "größe", "..", "x" * 20])
def test_a_token_names_a_folder_and_a_job_of_one_submission(study: str) -> None:
    tokens = {submission(SLURM, study).token for _ in range(50)}
    assert len(tokens) == 50
    for token in tokens:
        assert re.fullmatch(r"[A-Za-z0-9._-]+", token)
        assert token not in (".", "..")


def test_arrays_of_a_submission_have_names_of_their_own() -> None:
    one, other = submission(SLURM), submission(SLURM)
    names = [each.job_name(offset) for each in (one, other) for offset in (0, 1, 10)]
    assert len(set(names)) == 6
    assert all(one.token in name for name in names[:3])


def test_adding_a_job_leaves_the_submission_as_it_was() -> None:
    before = submission(SLURM)
    after = with_job(before, "12", 0, 2)
    assert before.jobs == []
    assert after.jobs == [{"id": "12", "offset": 0, "count": 2}]


def test_a_folder_without_a_record_is_no_submission(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no submission\.json, so this is no submission"):
        submissions.read(tmp_path)
