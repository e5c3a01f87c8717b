"""How the local pool's workers share GPUs, with a driver that names as many as a test wants."""

import os
from pathlib import Path

import pytest

from deltalab.dispatch.gpus import gpu_shares, visible_gpus
from deltalab.dispatch.local import LocalPool
from deltalab.errors import UsageError
from deltalab.spec.launcher import Device, LauncherSpec


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first in PATH with a driver of five GPUs; CUDA_VISIBLE_DEVICES is not set."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    driver(tmp_path, 5)
    return tmp_path


def driver(folder: Path, count: int, code: int = 0) -> None:
    """Put an nvidia-smi there that names some GPUs."""
    body = "".join("echo 'NVIDIA H100 80GB HBM3'\n" for _ in range(count))
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{body}exit {code}\n")
    (folder / "nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, ["0", "1", "2", "3", "4"]),
        ({"gpus_per_trial": 2}, ["0,1", "2,3"]),
        ({"gpus_per_trial": 5}, ["0,1,2,3,4"]),
        ({"gpus_per_trial": 0}, []),
        ({"trials_per_gpu": 2}, ["0", "1", "2", "3", "4", "0", "1", "2", "3", "4"]),
        ({"device": Device.cpu}, []),
        ({"device": Device.cuda, "gpus_per_trial": 3}, ["0,1,2"]),
    ],
    ids=str,
)
def test_workers_share_the_gpus_there_are(machine: Path, options: dict[str, object], shares: list[str]) -> None:
    assert gpu_shares(LauncherSpec(**options)) == shares  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "visible"),
    [
        ("2,3", ["2", "3"]),
        ("4", ["4"]),
        (" 1 , 0 ", ["1", "0"]),
        ("GPU-8932f937,GPU-1f2e", ["GPU-8932f937", "GPU-1f2e"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
    ],
)
def test_a_mask_decides_what_is_visible(
    machine: Path, monkeypatch: pytest.MonkeyPatch, mask: str, visible: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert visible_gpus() == visible
    assert gpu_shares(LauncherSpec()) == visible


def test_shares_of_several_gpus_keep_to_the_mask(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,2,0")
    assert gpu_shares(LauncherSpec(gpus_per_trial=2)) == ["4,2"]


@pytest.mark.parametrize(("wanted", "mask"), [(6, None), (2, "3")])
def test_more_gpus_than_there_are_is_refused(
    machine: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, mask: str | None
) -> None:
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    with pytest.raises(UsageError) as caught:
        gpu_shares(LauncherSpec(gpus_per_trial=wanted))
    there = 5 if mask is None else 1
    assert str(caught.value) == (
        f"hydra.launcher.gpus_per_trial={wanted}: allowed is up to {there}, the GPUs visible here"
    )


@pytest.mark.parametrize(("count", "code"), [(0, 0), (0, 9), (3, 9)], ids=["no GPU", "no driver", "a broken driver"])
def test_without_gpus_trials_run_without_unless_several_were_asked_for(machine: Path, count: int, code: int) -> None:
    driver(machine, count, code)
    assert gpu_shares(LauncherSpec()) == gpu_shares(LauncherSpec(gpus_per_trial=0)) == []
    assert gpu_shares(LauncherSpec(gpus_per_trial=4, device=Device.cpu)) == []  # who says cpu means it
    for device in (Device.auto, Device.cuda):
        with pytest.raises(UsageError) as caught:
            gpu_shares(LauncherSpec(gpus_per_trial=4, device=device))
        assert str(caught.value) == "hydra.launcher.gpus_per_trial=4: no GPU is visible here; allowed is 0 or 1"


@pytest.mark.parametrize(
    ("options", "workers", "threads_of"),
    [
        ({}, 5, 5),
        ({"gpus_per_trial": 2}, 2, 4),
        ({"trials_per_gpu": 2}, 10, 10),
        ({"workers": 3}, 3, 3),
        ({"device": Device.cpu, "workers": 1, "gpus_per_trial": 4}, 1, 1),
    ],
    ids=str,
)
def test_the_pool_has_a_worker_per_share_and_divides_the_cores(
    machine: Path, tmp_path: Path, options: dict[str, object], workers: int, threads_of: int
) -> None:
    pool = LocalPool(LauncherSpec(**options), tmp_path, tmp_path / "logs")  # type: ignore[arg-type]
    cores = len(os.sched_getaffinity(0))
    assert (pool.workers, pool.threads) == (workers, max(1, cores // threads_of))
    assert not (tmp_path / "logs").exists()
