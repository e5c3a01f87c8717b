"""Ways of computing that leave the numbers as they are: activation checkpointing, torch.compile."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.train.loop import build_model
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import assert_equal


def backward(checkpointing: bool, precision: torch.dtype, *overrides: str) -> tuple[Tensor, list[Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass kept for the backward pass, weights aside."""
    spec = trial(*overrides, f"train.activation_checkpointing={str(checkpointing).lower()}")
    model = build_model(spec, torch.device("cpu"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    tokens = torch.arange(4 * 64).view(4, 64) % (spec.model.vocab_size or 1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pattern", ["[mixer]", "[mixer,swa]"])
def test_checkpointing_computes_the_same_from_less(pattern: str, precision: torch.dtype) -> None:
    shape = ("data=recall", f"variant.pattern={pattern}", "model.depth=4", "model.window=16")
    loss, grads, kept = backward(False, precision, *shape)
    again, grads_again, kept_again = backward(True, precision, *shape)
    assert torch.equal(loss, again)
    assert len(grads) == len(grads_again) > 20
    assert all(map(torch.equal, grads, grads_again))
    assert kept_again < kept / 4


def test_a_trial_with_checkpointing_ends_bitwise_equal(tmp_path: Path) -> None:
    for checkpointing in ("false", "true"):
        spec = trial(f"train.activation_checkpointing={checkpointing}", "train.steps=4", "train.accumulation=2")
        run_trial(spec, tmp_path / checkpointing, Device.cpu)
    assert_equal(tmp_path / "false", tmp_path / "true")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_a_compiled_trial_has_the_losses_of_an_eager_one(checkpointing: str, tmp_path: Path) -> None:
    for compiled in ("false", "true"):
        spec = trial(
            f"train.compile={compiled}", f"train.activation_checkpointing={checkpointing}",
            "variant.pattern=[swa]", "model.depth=1", "data.train_length=16", "data.test_length=16",
            "train.steps=4", "train.batch_size=4", "train.log_every=1", "train.deterministic=true",
            "train.profile=true",
        )  # fmt: skip
        run_trial(spec, tmp_path / compiled, Device.cpu)
    eager, compiled = (journal.read(tmp_path / name).metrics["train/loss"] for name in ("false", "true"))
    assert eager[4] != eager[1]
    assert compiled == pytest.approx(eager, rel=1e-5)
