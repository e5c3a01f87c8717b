"""The small suite: which tasks a trial's vocabulary expresses, and what is drawn of them."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from deltalab.errors import ConfigError
from deltalab.evals.small import small_units
from deltalab.model.init import initialise
from deltalab.model.language_model import LanguageModel
from deltalab.spec.data import (
    DataSpec,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
)
from deltalab.spec.data import Tokenizer as Kind
from deltalab.spec.expressible import SMALL, small_tasks
from deltalab.spec.groups import Group
from deltalab.spec.suite import Suite, SuiteSpec
from deltalab.spec.trial import to_plain
from tests.specs import trial

RECALL = RecallSpec(pairs=4, vocab=64, train_length=64, test_length=64)


def asked(**changes: Any) -> SuiteSpec:
    return SuiteSpec(suite=Suite.small, samples=4, **changes)


def drawn(data: DataSpec, *task: str, lengths: Sequence[int] = ()) -> dict[str, dict[str, Any]]:
    units = small_units(asked(task=task, lengths=tuple(lengths)), data)
    return {unit.name.removeprefix("small/"): unit.identity["data"] for unit in units}


@pytest.mark.parametrize(
    ("data", "tasks"),
    [
        (RECALL, ("mqar", "mqar_overwrite", "mqar_distractors")),
        (RecallSpec(pairs=8, vocab=18), ("mqar", "mqar_overwrite")),  # no key is left for a distractor
        (StateTrackingSpec(), ("parity",)),
        (StateTrackingSpec(group=Group.S5), ("s5",)),
        (StateTrackingSpec(generators=[[1, 0]]), ("group",)),
        (SelectiveCopySpec(), ("selective_copy",)),
        (RegistersSpec(), ("registers",)),
        (NeedleSpec(), ("needle",)),
        (TextSpec(), ("needle",)),
        (TextSpec(tokenizer=Kind.bpe), ()),
    ],
)
def test_what_a_vocabulary_expresses(data: DataSpec, tasks: tuple[str, ...]):
    assert small_tasks(data) == tasks
    assert set(tasks) <= set(SMALL)
    if tasks:
        assert {unit.identity["task"] for unit in small_units(asked(), data)} == set(tasks)


def test_recall_longer_and_fuller():
    found = drawn(RECALL)
    assert [name for name in found if name.startswith("mqar/")] == [
        f"mqar/{length}/pairs-{pairs}" for length in (64, 128, 256) for pairs in (4, 8, 16)
    ]
    numbers = {name: (data["pairs"], data["overwrites"], data["distractors"]) for name, data in found.items()}
    assert numbers["mqar/64/pairs-16"] == (16, 0, 0)
    assert numbers["mqar_overwrite/128/pairs-8"] == (8, 4, 0)
    assert numbers["mqar_distractors/128/pairs-8"] == (8, 0, 8)
    assert numbers["mqar_distractors/256/pairs-16"] == (16, 0, 15)  # the 31 keys there are
    assert all(data["test_length"] == int(name.split("/")[1]) for name, data in found.items())
    assert "mqar_overwrite/64/pairs-16" not in found  # no room


def test_recall_keeps_the_shares_it_was_trained_on():
    trained = RecallSpec(pairs=4, overwrites=3, distractors=1, vocab=64, train_length=64, test_length=64)
    found = drawn(trained, lengths=[256])
    assert found["mqar_overwrite/256/pairs-8"]["overwrites"] == 6
    assert found["mqar_distractors/256/pairs-16"]["distractors"] == 4
    assert found["mqar/256/pairs-4"]["overwrites"] == found["mqar/256/pairs-4"]["distractors"] == 0


def test_other_tasks_at_their_lengths():
    assert list(drawn(StateTrackingSpec(group=Group.S3, train_length=32))) == ["s3/32", "s3/64", "s3/128"]
    assert list(drawn(TextSpec(train_length=64), lengths=[50, 1000])) == ["needle/50", "needle/1000"]
    needle = NeedleSpec(needles=3, digits=2, train_length=64)
    assert drawn(needle, lengths=[500]) == {"needle/500": to_plain(needle) | {"test_length": 500}}


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (RECALL, {"task": ("mqr",)}, "task=mqr: allowed is one of mqar, "),
        (RECALL, {"task": ("s5",)}, "task=s5: allowed is mqar, mqar_overwrite, mqar_distractors: the trial's"),
        (RECALL, {"lengths": (12,)}, "lengths=12: allowed is longer: mqar does not fit"),
        (TextSpec(tokenizer=Kind.bpe), {}, "suite=small: allowed is another: the trial's vocabulary (a BPE) cannot"),
        (TextSpec(tokenizer=Kind.bpe), {"task": ("mqar",)}, "task=mqar: allowed is none: the trial's vocabulary"),
    ],
)  # fmt: skip
def test_mistakes(data: DataSpec, changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as caught:
        small_units(asked(**changes), data)
    assert str(caught.value).startswith(said)


def test_a_measurement_is_by_slice_and_the_batch_size_changes_nothing():
    spec = trial("data=recall")
    model = LanguageModel(spec.variant, spec.model).eval()
    initialise(model, spec.model, 0)
    values = []
    for batch_size in (4, 3):
        unit = small_units(asked(task=("mqar_overwrite",), lengths=(64,), batch_size=batch_size), spec.data)[0]
        with torch.no_grad():
            values.append(unit.run(model))
    assert values[0] == pytest.approx(values[1], nan_ok=True)
    named = {"", "/gap/1-4", "/gap/17-20", "/overwritten", "/kept"}
    assert {f"{kind}{part}" for kind in ("accuracy", "stderr") for part in named} <= values[0].keys()
