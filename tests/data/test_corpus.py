"""Corpora: what is read, what is skipped, and the hash."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deltalab.data import corpus
from deltalab.data.corpus import corpus_sha256, docstrings, documents, source_roots
from deltalab.errors import ConfigError
from deltalab.spec.data import Corpus
from tests.data.tiny import FILES, use_tiny_corpus


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The root of a tiny corpus that stands in for the real ones."""
    return use_tiny_corpus(monkeypatch, tmp_path)


def test_documents_are_the_files_in_order_of_their_names(root: Path):
    found = documents(Corpus.stdlib)
    assert len(found) == FILES
    assert list(found) == sorted(found)
    assert found["stdlib/part3/module3.py"] == (root / "part3/module3.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "skipped",
    ["encodings/cp1.py", "a/tests/x.py", "site-packages/p/x.py", "config-3.12-x/x.py", "_sysconfigdata_x.py", "x.txt"],
)
def test_skipped(root: Path, skipped: str):
    before = documents(Corpus.stdlib)
    (root / skipped).parent.mkdir(parents=True, exist_ok=True)
    (root / skipped).write_text("x = 1\n")
    assert documents(Corpus.stdlib) == before


def test_files_that_are_not_utf8_are_left_out(root: Path):
    (root / "latin.py").write_bytes(b"# \xe9\n")
    assert "stdlib/latin.py" not in documents(Corpus.stdlib)


def test_the_hash_is_that_of_the_content(root: Path):
    first = corpus_sha256(Corpus.stdlib)
    assert re.fullmatch("[0-9a-f]{64}", first)
    file = root / "part0/module0.py"
    os.utime(file, ns=(1, 1))
    assert corpus_sha256(Corpus.stdlib) == first
    file.write_text(file.read_text() + "#")
    changed = corpus_sha256(Corpus.stdlib)
    assert changed != first
    file.rename(root / "part0/renamed.py")
    assert corpus_sha256(Corpus.stdlib) not in (first, changed)


def test_the_hash_is_remembered(root: Path, monkeypatch: pytest.MonkeyPatch):
    first = corpus_sha256(Corpus.stdlib)
    monkeypatch.delattr(corpus, "documents")
    assert corpus_sha256(Corpus.stdlib) == first


def test_docstrings_in_order_and_nothing_else():
    source = '''"""Module."""
x = """not one"""
if x:
    def f():
        """Function."""
        return """not one"""
class C:
    """Class."""
    async def g(self):
        """Method."""
        class D:
            """Inner."""
def h(): pass
'''
    assert docstrings(source) == "Module.\n\nFunction.\n\nClass.\n\nMethod.\n\nInner."


@pytest.mark.parametrize("source", ["", "x = 1", '"""', 'print """old"""', '"""\0"""'])
def test_source_without_docstrings_or_of_another_python(source: str):
    assert docstrings(source) == ""


def test_the_docstrings_corpus_has_documents_of_every_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for package in ("stdlib", "numpy", "torch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text(f'"""Of {package}."""\n')
        (tmp_path / package / "silent.py").write_text("x = 1\n")
    assert source_roots(Corpus.docstrings).keys() == {"stdlib", "numpy", "torch"}
    monkeypatch.setattr(corpus, "source_roots", lambda _: {root.name: root for root in tmp_path.iterdir()})
    assert documents(Corpus.docstrings) == {
        "numpy/a.py": "Of numpy.", "stdlib/a.py": "Of stdlib.", "torch/a.py": "Of torch.",
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["empty", "python311.zip"])
def test_a_python_without_its_source_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(corpus, "source_roots", lambda _: {"stdlib": tmp_path / missing})
    with pytest.raises(ConfigError, match=r"data\.corpus=stdlib: allowed is .*no Python source under") as caught:
        corpus_sha256(Corpus.stdlib)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(corpus.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="numpy is not"):
        source_roots(Corpus.docstrings)


def test_the_real_standard_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DELTALAB_CACHE", str(tmp_path))
    found = documents(Corpus.stdlib)
    assert "stdlib/json/decoder.py" in found
    assert sum(map(len, found.values())) > 5_000_000
    assert corpus_sha256(Corpus.stdlib) == corpus_sha256(Corpus.stdlib)


def test_planning_loads_neither_torch_nor_datasets():
    program = (
        "import sys\nfrom deltalab.data.text import corpus_sha256\n"
        "assert not {'torch', 'datasets', 'tokenizers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
