"""Data sets: downloaded whole or not at all, once, and one line where they cannot be had."""

import errno
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from deltalab.errors import ConfigError, DiskFull
from deltalab.evals.sets import SETS, OutOfReach, find, keep
from tests.evals.hub import REVISION, ROWS, hub_at, served

NOBODY = "http://127.0.0.1:9"
"""Where no hub answers."""


def test_rows_of_the_split_with_a_manifest(prepared: Path):
    for sets in SETS.values():
        for name, wanted in sets.items():
            kept = find(name, str(prepared))
            rows = ROWS[wanted.hub, wanted.config or "default", wanted.split]
            assert pq.read_table(kept.file).to_pylist() == rows
            said = {"hub": wanted.hub, "config": wanted.config, "split": wanted.split, "revision": REVISION}
            assert kept.identity == said
            assert kept.manifest == {**said, "rows": len(rows), "sha256": kept.manifest["sha256"]}


def test_without_a_folder_it_is_downloaded_once(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DELTALAB_CACHE", str(tmp_path))
    with served(hub, tmp_path / "client"):
        first = find("piqa", None)
    hub_at(monkeypatch, NOBODY, tmp_path / "client")
    assert find("piqa", None) == first
    assert first.file.is_relative_to(tmp_path / "eval")


def test_what_cannot_be_had_leaves_nothing(hub: Path, tmp_path: Path):
    broken = tmp_path / "hub" / "baber" / "piqa"
    shutil.copytree(hub / "baber" / "piqa", broken)
    (broken / "data" / "default-validation.parquet").write_bytes(b"PAR1 cut short")
    with served(tmp_path / "hub", tmp_path / "client"), pytest.raises(OutOfReach, match="baber/piqa, split validation"):
        keep("piqa", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "to_parquet", full)
    with served(hub, tmp_path / "client"), pytest.raises(DiskFull, match="run again, it goes on from what is there"):
        keep("piqa", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_has_changed(prepared: Path, tmp_path: Path):
    shutil.copytree(prepared / "drop", tmp_path / "drop")
    with (tmp_path / "drop" / "drop.parquet").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match=r"drop\.parquet: allowed is as it was prepared"):
        find("drop", str(tmp_path))


def test_a_folder_without_it_names_the_command(prepared: Path, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        find("piqa", str(tmp_path))
    said = f"data_dir={tmp_path}: allowed is a folder that deltalab prepare-eval suite=table2 out=DIR made"
    assert str(caught.value).startswith(said)


def test_offline_without_a_folder_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DELTALAB_CACHE", str(tmp_path))
    hub_at(monkeypatch, NOBODY, tmp_path / "client")
    with pytest.raises(
        ConfigError, match="prepare-eval suite=table4 out=DIR made where the hub can be reached"
    ) as said:
        find("nq", None)
    assert str(said.value).startswith("data_dir=null: ")
    assert "\n" not in str(said.value)
