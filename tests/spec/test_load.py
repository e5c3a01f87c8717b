"""Composition: what is accepted, what is resolved, and what a user's mistake says."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from deltalab.errors import ConfigError, UsageError
from deltalab.spec import load
from deltalab.spec.launcher import Code, Device, Kind, LauncherSpec, SlurmSpec
from deltalab.spec.load import Planning
from deltalab.spec.trial import TrialSpec
from deltalab.study.resolve import resolve
from tests.specs import VARIANTS, trial

MISTAKES = [
    (["variant=kdaa"], ["variant=kdaa", "gated_delta_net_2", "kda"]),
    (["variant.deca=none"], ["variant.deca", "decay", "erase_range"]),
    (["trian.steps=3"], ["trian.steps", "train"]),
    (["variant.decay=half"], ["variant.decay=half: allowed is one of none, scalar, channel"]),
    (["train.steps=many"], ["train.steps=many: allowed is an integer"]),
    (["train.lr=fast"], ["train.lr=fast: allowed is a number"]),
    (["train.lr=[1,2]"], ["train.lr=[1,2]: allowed is a number"]),
    (["variant.tie=maybe"], ["variant.tie=maybe: allowed is true or false"]),
    (["variant.pattern=3"], ["variant.pattern=3: allowed is a list, as in [a,b]"]),
    (["model.decay_range=[1,b]"], ["model.decay_range=[1,b]: allowed is a number where b stands"]),
    (["seed=1", "train.steps=["], ["train.steps=[: allowed is key=value in Hydra's grammar (no viable alternative"]),
    (["train.steps=0"], ["train.steps=0", "whole number from 1"]),
    (["train.lr=0"], ["train.lr=0", "above 0"]),
    (["train.accumulation=3"], ["train.accumulation=3", "divisor"]),
    (["variant.tie=true"], ["variant.tie=true", "erase=channel", "scalar"]),
    (["variant=kda", "variant.write=channel"], ["variant.tie=true", "write=channel"]),
    (["variant=gated_linear_attention", "variant.erase_range=2"], ["erase_range=2", "1 when"]),
    (["variant.erase_range=3"], ["erase_range=3", "1, 2"]),
    (["variant.pattern=[]"], ["variant.pattern=[]", "mixer, gated_delta, mamba2, mamba3, swa, attention"]),
    (["variant.pattern=[mixer,mamba]"], ["mamba", "mixer, gated_delta, mamba2, mamba3, swa, attention"]),
    (["variant.mixer=mamba"], ["variant.mixer=mamba", "gated_delta, mamba2, mamba3, attention"]),
    (["variant=mamba2", "variant.erase=channel"], ["variant.erase=channel", "none where no layer is gated_delta"]),
    (["variant=transformer", "variant.tie=true", "variant.erase=scalar", "variant.write=scalar"], ["variant.erase="]),
    (["variant.rank=0"], ["variant.rank=0", "from 1"]),
    (["variant.rank=4"], ["variant.rank=4", "1 where no layer is mamba3"]),
    (["variant=mamba3", "model.d_state=7"], ["model.d_state=7", "even with mamba3 layers"]),
    (["variant=mamba2", "model.mamba_head_dim=48"], ["model.mamba_head_dim=48", "divisor of", "= 128"]),
    (["variant=mamba2", "model.expand=1", "model.d_model=12"], ["model.mamba_head_dim=null", "no 8 heads"]),
    (["model.expand=0"], ["model.expand=0", "from 1"]),
    (["model.d_state=0"], ["model.d_state=0", "null or a whole number from 1"]),
    (["model.heads=3"], ["model.heads=3", "divisor"]),
    (["model.value_heads=3"], ["model.value_heads=3", "multiple of model.heads = 2"]),
    (["model.decay_range=[2,1]"], ["model.decay_range=[2.0, 1.0]", "low <= high"]),
    (["model.vocab_size=1"], ["model.vocab_size=1", "2"]),
    (["data.group=M11"], ["data.group=M11", "S3"]),
    (["data.generators=[[0,0]]"], ["data.generators=[[0, 0]]", "permutations"]),
    (["data=recall", "data.overwrites=9"], ["data.overwrites=9", "data.pairs = 8"]),
    (["data.pairs=3"], ["data.pairs", "train_length"]),
    (["variant.pattern=[mixer,swa]", "model.depth=1"], ["variant.pattern=[mixer,swa]", "model.depth = 1"]),
    (["model.norm_eps=-1"], ["model.norm_eps=-1", "above 0"]),
    (["tracking.flush_seconds=0"], ["tracking.flush_seconds=0", "from 0.1"]),
    (["seed=-1"], ["seed=-1", "from 0"]),
    (["+colour=red"], ["+colour=red", "no key outside"]),
    (["+train.colour=red"], ["+train.colour=red", "no key outside"]),
    (["hydra/launcher=moon"], ["hydra/launcher=moon: allowed is one of inline, local, slurm"]),
    (["variant=kda,delta_net"], ["variant=kda,delta_net", "multirun"]),
]


@pytest.mark.parametrize(("overrides", "said"), MISTAKES, ids=lambda part: " ".join(part)[:40])
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(overrides: list[str], said: list[str]) -> None:
    def read() -> None:
        config = load.compose(overrides)
        load.launch_spec(config)
        resolve(load.trial_spec(config))

    with pytest.raises(UsageError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    "chosen", [*(f"variant={name}" for name in VARIANTS), *(f"data={name}" for name in ("text", "recall", "needle"))]
)
def test_a_frozen_config_restores_an_equal_spec(chosen: str) -> None:
    spec = trial(chosen)
    again = TrialSpec.from_dict(spec.to_dict())
    assert again == spec
    assert again.trial_id == spec.trial_id


def test_identity_is_the_content_and_not_the_label() -> None:
    named = trial("variant=untied_scalar")
    spelled = trial("variant=gated_delta_net_2", "variant.erase=scalar", "variant.write=scalar")
    assert named.variant.name != spelled.variant.name
    assert named.trial_id == spelled.trial_id


@pytest.mark.parametrize("change", ["seed=1", "train.lr=1e-4", "variant.narrowing=pool", "data=s3", "eval.every=5"])
def test_whatever_changes_a_number_changes_the_id(change: str) -> None:
    assert trial(change).trial_id != trial().trial_id


@pytest.mark.parametrize("change", ["runs=elsewhere", "tracking=none", "hydra/launcher=inline"])
def test_how_a_trial_is_run_leaves_its_id(change: str) -> None:
    assert trial(change).trial_id == trial().trial_id


def test_every_value_is_resolved() -> None:
    spec = trial("data=recall")
    assert spec.model.vocab_size == 64
    assert spec.model.value_heads == spec.model.heads
    assert spec.model.decay_range == pytest.approx([0.05, 0.5], rel=0.01)  # measured at 64 tokens
    assert trial("model.decay_range=[1,16]").model.decay_range == [1, 16]


def test_decay_range_follows_the_training_length_and_ends_at_the_papers() -> None:
    ranges = [trial(f"data.train_length={n}", f"data.test_length={n}").model.decay_range for n in (32, 256, 4096, 9999)]
    assert ranges[0][1] < ranges[1][1] < ranges[2][1] == ranges[3][1] == 16
    assert ranges[2][0] == 1


ALIKE = [
    [],
    ["train.lr=1e-4", "train=smoke"],  # a group chosen after a value of it was given
    ["variant=kda", "data=recall", "data.pairs=6", "model.d_model=32"],
    ["++train.steps=7"],
    ["data.generators=[[1,0,2],[1,2,0]]", "variant.pattern=[mixer,swa]"],
    ["study=null", "sweep.baseline={variant:kda}", "sweep.seeds=[1,2]", "plan=calibrate"],
    ["model.d_model=16", "model.d_model=32"],
    ["hydra/launcher=inline", "seed=4"],
    ["data=text", "eval=often", "tracking=none", "runs=elsewhere"],
]


@pytest.mark.parametrize("overrides", ALIKE, ids=str)
def test_a_configuration_is_what_hydra_itself_composes(overrides: list[str]) -> None:
    load.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(load.CONF)):
        expected = compose("config", overrides)
    assert OmegaConf.to_container(load.compose(overrides)) == OmegaConf.to_container(expected)


def test_what_one_configuration_sets_the_next_does_not_have() -> None:
    before = load.compose(["variant=kda"])
    changed = load.compose(["variant=kda", "train.lr=1", "data.group=S3", "sweep.seeds=[5]"])
    changed.train.steps = 5
    assert (changed.train.lr, changed.sweep.seeds) == (1, [5])
    again = load.compose(["variant=kda"])
    assert again == before
    assert again.train.lr != 1


def test_a_launch_is_read_off_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DELTALAB_RUNS", raising=False)
    plain = load.launch_spec(load.compose([]))
    assert (plain.study, plain.sweep, plain.plan, plain.confirmed, plain.json) == (
        None,
        {},
        Planning.false,
        False,
        False,
    )
    assert (plain.runs, plain.seed, plain.variant, plain.tracking.mlflow) == (
        tmp_path / "runs", 0, "gated_delta_net_2", True,
    )  # fmt: skip
    given = ["study=gates", "sweep.tune={key:train.lr}", "sweep.seeds=[3]", "confirmed=true", "json=true", "seed=2"]
    spec = load.launch_spec(load.compose([*given, "runs=/elsewhere", "tracking=none", "variant=kda"]))
    assert (spec.study, spec.confirmed, spec.json, spec.seed, spec.variant) == ("gates", True, True, 2, "kda")
    assert spec.sweep == {"tune": {"key": "train.lr"}, "seeds": [3]}
    assert (spec.runs, spec.tracking.mlflow) == (Path("/elsewhere"), False)
    monkeypatch.setenv("DELTALAB_RUNS", "there")
    assert load.launch_spec(load.compose([])).runs == tmp_path / "there"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("true", Planning.true), ("True", Planning.true), ("yes", None), ("false", Planning.false),
        ("calibrate", Planning.calibrate), ("1", None),
    ],
)  # fmt: skip
def test_a_plan_is_shown_measured_first_or_launched(given: str, meant: Planning | None) -> None:
    config = load.compose([f"plan={given}"])
    if meant is not None:
        assert load.launch_spec(config).plan is meant
    else:
        with pytest.raises(ConfigError, match=r"^plan=.*: allowed is one of false, true, calibrate$"):
            load.launch_spec(config)


@pytest.mark.parametrize(
    ("overrides", "spec"),
    [
        ([], LauncherSpec(trials_per_job=4)),
        (["hydra/launcher=inline"], LauncherSpec(kind=Kind.inline)),
        (["hydra.launcher.workers=3", "hydra.launcher.code=submitted"], LauncherSpec(
            trials_per_job=4, workers=3, code=Code.submitted)),
        (["hydra/launcher=slurm"], SlurmSpec()),
        (
            ["hydra/launcher=slurm", "hydra.launcher.partition=long", "hydra.launcher.sbatch=[exclusive,'exclude=n7']",
             "hydra.launcher.mem_gb=1.5", "hydra.launcher.device=cuda"],
            SlurmSpec(partition="long", sbatch=["exclusive", "exclude=n7"], mem_gb=1.5, device=Device.cuda),
        ),
        (["hydra/launcher=slurm", "hydra.launcher.kind=inline", "hydra.launcher.workers=2"], LauncherSpec(
            kind=Kind.inline, workers=2)),
    ],
    ids=str,
)  # fmt: skip
def test_a_launcher_is_what_hydras_words_say(overrides: list[str], spec: LauncherSpec) -> None:
    assert load.launcher(overrides) == spec


LAUNCHER_MISTAKES = [
    ("hydra/launcher=moon", "hydra/launcher=moon: allowed is one of"),
    ("hydra/launcher=basic", "hydra/launcher=basic: allowed is one of inline, local, slurm"),  # Hydra's own
    ("hydra.launcher.wrokers=2", "hydra.launcher.wrokers: no such key; allowed is one of kind, workers, threads"),
    ("+hydra.launcher.colour=red", "hydra.launcher.colour"),
    ("hydra.launcher.partition=long", "hydra.launcher.partition: no such key"),  # the local pool has none
    ("hydra.launcher.workers=many", "hydra.launcher.workers=many: allowed is an integer"),
    ("hydra.launcher.workers=0", "hydra.launcher.workers=0: allowed is a whole number from 1"),
    ("hydra.launcher.kind=moon", "hydra.launcher.kind=moon: allowed is one of inline, local, slurm"),
    ("hydra.launcher.retry_failed=maybe", "hydra.launcher.retry_failed=maybe: allowed is true or false"),
    ("hydra.launcher.device=tpu", "hydra.launcher.device=tpu: allowed is one of auto, cpu, cuda"),
    ("hydra.launcher.code=old", "hydra.launcher.code=old: allowed is one of current, submitted"),
    ("hydra.launcher.confirm_gpu_hours=nan", "hydra.launcher.confirm_gpu_hours=nan: allowed is a number from 0"),
    ("hydra/launcher=slurm hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=120: allowed is less than"),
    ("hydra/launcher=slurm hydra.launcher.sbatch=exclusive", "hydra.launcher.sbatch"),
]


@pytest.mark.parametrize(("given", "said"), LAUNCHER_MISTAKES, ids=[given for given, _ in LAUNCHER_MISTAKES])
def test_a_mistake_in_the_launcher_is_one_line(given: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load.launcher(given.split())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_inner_key_is_offered_to_a_user() -> None:
    with pytest.raises(UsageError) as caught:
        load.launcher(["hydra.launcher.wrokers=2"])
    assert "_target_" not in str(caught.value)


def test_registering_again_changes_nothing() -> None:
    before: Any = OmegaConf.to_container(load.compose(["data=recall"]))
    load.register.__wrapped__()
    assert OmegaConf.to_container(load.compose(["data=recall"])) == before
    assert trial("data=recall", "model.heads=4").model.heads == 4
