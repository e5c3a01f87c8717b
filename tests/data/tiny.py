"""A corpus of a few hundred small files, standing in for the standard library."""

import random
from pathlib import Path

import pytest

from deltalab.data import corpus
from deltalab.spec.data import Corpus

FILES = 300


def write_tiny_corpus(root: Path) -> Path:
    """``FILES`` modules of about 150 bytes, not all of them ASCII, each with a docstring."""
    rng = random.Random(0)
    words = ["wort", "größe", "λ", "return", "value", "0", "\n"]
    for i in range(FILES):
        file = root / f"part{i % 7}" / f"module{i}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""Module {i}."""\n# ' + " # ".join(rng.choices(words, k=20)) + "\n", encoding="utf-8")
    return root


def use_tiny_corpus(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Read corpora from a tiny one below ``folder``, with an empty cache beside it; gives the corpus' root."""
    root = write_tiny_corpus(folder / "source")
    monkeypatch.setenv("DELTALAB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(corpus, "source_roots", lambda which: {Corpus(which).value: root})
    return root
