"""Estimated memory against what a training step allocates."""

from collections.abc import Callable

import pytest

from deltalab.model.memory import Memory, fitting_strategy, sharers_of, training_memory
from deltalab.spec.train import Strategy
from deltalab.spec.trial import TrialSpec
from tests.model.allocation import allocated
from tests.specs import BASELINES, trial

SYSTEMS = ["gated_delta_net_2", "kda", "gated_delta_net", "gated_linear_attention", *BASELINES]
KEPT = ("train.activation_checkpointing=true",)
EVAL = ("eval.sequences=1", "eval.batch_size=1")


def tensors(memory: Memory) -> int:
    return memory.peak - memory.base


def small(variant: str, *overrides: str) -> TrialSpec:
    """Every width is another, so that no term stands for another."""
    shape = ("model.d_model=96", "model.heads=2", "model.head_dim=32", "model.value_dim=48", "model.mlp_width=160")
    data = ("data=recall", "data.train_length=128", "data.test_length=128", "model.vocab_size=200", "model.window=32")
    return trial(f"variant={variant}", *shape, *data, "model.depth=3", *EVAL, "train.batch_size=4", *overrides)


def large(variant: str, *overrides: str) -> TrialSpec:
    data = ("data=recall", "data.train_length=2048", "data.test_length=2048", "model.vocab_size=3000")
    shape = ("model=60m", "model.depth=2", "model.mlp_width=1400", "model.value_dim=64", "model.window=512")
    return trial(f"variant={variant}", *shape, *data, *EVAL, "train.batch_size=2", "train.precision=bf16", *overrides)


@pytest.mark.parametrize(
    ("variant", "checkpointing"),
    [*((name, "false") for name in ("gated_delta_net", "mamba2", "transformer")), ("gated_delta_net_2", "true")],
)
def test_on_a_cpu_it_is_what_a_step_allocates(variant: str, checkpointing: str) -> None:
    spec = small(variant, f"train.activation_checkpointing={checkpointing}")
    assert tensors(training_memory(spec, gpu=False)) == pytest.approx(allocated(spec, gpu=False), rel=0.15)


@pytest.mark.parametrize(
    ("variant", "checkpointing"), [*((name, "false") for name in SYSTEMS), ("kda", "true"), ("mamba3_mimo", "true")]
)
def test_in_a_gpus_form_it_is_what_a_step_allocates(variant: str, checkpointing: str) -> None:
    spec = large(variant, f"train.activation_checkpointing={checkpointing}")
    assert tensors(training_memory(spec, gpu=True)) == pytest.approx(allocated(spec, gpu=True), rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_are_taken_a_chunk_at_a_time(precision: str) -> None:
    def phases(vocab: int) -> int:
        spec = large("kda", f"model.vocab_size={vocab}", "data.test_length=64", f"train.precision={precision}", *KEPT)
        memory = training_memory(spec, gpu=True)
        assert tensors(memory) == memory.phases["head"] + memory.resident
        assert tensors(memory) == pytest.approx(allocated(spec, gpu=True), rel=0.15)
        return tensors(memory)

    weights = 512 * (
        12 + 4 + 4 + 4
    )  # bytes a token of the vocabulary: weight and moments, its gradients, their sum, casts
    assert phases(80_000) - phases(40_000) < 1.3 * 40_000 * weights < 4096 * 40_000 * 4


@pytest.mark.parametrize(("gpu", "make"), [(False, small), (True, large)])
def test_a_hybrid_is_the_sum_of_its_layers(gpu: bool, make: Callable[..., TrialSpec]) -> None:
    spec = make("kda", "variant.pattern=[mixer,swa]")
    assert tensors(training_memory(spec, gpu=gpu)) == pytest.approx(allocated(spec, gpu), rel=0.15)


def test_with_few_tokens_weights_and_gradients_are_the_peak() -> None:
    spec = small("kda", "train.batch_size=1", "data.train_length=48", "data.test_length=48", "model.d_model=256")
    memory = training_memory(spec, gpu=False)
    assert memory.phases["head"] < max(memory.phases.values())
    assert tensors(memory) == pytest.approx(allocated(spec, gpu=False), rel=0.15)


def test_processes_and_parts_share_a_batchs_activations() -> None:
    whole, halves = large("kda"), large("kda", "train.accumulation=2")
    one, two = training_memory(whole, gpu=True), training_memory(whole, gpu=True, processes=2)
    apart = training_memory(halves, gpu=True)
    assert two.peak < one.peak
    gradients = one.phases["update"]
    assert apart.phases["head"] == two.phases["head"] + gradients  # of the part before
    assert apart.phases["first block"] == two.phases["first block"]


def test_an_evaluation_of_many_tokens_can_be_the_peak() -> None:
    spec = large("kda", "eval.sequences=64", "eval.batch_size=32")
    memory = training_memory(spec, gpu=True)
    assert tensors(memory) == memory.resident + memory.phases["evaluation"]
    assert memory.phases["evaluation"] > 8 * 32 * 2048 * 3000


def test_shares_divide_what_does_not_compute_and_gather_what_does() -> None:
    spec = large("kda", "train.precision=bf16", "model.depth=12", "train.batch_size=8")
    whole, halves, eighths = (training_memory(spec, True, 8, sharers) for sharers in (1, 2, 8))
    assert (halves.resident, eighths.resident) == (whole.resident // 2, whole.resident // 8)
    assert eighths.phases["update"] == whole.phases["update"] // 8
    copy = whole.phases["update"]  # as large as the gradients: all weights, to evaluate with
    assert eighths.phases["evaluation"] == whole.phases["evaluation"] - copy + copy // 8 + copy
    assert eighths.peak < halves.peak < whole.peak


@pytest.mark.parametrize(
    ("given", "processes", "nodes", "memory", "strategy", "sharers"),
    [
        ("auto", 8, 1, None, Strategy.ddp, 1),
        ("auto", 8, 1, 80e9, Strategy.ddp, 1),
        ("auto", 8, 1, 1e9, Strategy.fsdp, 8),
        ("auto", 16, 2, 1e9, Strategy.hsdp, 8),
        ("auto", 1, 1, 1e9, Strategy.ddp, 1),
        ("fsdp", 16, 2, 80e9, Strategy.fsdp, 16),
        ("hsdp", 16, 2, 80e9, Strategy.hsdp, 8),
        ("ddp", 16, 2, 1e9, Strategy.ddp, 1),
    ],
)
def test_auto_is_what_fits(
    given: str, processes: int, nodes: int, memory: float | None, strategy: Strategy, sharers: int
) -> None:
    spec = large("kda", f"train.strategy={given}", "train.batch_size=16", "model.depth=24", "model.d_model=1024")
    assert fitting_strategy(spec, True, processes, nodes, memory) is strategy
    assert sharers_of(spec.train, strategy, processes, nodes) == sharers
