"""Texts as the hub has them: a folder of parquet files, made here; and their documents."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WORDS = ["wort", "größe", "λ", "return", "value", "0", "\n"]


def texts(count: int, seed: int = 0) -> list[str]:
    """Documents of up to 600 bytes, one of them empty."""
    rng = random.Random(seed)
    return ["", *(f"{n} " + " ".join(rng.choices(WORDS, k=rng.randint(1, 90))) for n in range(count - 1))]


def write_parquet(folder: Path, documents: list[str], files: int = 3) -> Path:
    """A data set in the hub's form, row groups of 20."""
    folder.mkdir(parents=True)
    size = -(-len(documents) // files)
    for number in range(files):
        part = documents[number * size : (number + 1) * size]
        table = pa.table({"id": list(range(len(part))), "text": part})
        pq.write_table(table, folder / f"train-{number:05d}.parquet", row_group_size=20)
    return folder


def write_tokenizer(file: Path, vocab: int = 300) -> Path:
    """A byte-level tokenizer with ``<s>`` and ids up to ``vocab``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, **{character: 1 + n for n, character in enumerate(alphabet)}, "last": vocab - 1}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>"])
    made.save(str(file))
    return file


def use_empty_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep stores below a folder of the test."""
    monkeypatch.setenv("DELTALAB_CACHE", str(folder))
    monkeypatch.delenv("DELTALAB_DATA", raising=False)
