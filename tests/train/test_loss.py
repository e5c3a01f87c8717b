"""The forms of the loss against the plain one: logits of all tokens, then cross-entropy."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.allocated import Allocated
from deltalab.data.batch import IGNORE
from deltalab.model.memory import LOGITS_BYTES
from deltalab.spec.launcher import Device
from deltalab.track import journal
from deltalab.train import loss
from deltalab.train.trial import run_trial
from tests.specs import trial
from tests.train.runs import assert_equal

N, D, V = 37, 16, 11


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu", rows: int = N, vocab: int = V) -> list[Tensor]:
    """Features, head, and targets of which a third are not scored."""
    made = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(size, D, generator=made, dtype=torch.float64) for size in (rows, vocab))
    targets = torch.randint(vocab, (rows,), generator=made)
    targets[::3] = IGNORE
    leaves = [x.to(device, dtype).requires_grad_() for x in (features, weight)]
    return [*leaves, targets.to(device)]


def plain(features: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    scored = targets != IGNORE
    logits = F.linear(features, weight)[scored]
    return (logits.logsumexp(-1) - logits.gather(-1, targets[scored, None])[:, 0]).sum()


def gradients(form: loss.Loss, features: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    """The loss, and the gradients of its third for features and head, as the loop divides by the scored targets."""
    features.grad = weight.grad = None
    value = form(features, weight, targets)
    (value / 3).backward()
    assert features.grad is not None
    assert weight.grad is not None
    return [value.detach(), features.grad, weight.grad]


@pytest.fixture
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 tokens, the last of 5."""
    monkeypatch.setattr(loss, "tokens_at_once", lambda vocab: 8)


@pytest.mark.usefixtures("few_at_once")
def test_chunks_are_the_plain_loss_in_fp64() -> None:
    found, expected = (gradients(form, *inputs()) for form in (loss.FORMS["chunks"], plain))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("few_at_once")
def test_under_bf16_the_heads_gradients_are_added_up_in_fp32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(loss.FORMS["chunks"], *inputs(torch.float32))
    assert [x.dtype for x in found] == [torch.float32] * 3
    parts = [slice(start, start + 8) for start in range(0, N, 8)]
    features, weight, targets = inputs(torch.float32)
    one_by_one = torch.zeros_like(weight)
    for part in parts:
        leaf = features[part].detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            one_by_one += gradients(loss.FORMS["chunks"], leaf, weight, targets[part])[2]
    torch.testing.assert_close(found[2], one_by_one, rtol=1e-6, atol=1e-6)
    for one, other in zip(found, gradients(plain, *inputs()), strict=True):
        assert (one - other).norm() < 1e-2 * other.norm()


@pytest.mark.usefixtures("few_at_once")
def test_correct_counts_scored_targets_alone() -> None:
    features, weight, targets = inputs()
    best = F.linear(features, weight).argmax(-1)
    targets = torch.where(torch.arange(N) % 2 == 0, best, targets)
    targets[:6] = IGNORE
    expected = int((best == targets)[targets != IGNORE].sum())
    assert 10 < expected < N - 6
    assert int(loss.correct(features, weight, targets)) == expected


def test_tokens_without_a_target_lose_nothing() -> None:
    features, weight, targets = inputs()
    found = gradients(loss.FORMS["chunks"], features, weight, torch.full_like(targets, IGNORE))
    assert all(not x.any() for x in found)


def test_logits_take_no_more_than_their_bytes() -> None:
    rows, vocab = 4096, 40_000
    assert loss.tokens_at_once(vocab) < rows / 4
    with FakeTensorMode(), Allocated() as memory:
        gradients(
            loss.FORMS["chunks"],
            *(torch.zeros(size, D, requires_grad=True) for size in (rows, vocab)),
            torch.zeros(rows, dtype=torch.int64),
        )
    assert 2 * LOGITS_BYTES < memory.peak < 4 * LOGITS_BYTES < 4 * rows * vocab


@pytest.mark.usefixtures("few_at_once")
def test_a_trial_in_chunks_is_that_of_all_tokens_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trial("train.steps=4", "train.log_every=1", "train.accumulation=2", "train.activation_checkpointing=true")
    run_trial(spec, tmp_path / "chunks", Device.cpu)
    run_trial(spec, tmp_path / "again", Device.cpu)
    monkeypatch.setattr(loss, "tokens_at_once", lambda vocab: 2**20)
    run_trial(spec, tmp_path / "whole", Device.cpu)
    assert_equal(tmp_path / "chunks", tmp_path / "again")
    one, other = (journal.read(tmp_path / name).metrics for name in ("chunks", "whole"))
    assert one["train/loss"] == pytest.approx(other["train/loss"], rel=1e-5)
    assert one["train/accuracy"] == pytest.approx(other["train/accuracy"], abs=1e-2)
    assert one["train/loss"][4] != one["train/loss"][1]


def test_without_a_gpu_the_form_is_torchs() -> None:
    assert loss.choose_form(torch.device("cpu")) == "chunks"


def check_liger(device: str) -> None:
    """liger-kernel's form is the plain one, in fp32 and with operands in bf16."""
    for dtype, off in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        with torch.autocast(device, torch.bfloat16, enabled=dtype is torch.bfloat16):
            found = gradients(loss.FORMS["liger"], *inputs(torch.float32, device))
        for one, other in zip(found, gradients(plain, *inputs(device=device)), strict=True):
            assert one.dtype == torch.float32
            assert (one - other).norm() < off * other.norm(), (dtype, float((one - other).norm() / other.norm()))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, where the kernels run on it")
def test_ligers_form_is_the_plain_loss_in_tritons_interpreter() -> None:
    pytest.importorskip("liger_kernel")
    check_liger("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_ligers_form_is_the_plain_loss_on_a_gpu() -> None:
    pytest.importorskip("liger_kernel")
    assert loss.choose_form(torch.device("cuda")) == "liger"
    check_liger("cuda")
