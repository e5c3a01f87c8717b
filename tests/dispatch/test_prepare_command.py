"""``deltalab prepare``: what it says, what it refuses, and how shards are dealt out to an array."""

import json
import shutil
from pathlib import Path

import pytest

from deltalab.data import sources
from deltalab.data.manifest import store_folder
from deltalab.data.prepare import finish, missing_shards, prepare
from deltalab.dispatch.garbage import Kind, plan_garbage
from deltalab.dispatch.prepare_array import spread
from deltalab.dispatch.prepare_command import Request, read_share, run_prepare
from deltalab.dispatch.shards import _refuse_standstill
from deltalab.errors import ConfigError, DeltalabError, NotFoundError, UsageError
from deltalab.spec.data import TextSpec
from deltalab.spec.launcher import SlurmSpec
from tests.data.files import texts, use_empty_cache, write_parquet
from tests.dispatch.left import submission


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TextSpec:
    """Parquet files, cut as finely as they can be, and no store."""
    use_empty_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(sources, "SMALLEST", 1)
    return TextSpec(corpus=None, files=str(write_parquet(tmp_path / "hub", texts(200)) / "*.parquet"))


@pytest.fixture
def request_of(text: TextSpec, tmp_path: Path):
    """The command line for that text: more overrides, options → Request."""
    overrides = ["data=text", "data.corpus=null", f"data.files={text.files}"]
    return lambda *more, **options: Request(overrides=[*overrides, *more], runs=tmp_path / "runs", **options)


def test_it_says_what_is_there(request_of, text: TextSpec, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(NotFoundError, match="nobody has begun to prepare this text"):
        run_prepare(request_of(status=True))
    with pytest.raises(NotFoundError, match="nothing is prepared here"):
        run_prepare(request_of(verify=True))
    run_prepare(request_of(shard="1/2", workers=1))
    assert "shards are there; the other shares make the rest" in capsys.readouterr().out
    run_prepare(request_of(status=True, as_json=True))
    said = json.loads(capsys.readouterr().out)
    missing = missing_shards(store_folder(text))
    assert said["shards"] + len(missing) == said["of"] > said["unattended"] == len(missing) > 0
    run_prepare(request_of(workers=1, as_json=True))
    said = json.loads(capsys.readouterr().out)
    assert said["complete"]
    assert said["splits"]["train"]["documents"] > 100
    run_prepare(request_of(verify=True))
    files = 1 + 6 * len(list(store_folder(text).glob("shard-*")))
    assert capsys.readouterr().out == f"{said['store']}: {files} files are as written\n"


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        ([], {"workers": 0}, "--workers=0: allowed is a whole number from 1"),
        ([], {"status": True, "verify": True}, "--status: allowed without --verify"),
        (["hydra/launcher=slurm"], {"shard": "1/2"}, "--shard: allowed without hydra/launcher=slurm"),
        (["hydra/launcher=slurm"], {"workers": 3}, "--workers: allowed without hydra/launcher=slurm"),
        (["hydra/launcher=slrm"], {}, "hydra/launcher=slrm: allowed is one of"),
        (["hydra/launcher=slurm", "hydra.launcher.cpus_per_trial=0"], {}, "hydra.launcher.cpus_per_trial=0: allowed"),
    ],
)
def test_what_cannot_be_is_refused(request_of, text: TextSpec, more: list[str], options: dict, said: str):
    with pytest.raises(UsageError) as refused:
        run_prepare(request_of(*more, **options))
    assert str(refused.value).startswith(said)
    assert not store_folder(text).exists()


def test_a_task_that_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="data=s3: allowed is a text"):
        run_prepare(Request(overrides=["data=s3"], runs=tmp_path))


def test_without_slurm_nothing_is_begun(request_of, text: TextSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="hydra/launcher=slurm: sbatch is not here"):
        run_prepare(request_of("hydra/launcher=slurm"))
    assert not store_folder(text).exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b"])
def test_a_share_is_one_of_n(share: str):
    assert read_share("2/3") == (2, 3)
    with pytest.raises(ConfigError, match=f"--shard={share}: allowed is i/n"):
        read_share(share)


@pytest.mark.parametrize(("cpus", "at_a_time", "tasks"), [(4, 256, 3), (1, 256, 10), (1, 2, 2), (64, 8, 1)])
def test_shards_are_dealt_out_once_each_and_evenly(cpus: int, at_a_time: int, tasks: int):
    dealt = spread(list(range(10)), SlurmSpec(cpus_per_trial=cpus, array_parallelism=at_a_time))
    assert len(dealt) == tasks
    assert sorted(int(number) for task in dealt for number in task) == list(range(10))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_a_task_that_comes_no_further_gives_up(tmp_path: Path):
    for missing in (5, 5, 4, 4):
        _refuse_standstill(tmp_path / "stops-0", missing)
    with pytest.raises(DeltalabError, match="interrupted 3 times with 4 shards missing: the time limit is too short"):
        _refuse_standstill(tmp_path / "stops-0", 4)


def test_a_store_without_its_manifest_alone_is_finished(text: TextSpec):
    store = prepare(text)
    manifest = (store / "manifest.json").read_bytes()
    (store / "manifest.json").unlink()
    finish(store)
    assert (store / "manifest.json").read_bytes() == manifest
    shutil.rmtree(store / "shard-00001")
    (store / "manifest.json").unlink()
    finish(store)
    assert not (store / "manifest.json").exists()


def test_garbage_is_a_submission_whose_shards_are_there(text: TextSpec, tmp_path: Path):
    store = prepare(text, share=(1, 2))
    submission(tmp_path / "runs", "prepare-a", "0", "1", store=str(store))

    def found() -> list[str]:
        waste = plan_garbage(tmp_path / "runs").waste
        return [one.path.name for one in waste if one.kind is Kind.submission]

    assert found() == []
    prepare(text)
    assert found() == ["prepare-a"]
