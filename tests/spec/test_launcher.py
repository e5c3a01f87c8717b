"""The launcher's options: their ranges, kinds, and their way into a record and back."""

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltalab.errors import ConfigError
from deltalab.spec.launcher import Code, Device, Kind, LauncherSpec, SlurmSpec, launcher_spec
from deltalab.spec.trial import to_plain

LOCAL = st.builds(
    LauncherSpec,
    kind=st.sampled_from([Kind.local, Kind.inline]),
    workers=st.none() | st.integers(1, 99),
    threads=st.none() | st.integers(1, 99),
    trials_per_job=st.integers(1, 99),
    gpus_per_trial=st.integers(0, 8),
    device=st.sampled_from(Device),
    retry_failed=st.booleans(),
    code=st.sampled_from(Code),
    confirm_gpu_hours=st.floats(0, 1e6),
    gpu_hour_price=st.none() | st.floats(0, 1e3),
)
WORDS = st.lists(st.text(max_size=9), max_size=3)
SLURM = st.builds(
    SlurmSpec,
    partition=st.none() | st.text(max_size=9),
    timeout_min=st.integers(1, 9999),
    signal_delay_s=st.integers(0, 59),
    gpus_per_trial=st.integers(0, 8),
    device=st.sampled_from(Device),
    code=st.sampled_from(Code),
    cpus_per_trial=st.integers(1, 64),
    mem_gb=st.none() | st.floats(0.5, 999),
    setup=WORDS,
    sbatch=WORDS,
    container=st.none() | st.text(max_size=9),
)


@settings(max_examples=50, deadline=None)
@given(LOCAL | SLURM)
def test_a_record_brings_back_an_equal_launcher(spec: LauncherSpec) -> None:
    again = launcher_spec(json.loads(json.dumps(to_plain(spec))))
    assert again == spec
    assert type(again) is type(spec)


def test_a_slurm_launcher_that_ran_one_trial_in_its_own_process_comes_back_too() -> None:
    inline = replace(SlurmSpec(partition="long", workers=2), kind=Kind.inline)
    again = launcher_spec(json.loads(json.dumps(to_plain(inline))))
    assert (again.kind, again.workers) == (Kind.inline, 2)


def test_the_kind_decides_which_options_there_are() -> None:
    assert type(launcher_spec({})) is LauncherSpec
    assert type(launcher_spec({"kind": "inline"})) is LauncherSpec
    assert type(launcher_spec({"kind": Kind.slurm, "partition": "long"})) is SlurmSpec
    assert launcher_spec({"kind": "slurm"}) == SlurmSpec()
    assert launcher_spec({"kind": "local", "device": "cuda", "code": "submitted"}) == LauncherSpec(
        device=Device.cuda, code=Code.submitted
    )


def test_options_written_before_others_were_added_are_read() -> None:
    plain = to_plain(SlurmSpec(partition="long"))
    for key in ("patience_s", "container_command", "code", "gpu_hour_price"):
        del plain[key]
    assert launcher_spec(plain) == SlurmSpec(partition="long")


@pytest.mark.parametrize(
    ("spec", "processes"),
    [
        (LauncherSpec(), 1),
        (LauncherSpec(gpus_per_trial=0), 1),
        (LauncherSpec(gpus_per_trial=4), 4),
        (SlurmSpec(), 1),
        (SlurmSpec(gpus_per_trial=0), 1),
        (SlurmSpec(gpus_per_trial=0, nodes=3), 3),
        (SlurmSpec(gpus_per_trial=8, nodes=2), 8),
    ],
)
def test_a_trial_has_a_process_per_gpu_or_per_node(spec: LauncherSpec, processes: int) -> None:
    assert spec.processes == processes


COMMON = [
    ({"workers": 0}, "workers=0: allowed is a whole number from 1, or null"),
    ({"threads": 0}, "threads=0"),
    ({"trials_per_job": 0}, "trials_per_job=0"),
    ({"trials_per_gpu": 0}, "trials_per_gpu=0"),
    ({"gpus_per_trial": -1}, "gpus_per_trial=-1: allowed is a whole number from 0"),
    ({"gpus_per_trial": 2, "trials_per_gpu": 2}, "trials_per_gpu=2: allowed is 1 with gpus_per_trial above 1"),
    ({"confirm_gpu_hours": -0.1}, "confirm_gpu_hours=-0.1: allowed is a number from 0"),
    ({"confirm_gpu_hours": float("nan")}, "confirm_gpu_hours=nan"),
    ({"gpu_hour_price": float("inf")}, "gpu_hour_price=inf"),
    ({"gpu_hour_price": -1.0}, "gpu_hour_price=-1.0"),
]
SLURMS = [
    ({"timeout_min": 0}, "timeout_min=0"),
    ({"nodes": 0}, "nodes=0"),
    ({"cpus_per_trial": 0}, "cpus_per_trial=0"),
    ({"array_parallelism": 0}, "array_parallelism=0"),
    ({"signal_delay_s": -1}, "signal_delay_s=-1"),
    ({"patience_s": -1.0}, "patience_s=-1.0"),
    ({"timeout_min": 2}, "signal_delay_s=120: allowed is less than timeout_min = 2 min"),
    ({"gpus_per_trial": 3, "nodes": 2}, "gpus_per_trial=3: allowed is 0 or a multiple of nodes = 2"),
    ({"mem_gb": 0.0}, "mem_gb=0.0: allowed is a number above 0, or null"),
    ({"mem_gb": float("nan")}, "mem_gb=nan"),
    ({"container": "a.sif", "container_command": "run"}, "container_command=run: allowed is a command with {image}"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "options", "said"), [
    *((spec, *case) for case in COMMON for spec in (LauncherSpec, SlurmSpec)),
    *((SlurmSpec, *case) for case in SLURMS),
])  # fmt: skip
def test_an_option_out_of_range_is_one_line(spec: type[LauncherSpec], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec(**options)
    assert str(caught.value).startswith(f"hydra.launcher.{said}")
    assert "\n" not in str(caught.value)


def test_a_launcher_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LauncherSpec().workers = 3  # type: ignore[misc]
