"""Corpora that are on every machine: Python's own source, and the documentation strings of the packages used here.

A source file is a document, named by its package and its path there (``stdlib/json/decoder.py``). Nothing is imported
from the files that are read.
"""

import ast
import hashlib
import importlib.util
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from deltalab.data.cache import build_once, cache_root
from deltalab.errors import ConfigError
from deltalab.spec.data import Corpus

SKIPPED_FOLDERS = frozenset(
    ["encodings", "test", "tests", "idle_test", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"]
)
"""Tables, tests (not shipped everywhere) and packages that are not the corpus."""

MACHINE_PREFIXES = ("config-", "_sysconfigdata", "sitecustomize")
"""Beginnings of folder and file names that differ between two builds of the same Python."""


def documents(corpus: Corpus) -> dict[str, str]:
    """Name → text of every document, in order of the names. Files that are not UTF-8 are left out.

    Raises:
        ConfigError: the source is not on this machine, e.g. a Python whose standard library is zipped or stripped.
    """
    texts = {}
    for name, file in _sources(corpus).items():
        try:
            text = file.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if corpus is Corpus.docstrings:
            text = docstrings(text)
        if text:
            texts[name] = text
    return texts


def corpus_sha256(corpus: Corpus) -> str:
    """SHA-256 of the corpus' names and texts on this machine, 64 hexadecimal digits.

    Remembered in the cache for as long as Python's version and the files' paths, sizes and times stay the same.

    Raises:
        ConfigError: see ``documents``.
    """

    def build(file: Path) -> None:
        digest = hashlib.sha256()
        for name, text in documents(corpus).items():
            content = text.encode()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        file.write_text(digest.hexdigest())

    state = hashlib.sha256(platform.python_version().encode())
    for name, file in _sources(corpus).items():
        found = file.stat()
        state.update(f"{name}\0{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return build_once(cache_root() / "sha256" / f"{corpus.value}-{state.hexdigest()[:16]}", build).read_text()


def source_roots(corpus: Corpus) -> dict[str, Path]:
    """Package → folder of its source: where a corpus is read from.

    Raises:
        ConfigError: a package is not installed.
    """
    roots = {"stdlib": Path(sysconfig.get_paths()["stdlib"])}
    for package in ("numpy", "torch") if corpus is Corpus.docstrings else ():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError("data.corpus", corpus.value, f"a corpus that is on this machine ({package} is not)")
        roots[package] = Path(spec.submodule_search_locations[0])
    return roots


def docstrings(source: str) -> str:
    """The documentation strings of a module and of what it defines, in order, an empty line between two.

    Source that this Python cannot parse has none.
    """
    if '"""' not in source and "'''" not in source:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's escape sequences
            module = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    return "\n\n".join(_docstrings(module))


def _docstrings(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _docstrings(child)


def _sources(corpus: Corpus) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for package, root in source_roots(corpus).items():
        files = {f"{package}/{file.relative_to(root).as_posix()}": file for file in _python_files(root)}
        if not files:
            allowed = f"a corpus that is on this machine (no Python source under {root}: zipped or stripped?)"
            raise ConfigError("data.corpus", corpus.value, allowed)
        found |= files
    return dict(sorted(found.items()))


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS and not name.startswith(MACHINE_PREFIXES)]
        for name in files:
            if name.endswith(".py") and not name.startswith(MACHINE_PREFIXES):
                yield Path(folder, name)
