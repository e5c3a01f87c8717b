"""Data specs refuse what cannot be, with key, value and what is allowed."""

from typing import Any

import pytest

from deltalab.errors import ConfigError
from deltalab.spec.data import (
    DataSpec,
    NeedleSpec,
    RecallSpec,
    RegistersSpec,
    SelectiveCopySpec,
    StateTrackingSpec,
    TextSpec,
    Tokenizer,
)


@pytest.mark.parametrize(
    ("spec", "values", "key"),
    [
        (StateTrackingSpec, {"train_length": 0}, "data.train_length"),
        (StateTrackingSpec, {"test_length": -3}, "data.test_length"),
        (RecallSpec, {"pairs": 0}, "data.pairs"),
        (RecallSpec, {"pairs": -9}, "data.pairs"),
        (RecallSpec, {"pairs": 17, "vocab": 128}, "data.train_length"),
        (RecallSpec, {"pairs": 12, "overwrites": 9}, "data.train_length"),
        (RecallSpec, {"train_length": 99, "pairs": 17, "vocab": 128}, "data.test_length"),
        (RecallSpec, {"overwrites": 9}, "data.overwrites"),
        (RecallSpec, {"overwrites": -1}, "data.overwrites"),
        (RecallSpec, {"distractors": -1}, "data.distractors"),
        (RecallSpec, {"pairs": 8, "distractors": 17, "vocab": 128}, "data.train_length"),
        (RecallSpec, {"pairs": 12, "distractors": 8, "vocab": 40}, "data.vocab"),
        (RecallSpec, {"vocab": 16}, "data.vocab"),
        (RecallSpec, {"vocab": 65}, "data.vocab"),
        (RecallSpec, {"gap_power": 0.0}, "data.gap_power"),
        (RecallSpec, {"gap_power": float("nan")}, "data.gap_power"),
        (RecallSpec, {"gap_power": float("inf")}, "data.gap_power"),
        (SelectiveCopySpec, {"copies": 0}, "data.copies"),
        (SelectiveCopySpec, {"copies": 33}, "data.train_length"),
        (SelectiveCopySpec, {"vocab": 3}, "data.vocab"),
        (RegistersSpec, {"registers": 0}, "data.registers"),
        (RegistersSpec, {"registers": 32}, "data.train_length"),
        (RegistersSpec, {"values": 1}, "data.values"),
        (RegistersSpec, {"resets": 1.0}, "data.resets"),
        (RegistersSpec, {"resets": float("nan")}, "data.resets"),
        (NeedleSpec, {"needles": 0}, "data.needles"),
        (NeedleSpec, {"needles": 27}, "data.needles"),
        (NeedleSpec, {"digits": 0}, "data.digits"),
        (NeedleSpec, {"needles": 9}, "data.train_length"),
        (TextSpec, {"tokenizer": Tokenizer.bpe, "bpe_vocab": 256}, "data.bpe_vocab"),
        (TextSpec, {"tokenizer": Tokenizer.bpe, "bpe_vocab": 70_000}, "data.bpe_vocab"),
        (TextSpec, {"corpus_sha256": "abc"}, "data.corpus_sha256"),
        (TextSpec, {"streaming": True}, "data.streaming"),
    ],
)
def test_refused(spec: type[DataSpec], values: dict[str, Any], key: str):
    with pytest.raises(ConfigError) as caught:
        spec(**values)
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}={caught.value.value}: allowed is ")
    assert "\n" not in str(caught.value)


def test_vocabularies():
    assert StateTrackingSpec().vocab_size == 2
    assert RecallSpec(vocab=128).vocab_size == 128
    assert SelectiveCopySpec(vocab=32).vocab_size == 32
    assert RegistersSpec(registers=2, values=4).vocab_size == 2 + 4 + 6
    assert TextSpec().vocab_size == NeedleSpec().vocab_size == 257
    assert TextSpec(tokenizer=Tokenizer.bpe, bpe_vocab=1024).vocab_size == 1024
