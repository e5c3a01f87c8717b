"""Equivalent trials: the same key exactly where training gives the same numbers, bit for bit."""

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltalab.spec.data import (
    LOCATING,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
)
from deltalab.spec.launcher import Device
from deltalab.spec.model import BUDGETING
from deltalab.spec.train import PLACING
from deltalab.spec.trial import TrialSpec
from deltalab.study.equivalence import classes, equivalence_key, plainest
from deltalab.track import journal
from deltalab.train.meters import MEASURED
from deltalab.train.trial import run_trial
from tests.data.tiny import use_tiny_corpus
from tests.specs import VARIANTS, trial

Numbers = tuple[str, dict[str, dict[int, float]]]
Train = Callable[[TrialSpec], Numbers]

BASE = (
    "variant=untied_scalar",
    "variant.pattern=[mixer,swa]",
    "model.window=8",
    "data.train_length=16",
    "data.test_length=24",
    "train.steps=8",
    "train.batch_size=4",
    "train.log_every=1",
    "eval.sequences=8",
)
"""Everything matters here: scalar gates, a decay, a window shorter than a sequence."""


def small(*overrides: str) -> TrialSpec:
    """``BASE`` with overrides, the later of two for a key."""
    pairs = dict(override.split("=", 1) for override in (*BASE, *overrides))
    return trial(*(f"{key}={value}" for key, value in pairs.items()))


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """State and every recorded number of a trial, timings aside; each trial is trained once."""

    @cache
    def run(trial_id: str) -> Numbers:
        folder: Path = tmp_path_factory.mktemp(trial_id)
        state = run_trial(specs[trial_id], folder, Device.cpu)
        metrics = {name: values for name, values in journal.read(folder).metrics.items() if name not in MEASURED}
        assert {"train/loss", "train/grad_norm"} <= metrics.keys() or specs[trial_id].train.max_hours
        return state.value, metrics

    def numbers(spec: TrialSpec) -> Numbers:
        specs[spec.trial_id] = spec
        return run(spec.trial_id)

    specs: dict[str, TrialSpec] = {}
    torch.set_num_threads(1)
    return numbers


CHANNEL = "variant=gated_delta_net_2"
NO_DECAY = ("variant=delta_net",)
ATTENTION = ("variant.pattern=[attention]",)
WINDOWS = ("variant.pattern=[swa]",)
RECURRENT = ("variant.pattern=[mixer]",)
MAMBA2 = ("variant=mamba2", "variant.pattern=[mixer]")
MAMBA3 = ("variant=mamba3_mimo", "variant.pattern=[mixer]")
GLA = "variant=gated_linear_attention"
S3 = "data.generators=[[1,0,2],[1,2,0]]"

EQUIVALENT: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kda is a tied gated_delta_net_2": (
        ("variant=kda",),
        (CHANNEL, "variant.tie=true", "variant.erase=scalar", "variant.write=scalar"),
    ),
    "gated_delta_net is kda with a scalar decay": (
        ("variant=gated_delta_net",),
        ("variant=kda", "variant.decay=scalar"),
    ),
    "delta_net is gated_delta_net without decay": (
        ("variant=delta_net",),
        ("variant=gated_delta_net", "variant.decay=none"),
    ),
    "linear attention is gated_delta_net_2 without erase": (
        (GLA, "variant.write=channel"),
        (CHANNEL, "variant.erase=none"),
    ),
    "narrowing of channel-wise gates": ((CHANNEL,), (CHANNEL, "variant.narrowing=pool")),
    "narrowing without any gate": (
        (GLA, "variant.decay=none"),
        (GLA, "variant.decay=none", "variant.narrowing=pool"),
    ),
    "decay_range without decay": (NO_DECAY, (*NO_DECAY, "model.decay_range=[1,2]")),
    "dt_range without decay": (NO_DECAY, (*NO_DECAY, "model.dt_range=[0.2,0.3]")),
    "a pattern tiled over depth": (RECURRENT, ("variant.pattern=[mixer,mixer]",)),
    "a pattern tiled over an odd depth": (
        ("model.depth=3",),
        ("model.depth=3", "variant.pattern=[mixer,swa,mixer]"),
    ),
    "variant without mixer": (ATTENTION, (*ATTENTION, "variant=gated_delta_net")),
    "wide range without mixer": (ATTENTION, (*ATTENTION, "variant=gated_delta_net_2_wide")),
    "narrowing without mixer": (ATTENTION, (*ATTENTION, "variant.narrowing=pool")),
    "mixer widths without mixer": (
        ATTENTION,
        (*ATTENTION, "model.head_dim=8", "model.value_dim=4", "model.value_heads=4", "model.conv_width=0"),
    ),
    "a mixer by its name": (RECURRENT, ("variant.pattern=[gated_delta]",)),
    "a baseline by its name": (MAMBA2, (GLA, "variant.pattern=[mamba2]")),
    "gates without a gated delta layer": (
        ("variant=kda", "variant.pattern=[mamba3]"),
        (CHANNEL, "variant.pattern=[mamba3]"),
    ),
    "rank without Mamba-3": (("variant=mamba3_mimo", "variant.pattern=[swa]"), WINDOWS),
    "attention as a mixer": (("variant=transformer", "variant.pattern=[mixer]"), ATTENTION),
    "widths of gated delta layers beside Mamba": (
        MAMBA2,
        (*MAMBA2, "model.head_dim=32", "model.d_state=4", "model.value_heads=4"),
    ),
    "heads of Mamba layers": (
        (*MAMBA2, "model.mamba_head_dim=16", "model.d_state=4"),
        (*MAMBA2, "model.mamba_head_dim=16", "model.d_state=4", "model.heads=4"),
    ),
    "widths of Mamba layers without one": (
        RECURRENT,
        (*RECURRENT, "model.expand=3", "model.mamba_head_dim=8", "model.d_state=6"),
    ),
    "Mamba-3 has no convolution": (MAMBA3, (*MAMBA3, "model.conv_width=0")),
    "decay_range with Mamba-3": (MAMBA3, (*MAMBA3, "model.decay_range=[1,2]")),
    "decay_range without mixer": (ATTENTION, (*ATTENTION, "model.decay_range=[1,2]", "model.dt_range=[0.2,0.3]")),
    "window without sliding-window layers": (RECURRENT, (*RECURRENT, "model.window=4")),
    "window beside full attention": (
        ("variant.pattern=[mixer,attention]",),
        ("variant.pattern=[mixer,attention]", "model.window=4"),
    ),
    "a window over the longest sequence is full attention": (
        ("variant.pattern=[mixer,swa]", "model.window=24"),
        ("variant.pattern=[mixer,attention]",),
    ),
    "two windows over the longest sequence": ((*WINDOWS, "model.window=24"), (*WINDOWS, "model.window=99")),
    "a window over a longer training sequence": (
        ("data.train_length=32", "model.window=32"),
        ("data.train_length=32", "variant.pattern=[mixer,attention]"),
    ),
    "rope_base without attention": (RECURRENT, (*RECURRENT, "model.rope_base=100")),
    "group beside generators": ((S3, "data.group=Z2"), (S3, "data.group=A5")),
    "generators of a named group": (("data.group=S3",), (S3,)),
    "cyclic group by generators": (("data.group=Z5",), ("data.generators=[[2,3,4,0,1]]",)),
    "alternating group by generators": (
        ("data.group=A5",),
        ("data.generators=[[1,2,3,4,0],[1,2,0,3,4]]",),
    ),
    "other generators of a group": ((S3,), ("data.generators=[[0,2,1],[2,1,0],[1,0,2]]",)),
    "log_every above the steps": (("train.log_every=8",), ("train.log_every=30",)),
    "checkpoints": (("train.checkpoint_every=0",), ("train.checkpoint_every=3",)),
    "a profile": (("train.profile=false",), ("train.profile=true",)),
    "the peak that MFU is a share of": ((), ("train.peak_tflops=1",)),
    "eval.every from the steps on": (("eval.every=0",), ("eval.every=8",)),
    "eval.every above the steps": (("eval.every=0",), ("eval.every=11",)),
    "eval.batch_size above the sequences": (("eval.batch_size=8",), ("eval.batch_size=64",)),
}


@pytest.mark.parametrize(("one", "other"), EQUIVALENT.values(), ids=EQUIVALENT)
def test_equivalent_trials_compute_the_same_numbers(one: tuple[str, ...], other: tuple[str, ...], train: Train) -> None:
    first, second = small(*one), small(*other)
    assert first.trial_id != second.trial_id or first.variant.name != second.variant.name
    assert equivalence_key(first) == equivalence_key(second)
    assert train(first) == train(second)
    assert train(plainest(first)) == train(first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plainest_trial_computes_the_same_numbers_and_is_its_own(variant: str, train: Train) -> None:
    spec = small(f"variant={variant}", "data=recall", "data.train_length=64", "data.test_length=64")
    assert train(plainest(spec)) == train(spec)
    assert plainest(plainest(spec)) == plainest(spec)


DIFFERENT = [
    "seed=1",
    "variant.decay=scalar", "variant.decay=none", "variant.erase=channel", "variant.erase=none",
    "variant.write=channel", "variant.write=one", "variant.tie=true", "variant.narrowing=pool",
    "variant.erase_range=2", "variant.pattern=[swa,mixer]", "variant.pattern=[mixer,attention]",
    "model.d_model=32", "model.depth=3", "model.heads=4", "model.head_dim=8", "model.value_dim=8",
    "model.value_heads=4", "model.mlp_width=8", "model.conv_width=2", "model.window=4", "model.window=23",
    "model.rope_base=100", "model.norm_eps=1e-2", "model.decay_range=[1,2]", "model.dt_range=[0.5,0.6]",
    "model.vocab_size=5",
    "data.train_length=12", "data.test_length=20", "data.group=Z3", "data.generators=[[1,2,0]]",
    "train.steps=7", "train.batch_size=2", "train.accumulation=2", "train.lr=1e-2", "train.min_lr_ratio=0.5",
    "train.warmup_steps=2", "train.weight_decay=0.5", "train.beta1=0.5", "train.beta2=0.5", "train.clip=0.01",
    "train.precision=bf16", "train.log_every=3", "train.loss_bound=0.01", "train.max_hours=1e-9",
    "eval.every=3", "eval.sequences=6",
]  # fmt: skip
RECALL = ("data=recall", "data.train_length=64", "data.test_length=64")
DIFFERENT_RECALL = ["data.pairs=4", "data.overwrites=2", "data.distractors=1", "data.vocab=32", "data.gap_power=1"]
COPY = ("data=selective_copy", "data.train_length=64", "data.test_length=64")
DIFFERENT_COPY = ["data.copies=4", "data.vocab=12"]
REGISTERS = ("data=registers", "data.train_length=64", "data.test_length=64")
DIFFERENT_REGISTERS = ["data.registers=3", "data.values=5", "data.resets=0.5"]
NEEDLE = ("data=needle", "data.train_length=64", "data.test_length=64")
DIFFERENT_NEEDLE = ["data.needles=2", "data.digits=3"]
DIFFERENT_MAMBA2 = [
    "model.expand=3", "model.mamba_head_dim=8", "model.d_state=6", "model.conv_width=2", "model.decay_range=[1,2]",
    "model.dt_range=[0.5,0.6]", "variant.mixer=mamba3", "model.heads=4",
]  # fmt: skip
DIFFERENT_MAMBA3 = ["variant.rank=2", "model.d_state=8", "model.dt_range=[0.5,0.6]", "variant.mixer=mamba2"]
DIFFERENT_TEXT = ["data.corpus=docstrings", "data.tokenizer=bpe", "data.corpus_sha256=" + "0" * 64]
DIFFERENT_TEXT += ["data.held_out=2", "data.reset=true"]


@pytest.mark.parametrize("change", DIFFERENT)
def test_a_field_with_an_effect_changes_key_and_numbers(change: str, train: Train) -> None:
    base, changed = small(), small(change)
    assert equivalence_key(base) != equivalence_key(changed)
    assert train(base) != train(changed)


@pytest.mark.parametrize(
    ("base", "change"),
    [(MAMBA2, change) for change in DIFFERENT_MAMBA2] + [(MAMBA3, change) for change in DIFFERENT_MAMBA3],
)
def test_a_field_of_mamba_changes_key_and_numbers(base: tuple[str, ...], change: str, train: Train) -> None:
    changed = (*base, change, *(("variant.rank=1",) if change == "variant.mixer=mamba2" else ()))
    assert equivalence_key(small(*base)) != equivalence_key(small(*changed))
    assert train(small(*base)) != train(small(*changed))


def test_the_shape_of_a_forward_pass_is_taken_to_matter() -> None:
    """On this machine it may not; a GPU picks its matrix products by shape."""
    assert equivalence_key(small("eval.batch_size=3")) != equivalence_key(small())


@pytest.mark.parametrize(
    ("task", "change"),
    [(RECALL, change) for change in DIFFERENT_RECALL]
    + [(COPY, change) for change in DIFFERENT_COPY]
    + [(REGISTERS, change) for change in DIFFERENT_REGISTERS]
    + [(NEEDLE, change) for change in DIFFERENT_NEEDLE],
)
def test_a_field_of_a_drawn_task_changes_key_and_numbers(task: tuple[str, ...], change: str, train: Train) -> None:
    base, changed = small(*task), small(*task, change)
    assert equivalence_key(base) != equivalence_key(changed)
    assert train(base) != train(changed)


def test_the_vocabulary_of_bpe_counts_with_bpe_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    use_tiny_corpus(monkeypatch, tmp_path)
    base, other = small("data=text"), small("data=text", "data.bpe_vocab=300")
    assert equivalence_key(base) == equivalence_key(other)
    assert train(base) == train(other) == train(plainest(other))
    bpe = [small("data=text", "data.tokenizer=bpe", f"data.bpe_vocab={size}") for size in (300, 310)]
    assert len({equivalence_key(spec) for spec in (base, *bpe)}) == 3
    assert train(base) != train(bpe[0]) != train(bpe[1])
    for change in DIFFERENT_TEXT:
        assert equivalence_key(small("data=text", change)) != equivalence_key(base)


def test_every_field_of_a_trial_is_tried_above() -> None:
    spec = small()
    nodes = [(name, getattr(spec, name)) for name in ("variant", "model", "train", "eval")]
    kinds = (StateTrackingSpec, RecallSpec, SelectiveCopySpec, RegistersSpec, NeedleSpec, TextSpec)
    nodes += [("data", kind) for kind in kinds]
    fields = {f"{name}.{field.name}" for name, node in nodes for field in dataclasses.fields(node)} | {"seed"}
    tried = {
        change.split("=")[0]
        for change in (
            *DIFFERENT,
            *DIFFERENT_RECALL,
            *DIFFERENT_COPY,
            *DIFFERENT_REGISTERS,
            *DIFFERENT_NEEDLE,
            *DIFFERENT_MAMBA2,
            *DIFFERENT_MAMBA3,
            *DIFFERENT_TEXT,
        )
    }
    silent = {"variant.name", "train.checkpoint_every", "data.bpe_vocab", "eval.batch_size"}
    silent |= {"train.profile", "train.peak_tflops", "eval.sample_every", "eval.samples", "eval.sample_tokens"}
    silent |= {f"model.{key}" for key in BUDGETING} | {f"train.{key}" for key in PLACING}
    # who varies these compares time and memory
    kept_apart = {"train.activation_checkpointing", "train.compile", "train.deterministic"}
    kept_apart |= {"eval.suites", "eval.suite_every"}  # the same trial, and more of it measured
    silent |= {f"data.{key}" for key in LOCATING}
    of_files = {"data.streaming"}  # in another order, and not of a corpus: tests/train/test_text.py
    of_a_given_tokenizer = {"data.bos", "data.eos", "data.tokenizer_sha256", "data.tokenizer_vocab"}
    assert fields - tried == silent | kept_apart | of_files | of_a_given_tokenizer


ANY = {
    "variant": VARIANTS,
    "variant.pattern": ["[mixer]", "[mixer,mixer]", "[swa]", "[attention,attention]", "[mixer,swa]", "[swa,attention]"],
    "variant.narrowing": ["project", "pool"],
    "model.window": ["4", "24", "99"],
    "model.rope_base": ["100", "10000"],
    "model.decay_range": ["[1,2]", "[2,3]"],
    "model.conv_width": ["0", "4"],
    "data.group": ["Z2", "S3"],
    "data.generators": ["null", "[[1,0]]"],
    "train.log_every": ["1", "8", "20"],
    "eval.batch_size": ["3", "8", "9"],
}


@settings(max_examples=20, deadline=None)
@given(st.fixed_dictionaries({key: st.sampled_from(values) for key, values in ANY.items()}))
def test_the_plainest_of_any_trial_computes_the_same_numbers(train: Train, choices: dict[str, str]) -> None:
    spec = small(*(f"{key}={value}" for key, value in choices.items()))
    assert plainest(plainest(spec)) == plainest(spec)
    assert train(plainest(spec)) == train(spec)


def test_classes_name_the_first_of_each() -> None:
    assert classes({"a": "1", "b": "2", "c": "1", "d": "1", "e": "2", "f": "3"}) == {"c": "a", "d": "a", "e": "b"}
    assert classes({}) == {}
