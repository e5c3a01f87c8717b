"""Held-out loss and accuracy against computations by hand."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltalab.data.batch import IGNORE, Batch, make_task
from deltalab.evals.accuracy import measure, metrics_of, totals
from deltalab.spec.data import RecallSpec
from deltalab.spec.eval import EvalSpec

CPU = torch.device("cpu")
LOG = math.log


class FixedTask:
    """A task whose held-out set is written down; ``train_batch`` is never asked."""

    def __init__(self, tokens: list[list[int]], targets: list[list[int]], token_bytes: list[int] | None = None) -> None:
        self.vocab_size = 2
        self.token_bytes = None if token_bytes is None else np.array(token_bytes)
        first = np.zeros((len(tokens), len(tokens[0])), dtype=bool)
        first[:, 0] = True
        slices = {"first": first, "never": np.zeros_like(first)}
        self.whole = Batch(tokens=np.array(tokens), targets=np.array(targets), slices=slices)

    def train_batch(self, step: int, rows: int) -> Batch:
        """Not part of an evaluation."""
        raise AssertionError

    def eval_batches(self, sequences: int, batch_size: int) -> Iterator[Batch]:
        """The rows that were written down."""
        for start in range(0, sequences, batch_size):
            yield self.whole.rows(start, start + batch_size)


class Lookup(nn.Module):
    """Token → a row of probabilities, as logits; notes how it was called."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """int64 [B, T] → [B, T, 2]."""
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        return self.logits[tokens_BT]


# Token 0 predicts target 0 with 3/4, token 1 predicts target 0 with 1/8.
MODEL = [[0.75, 0.25], [0.125, 0.875]]
TOKENS = [[0, 1, 0], [1, 1, 0], [0, 0, 1]]
TARGETS = [[0, 1, IGNORE], [0, IGNORE, 1], [IGNORE, 0, 0]]
LOSSES = [-LOG(0.75), -LOG(0.875), -LOG(0.125), -LOG(0.25), -LOG(0.75), -LOG(0.125)]  # of the scored, row by row


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_by_hand(batch_size: int):
    values = metrics_of(
        totals(Lookup(MODEL), FixedTask(TOKENS, TARGETS), EvalSpec(sequences=3, batch_size=batch_size), CPU)
    )
    assert values == {
        "eval/loss": pytest.approx(sum(LOSSES) / 6, rel=1e-6),
        "eval/accuracy": 3 / 6,
        "eval/accuracy/first": 1 / 2,  # the third row's first position is not scored; "never" has none
    }


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_sums_of_shares_add_up_to_those_of_all_batches(ranks: int):
    task = FixedTask(TOKENS, TARGETS, token_bytes=[3, 0])
    spec = EvalSpec(sequences=3, batch_size=1)
    parts = [totals(Lookup(MODEL), task, spec, CPU, share=(rank, ranks)) for rank in range(ranks)]  # of 4 one has none
    sums = {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}
    assert metrics_of(sums) == pytest.approx(metrics_of(totals(Lookup(MODEL), task, spec, CPU)), rel=1e-12)


def test_text_by_hand():
    task = FixedTask(TOKENS, TARGETS, token_bytes=[3, 0])  # targets 0, 1, 0, 1, 0, 0: 12 bytes
    values = metrics_of(totals(Lookup(MODEL), task, EvalSpec(sequences=3, batch_size=2), CPU))
    assert values["eval/perplexity"] == pytest.approx(math.exp(sum(LOSSES) / 6), rel=1e-6)
    assert values["eval/bits_per_byte"] == pytest.approx(sum(LOSSES) / LOG(2) / 12, rel=1e-6)


def test_logits_are_taken_of_as_many_sequences_as_fit_and_the_figures_stay(monkeypatch: pytest.MonkeyPatch):
    spec = RecallSpec()
    task, model = make_task(spec, 0), Counted(spec.vocab_size)
    whole = metrics_of(totals(model, task, EvalSpec(sequences=10, batch_size=8), CPU))
    assert model.read == [8, 2]
    monkeypatch.setattr("deltalab.model.memory.EVALUATED_BYTES", 3 * 4 * spec.vocab_size * spec.test_length)
    model.read.clear()
    again = metrics_of(totals(model, task, EvalSpec(sequences=10, batch_size=8), CPU))
    assert again == pytest.approx(whole)
    assert model.read == [3, 3, 2, 2]


class Counted(nn.Module):
    """Logits that depend on the token alone; notes how many sequences it read at a time."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.table = torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0))
        self.read: list[int] = []

    def forward(self, tokens: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        self.read.append(len(tokens))
        return self.table[tokens]


def test_a_loss_too_large_for_a_perplexity_is_infinite():
    model = Lookup([[math.exp(-80), 1.0], [math.exp(-80), 1.0]])
    with torch.no_grad():
        model.logits *= 100
    values = metrics_of(totals(model, FixedTask([[0]], [[0]], [1, 1]), EvalSpec(sequences=1, batch_size=1), CPU))
    assert values["eval/loss"] == pytest.approx(8000)
    assert values["eval/perplexity"] == math.inf


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_and_nothing_is_differentiated(training: bool):
    model = Lookup(MODEL).train(training)
    totals(model, FixedTask(TOKENS, TARGETS), EvalSpec(sequences=3, batch_size=2), CPU)
    assert model.training is training
    assert model.modes == [(False, True)] * 2


def test_the_mode_is_restored_after_an_error():
    model = Lookup(MODEL)
    with pytest.raises(IndexError):
        totals(model, FixedTask([[5]], [[0]]), EvalSpec(sequences=1, batch_size=1), CPU)
    assert model.training


def test_autocast_holds_for_the_forward_pass():
    seen = []

    class Spy(nn.Linear):
        def forward(self, input: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
            out = super().forward(F.one_hot(input, 2).float())
            seen.append(out.dtype)
            return out

    spec, task = EvalSpec(sequences=3, batch_size=2), FixedTask(TOKENS, TARGETS)
    totals(Spy(2, 2), task, spec, CPU, torch.autocast("cpu", dtype=torch.bfloat16))
    assert seen == [torch.bfloat16] * 2
    totals(Spy(2, 2), task, spec, CPU, contextlib.nullcontext())
    assert seen[2:] == [torch.float32] * 2


def test_the_loss_of_low_precision_logits_is_summed_in_high_precision():
    model = Lookup(MODEL).to(torch.bfloat16)
    logits = model.logits.detach().double()[torch.tensor(TOKENS)]
    expected = F.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGETS).flatten(), ignore_index=IGNORE)
    values = metrics_of(totals(model, FixedTask(TOKENS, TARGETS), EvalSpec(sequences=3, batch_size=2), CPU))
    assert values["eval/loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_a_perfect_and_a_blind_model_on_recall():
    spec = RecallSpec(overwrites=4)
    task = make_task(spec, 0)
    (whole,) = task.eval_batches(64, 64)
    answers = iter(torch.from_numpy(whole.targets).clamp(min=0).split(16))

    class Oracle(nn.Module):
        def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
            return 100.0 * F.one_hot(next(answers), spec.vocab)

    class Blind(nn.Module):
        def forward(self, tokens_BT: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
            return torch.zeros(*tokens_BT.shape, spec.vocab)

    values = metrics_of(totals(Oracle(), task, EvalSpec(sequences=64, batch_size=16), CPU))
    assert values.pop("eval/loss") < 1e-6
    assert set(values.values()) == {1.0}
    assert values.keys() == {"eval/accuracy", *(f"eval/accuracy/{name}" for name in spec.slices)}
    blind = metrics_of(totals(Blind(), task, EvalSpec(sequences=64, batch_size=16), CPU))
    assert blind["eval/loss"] == pytest.approx(LOG(spec.vocab))


def test_the_standard_error_is_that_of_a_ratio_over_sequences():
    task = FixedTask(TOKENS, TARGETS)
    values = measure(Lookup(MODEL), task, EvalSpec(sequences=3, batch_size=2), CPU)
    right, asked = np.array([2, 0, 1]), np.array([2, 2, 2])
    p = right.sum() / asked.sum()
    assert values["accuracy"] == p
    assert values["stderr"] == pytest.approx(math.sqrt(3 / 2 * ((right - p * asked) ** 2).sum()) / asked.sum())
    assert values["accuracy/first"] == 1 / 2
    assert values["stderr/first"] == pytest.approx(math.sqrt(2 / 1 * 2 * 0.5**2) / 2)  # of the two that are scored
    assert "stderr/never" not in values


def test_the_standard_error_covers_the_spread_of_repeated_draws():
    """Sequences of 10 positions that are right or wrong together: the error is that of 10 times fewer draws."""
    rng = np.random.default_rng(0)
    found, errors = [], []
    for _ in range(100):
        right = np.repeat(rng.integers(2, size=(40, 1)), 10, axis=1)
        task = FixedTask(np.zeros_like(right).tolist(), (1 - right).tolist())  # token 0 predicts 0
        values = measure(Lookup(MODEL), task, EvalSpec(sequences=40, batch_size=40), CPU)
        found.append(values["accuracy"])
        errors.append(values["stderr"])
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.25)
    assert np.mean(errors) > 2 * math.sqrt(0.25 / 400)
