"""Snapshots of the code: named by content, kept once, made of what is code and of nothing else."""

import json
import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from deltalab.dispatch import snapshot
from deltalab.errors import UsageError
from deltalab.track.provenance import provenance

AUTHOR = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *AUTHOR, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout of a small project with one commit."""
    folder = tmp_path / "checkout"
    (folder / "src" / "lab" / "train").mkdir(parents=True)
    (folder / "src" / "lab" / "one.py").write_text("ONE = 1\n")
    (folder / "src" / "lab" / "train" / "two.py").write_text("TWO = 2\n")
    (folder / "launch.py").write_text("print('launch')\n")
    (folder / ".gitignore").write_text("runs/\n*.bin\n")
    git(folder, "init")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "first")
    return folder


@pytest.fixture
def runs(root: Path) -> Path:
    return root / "runs"


def kept(runs: Path, digest: str) -> dict[str, str]:
    """Files of a snapshot and what is in them."""
    folder = snapshot.folder_of(runs, digest)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def test_the_code_is_kept_once_however_often_it_is_taken(root: Path, runs: Path) -> None:
    digest = snapshot.take(root, runs)
    assert kept(runs, digest) == {
        ".gitignore": "runs/\n*.bin\n",
        "launch.py": "print('launch')\n",
        "src/lab/one.py": "ONE = 1\n",
        "src/lab/train/two.py": "TWO = 2\n",
    }
    assert snapshot.take(root, runs) == snapshot.current(root, runs) == digest
    assert [path.name for path in (runs / snapshot.FOLDER).iterdir() if path.is_dir()] == [digest]
    assert snapshot.origin(runs, digest) == {"commit": git(root, "rev-parse", "HEAD"), "dirty": False}
    assert not (runs / snapshot.FOLDER / f"{digest}.patch").exists()


def test_looking_at_the_present_code_writes_nothing(root: Path, runs: Path) -> None:
    snapshot.current(root, runs)
    assert not runs.exists()


def test_taking_a_kept_snapshot_marks_it_as_used(root: Path, runs: Path) -> None:
    folder = snapshot.folder_of(runs, snapshot.take(root, runs))
    os.utime(folder, (1, 1))
    snapshot.take(root, runs)
    assert folder.stat().st_mtime > 1


def edit(root: Path) -> None:
    (root / "src" / "lab" / "one.py").write_text("ONE = 2\n")


def add(root: Path) -> None:
    (root / "src" / "lab" / "three.py").write_text("")


def rename(root: Path) -> None:
    (root / "src" / "lab" / "one.py").rename(root / "src" / "lab" / "uno.py")


def remove(root: Path) -> None:
    (root / "launch.py").unlink()


def make_executable(root: Path) -> None:
    (root / "launch.py").chmod(0o755)


def link(root: Path) -> None:
    (root / "src" / "lab" / "one.py").unlink()
    (root / "src" / "lab" / "one.py").symlink_to("train/two.py")


@pytest.mark.parametrize("change", [edit, add, rename, remove, make_executable, link])
def test_whatever_changes_the_code_changes_the_digest(root: Path, runs: Path, change: Callable[[Path], None]) -> None:
    before = snapshot.take(root, runs)
    change(root)
    after = snapshot.take(root, runs)
    assert after != before
    shutil.rmtree(root / "src")
    git(root, "checkout", ".")
    assert snapshot.current(root, runs) == before


def test_the_files_of_a_submodule_are_kept_and_count(root: Path, runs: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "kernel.py").write_text("FAST = 1\n")
    git(library, "init")
    git(library, "add", "-A")
    git(library, "commit", "-m", "first")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", str(library), "src/library")
    git(root, "commit", "-m", "add a submodule")
    before = snapshot.take(root, runs)
    assert kept(runs, before)["src/library/kernel.py"] == "FAST = 1\n"
    assert not any(".git" in Path(name).parts for name in kept(runs, before))
    (root / "src" / "library" / "kernel.py").write_text("FAST = 2\n")
    (root / "src" / "library" / "new.py").write_text("")
    after = snapshot.take(root, runs)
    assert snapshot.changed(root, runs, before) == ["src/library/kernel.py", "src/library/new.py"]
    assert kept(runs, after)["src/library/kernel.py"] == "FAST = 2\n"
    git(root, "-C", "src/library", "checkout", ".")
    git(root, "apply", str(runs / snapshot.FOLDER / f"{after}.patch"))
    assert (root / "src" / "library" / "kernel.py").read_text() == "FAST = 2\n"


def test_modes_and_links_are_kept(root: Path, runs: Path) -> None:
    make_executable(root)
    link(root)
    folder = snapshot.folder_of(runs, snapshot.take(root, runs))
    assert os.access(folder / "launch.py", os.X_OK)
    assert (folder / "src/lab/one.py").is_symlink()
    assert (folder / "src/lab/one.py").read_text() == "TWO = 2\n"


def test_ignored_files_and_the_runs_folder_are_left_out(root: Path, tmp_path: Path) -> None:
    inside = root / "results here"  # a runs folder that git does not ignore
    before = snapshot.take(root, inside)
    (root / "weights.bin").write_text("large")
    (inside / "trials").mkdir()
    (inside / "trials" / "config.json").write_text("{}")
    (root / "dangling").symlink_to("nowhere")
    assert snapshot.take(root, inside) == before
    assert not any("results here" in name for name in kept(inside, before))


@pytest.mark.parametrize(
    ("file", "dirty"),
    [
        ("src/lab/new.py", True),
        ("conf/variant/new.yaml", True),
        ("analysis/new.py", True),
        ("sweeps/new.yaml", False),
        ("notes.md", False),
        ("src/lab/weights.bin", False),  # ignored
    ],
)
def test_new_code_is_a_local_change(root: Path, runs: Path, file: str, dirty: bool) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text("new")
    assert snapshot.origin(runs, snapshot.take(root, runs)).get("dirty", False) is dirty
    assert provenance(root)["dirty"] is dirty


def test_a_dirty_tree_is_recorded_as_a_patch_of_its_commit(root: Path, runs: Path, tmp_path: Path) -> None:
    edit(root)
    remove(root)
    (root / "src" / "lab" / "table").write_bytes(bytes(range(256)))
    git(root, "add", "src/lab/table")
    digest = snapshot.take(root, runs)
    assert snapshot.origin(runs, digest) == {"commit": git(root, "rev-parse", "HEAD"), "dirty": True}
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(root), str(clone))
    git(clone, "apply", str(runs / snapshot.FOLDER / f"{digest}.patch"))
    assert snapshot.current(clone, clone / "runs") == digest


def take(root: Path, runs: Path, start: object, digests: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    digests.put(snapshot.take(root, runs))  # type: ignore[attr-defined]


def test_taken_by_several_processes_at_once_it_is_kept_once_and_whole(root: Path, runs: Path) -> None:
    for number in range(200):
        (root / "src" / "lab" / f"n{number}.py").write_text(f"N = {number}\n")
    context = multiprocessing.get_context("fork")
    start, digests = context.Barrier(6), context.Queue()
    takers = [context.Process(target=take, args=(root, runs, start, digests)) for _ in range(6)]
    for taker in takers:
        taker.start()
    (digest,) = {digests.get(timeout=60) for _ in takers}
    for taker in takers:
        taker.join(60)
        assert taker.exitcode == 0
    assert len(kept(runs, digest)) == 204
    assert {path.name for path in (runs / snapshot.FOLDER).iterdir()} == {digest, f"{digest}.json"}


def test_what_a_killed_launch_left_half_copied_is_in_nobodys_way(root: Path, runs: Path) -> None:
    link(root)
    digest = snapshot.current(root, runs)
    half = runs / snapshot.FOLDER / f".{digest}.{os.getpid()}"  # process numbers come again, in containers soon
    (half / "src" / "lab").mkdir(parents=True)
    (half / "src" / "lab" / "one.py").symlink_to("train/two.py")
    assert snapshot.take(root, runs) == digest
    assert set(kept(runs, digest)) == {".gitignore", "launch.py", "src/lab/one.py", "src/lab/train/two.py"}


def test_a_checkout_full_of_data_is_refused_with_its_largest_file(root: Path, runs: Path) -> None:
    for name, size in (("corpus.txt", snapshot.MAX_BYTES), ("notes.txt", 2**20)):
        with (root / name).open("w") as file:
            file.truncate(size)
    with pytest.raises(UsageError) as caught:
        snapshot.take(root, runs)
    said = str(caught.value)
    assert "201 MiB that git does not ignore" in said
    assert "corpus.txt alone 200; allowed is up to 200 MiB: put data into .gitignore" in said
    assert "\n" not in said
    assert not runs.exists()
    (root / ".gitignore").write_text("runs/\n*.txt\n")
    snapshot.take(root, runs)


def test_without_git_the_code_is_kept_too(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "image"
    shutil.copytree(root, plain, ignore=shutil.ignore_patterns(".git"))
    (plain / "src" / "lab" / "__pycache__").mkdir()
    (plain / "src" / "lab" / "__pycache__" / "one.pyc").write_text("")
    (plain / ".venv").mkdir()
    (plain / ".venv" / "python").write_text("")
    digest = snapshot.take(plain, plain / "runs")
    assert set(kept(plain / "runs", digest)) == {"launch.py", "src/lab/one.py", "src/lab/train/two.py"}
    assert snapshot.origin(plain / "runs", digest) == {"commit": "unknown", "dirty": False}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))  # not even the program
    assert snapshot.take(plain, plain / "runs") == digest


def test_a_snapshot_that_is_run_as_a_checkout_keeps_its_digest_and_its_commit(root: Path, runs: Path) -> None:
    edit(root)
    digest = snapshot.take(root, runs)
    edited = snapshot.folder_of(runs, digest)
    (edited / "src" / "lab" / "__pycache__").mkdir()
    (edited / "src" / "lab" / "__pycache__" / "one.pyc").write_text("written by Python")
    assert snapshot.take(edited, runs) == snapshot.current(edited, runs) == digest
    assert [path.name for path in (runs / snapshot.FOLDER).iterdir() if path.is_dir()] == [digest]
    known = snapshot.provenance_of(edited)
    assert (known["commit"], known["dirty"]) == (git(root, "rev-parse", "HEAD"), True)
    assert known.keys() == snapshot.provenance_of(root).keys()


def test_changed_names_the_python_files_that_differ(root: Path, runs: Path) -> None:
    digest = snapshot.take(root, runs)
    assert snapshot.changed(root, runs, digest) == []
    (root / "README.md").write_text("words\n")
    assert snapshot.changed(root, runs, digest) == []
    edit(root)
    add(root)
    (root / "src" / "lab" / "train" / "two.py").unlink()
    assert snapshot.changed(root, runs, digest) == ["src/lab/one.py", "src/lab/three.py", "src/lab/train/two.py"]
    assert snapshot.changed(root, runs, digest, ("src/lab/train/",)) == ["src/lab/train/two.py"]
    shutil.rmtree(snapshot.folder_of(runs, digest))
    assert snapshot.changed(root, runs, digest) == [digest]


def test_a_trial_knows_its_code_until_that_is_gone(root: Path, runs: Path) -> None:
    folder = runs / "trials" / "abc"
    folder.mkdir(parents=True)
    assert snapshot.of_trial(runs, folder) is None
    (folder / "provenance.json").write_text(json.dumps({"commit": "x"}))  # written before there were snapshots
    assert snapshot.of_trial(runs, folder) is None
    digest = snapshot.take(root, runs)
    (folder / "provenance.json").write_text(json.dumps({"snapshot": digest}))
    assert snapshot.of_trial(runs, folder) == digest
    shutil.rmtree(snapshot.folder_of(runs, digest))
    with pytest.raises(UsageError) as caught:
        snapshot.of_trial(runs, folder)
    said = str(caught.value)
    assert said.startswith("hydra.launcher.code=submitted: the code of abc, ")
    assert "is gone; allowed is current" in said
    assert "\n" not in said
