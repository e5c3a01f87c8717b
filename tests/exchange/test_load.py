"""A trial's weights and configuration are all that a model needs; what is missing or does not fit is one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import deltalab
from deltalab.data.tokens import load_encoder
from deltalab.errors import NotFoundError, UsageError
from deltalab.spec.data import TextSpec
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.study import ledger
from deltalab.track.journal import State
from deltalab.train.trial import run_trial
from tests.data.tiny import use_tiny_corpus
from tests.exchange.trained import BPE, trained
from tests.specs import trial
from tests.train.runs import StopAt


@pytest.fixture
def spec(runs: Path) -> TrialSpec:
    return trained(runs, "data=recall")


@pytest.fixture
def folder(runs: Path, spec: TrialSpec) -> Path:
    return ledger.trial_dir(runs, spec.trial_id)


def test_importing_deltalab_loads_no_torch() -> None:
    code = "import sys, deltalab; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = deltalab.lode  # pyright: ignore[reportAttributeAccessIssue]


def test_a_trial_is_named_as_by_the_commands_or_by_a_path(
    runs: Path, spec: TrialSpec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    want = load_file(folder / "model.safetensors")
    monkeypatch.setenv("DELTALAB_RUNS", str(runs))
    names = [spec.trial_id, spec.trial_id[:5], "variant=gated_delta_net_2", folder, str(elsewhere)]
    for name in [*names, elsewhere / "model.safetensors"]:
        model = deltalab.load(name)
        assert not model.training
        assert {n: p.shape for n, p in model.named_parameters()} == {n: w.shape for n, w in want.items()}
        assert all(torch.equal(parameter, want[n]) for n, parameter in model.named_parameters())
    assert deltalab.load(spec.trial_id, runs=runs, study="ask")


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("gated_delta_net_2", {"gates.decay.a", "gates.decay.delta"}),
        ("mamba2", {"a", "delta"}),
        ("mamba3", {"delta"}),
        ("delta_net", set()),
    ],
)
def test_a_shorter_type_leaves_decay_rates_in_fp32(runs: Path, variant: str, names: set[str]) -> None:
    folder = ledger.trial_dir(runs, trained(runs, "data=recall", variant=variant).trial_id)
    model = deltalab.load(folder, dtype=torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    kept = {name for name, dtype in kinds.items() if dtype is torch.float32}
    assert kept == {f"blocks.0.mixer.{name}" for name in names}
    tokens = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        short, full = model(tokens).float(), deltalab.load(folder)(tokens)
    assert (short - full).norm() <= 0.05 * full.norm()
    logits, cache = model.prefill(tokens[:, :10])
    for t in range(10, 20):
        assert (logits.float() - full[:, t - 1]).norm() <= 0.1 * full[:, t - 1].norm()
        logits = model.step(tokens[:, t], cache)


@pytest.mark.parametrize("trial_name", ["nothing", "variant=kda"])
def test_an_unknown_trial(runs: Path, spec: TrialSpec, trial_name: str) -> None:
    with pytest.raises(NotFoundError, match=f"{trial_name}: no "):
        deltalab.load(trial_name, runs=runs)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere/x: no such file or folder"):
        deltalab.load("nowhere/x")
    (folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(NotFoundError, match=r"config.json: not there; weights are loaded with the configuration"):
        deltalab.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"no model.safetensors$"):
        deltalab.load(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not the configuration of a trial of this deltalab"),
        ("[]", "not the configuration of a trial"),
        ('{"seed": 0}', "not the configuration of a trial"),
    ],
)
def test_a_configuration_that_is_none(folder: Path, text: str, said: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(UsageError, match=said) as raised:
        deltalab.load(folder)
    assert "\n" not in str(raised.value)


def test_a_value_that_is_not_allowed_is_named(folder: Path) -> None:
    plain = json.loads((folder / "config.json").read_text())
    plain["model"]["d_model"] = 0
    (folder / "config.json").write_text(json.dumps(plain))
    with pytest.raises(UsageError, match=r"config.json: model.d_model=0: allowed is"):
        deltalab.load(folder)


def test_weights_of_another_model(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({**weights, "norm.weight": torch.ones(3)}, file)
    with pytest.raises(UsageError, match=r"norm.weight has shape \[3\]; allowed is \[64\], as config.json says"):
        deltalab.load(folder)
    save_file({**weights, "more": torch.ones(3)}, file)
    with pytest.raises(UsageError, match=r"parameter more, which the model of config.json does not have"):
        deltalab.load(folder)
    del weights["embedding"]
    save_file(weights, file)
    with pytest.raises(UsageError, match=r"no parameter embedding, which config.json asks for"):
        deltalab.load(folder)
    file.write_bytes(b"nothing of the sort")
    with pytest.raises(UsageError, match=r"cannot be read as safetensors"):
        deltalab.load(folder)


def test_a_trial_that_has_not_completed_names_its_checkpoint(runs: Path) -> None:
    spec = trial("data=recall")
    folder = ledger.freeze(runs, spec)
    assert run_trial(spec, folder, Device.cpu, StopAt(3)) is State.preempted
    with pytest.raises(
        NotFoundError, match=r"the trial is preempted; its newest checkpoint is .*step-00000003"
    ) as raised:
        deltalab.load(folder)
    checkpoint = str(raised.value).rsplit(" ", 1)[-1]
    want = load_file(Path(checkpoint) / "model.safetensors")
    assert all(torch.equal(p, want[name]) for name, p in deltalab.load(checkpoint).named_parameters())


def test_a_trained_tokenizer_lies_beside_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_corpus(monkeypatch, tmp_path)
    spec = trial(*BPE, "data.train_length=16", "data.test_length=16", "train.steps=1", "eval.sequences=2")
    folder = ledger.freeze(tmp_path / "runs", spec)
    assert run_trial(spec, folder, Device.cpu) is State.completed
    shutil.rmtree(os.environ["DELTALAB_CACHE"])
    assert isinstance(spec.data, TextSpec)
    encoder = load_encoder(spec.data, folder)
    tokens = encoder.encode_text("größe λ")
    assert max(tokens) < 299
    assert b"".join(map(encoder.bytes_of, tokens)).decode() == "größe λ"
    (folder / "tokenizer.json").unlink()
    with pytest.raises(NotFoundError, match=r"tokenizer.json: not there; a model with data.tokenizer=bpe is read with"):
        load_encoder(spec.data, folder)
