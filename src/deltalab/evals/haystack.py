"""What needles are hidden in: prose that is on every machine, or a text of one's own."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

import pyarrow.parquet as pq

from deltalab.errors import ConfigError

HELP = "help"
"""Name of the prose of Python's own help pages (``pydoc_data.topics``)."""
PROSE = re.compile(r"[A-Z“\"][^\n]{40,}")


@dataclass(frozen=True)
class Haystack:
    """A text by name.

    Attributes:
        name: where it comes from.
        text: all of it.
    """

    name: str
    text: str

    @cached_property
    def words(self) -> list[str]:
        """Its words, as white space parts them."""
        return self.text.split()

    @property
    def label(self) -> str:
        """Name and hash: two haystacks with the same label are the same."""
        return f"{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


def read_haystack(source: str) -> Haystack:
    """The haystack that a user names.

    Args:
        source: ``help``, or a file: JSON with the key ``text`` (as RULER keeps its essays), parquet with a column
            ``text`` (as ``deltalab prepare-eval suite=table3`` keeps them), else plain text.

    Raises:
        ConfigError: there is no such file, or no text in it.
    """
    if source == HELP:
        return Haystack(HELP, _help())
    file = Path(source)
    try:
        if file.suffix == ".parquet":
            text = " ".join(pq.read_table(file, columns=["text"])["text"].to_pylist())
        else:
            text = file.read_text(encoding="utf-8")
            text = json.loads(text)["text"] if file.suffix == ".json" else text
    except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's are kinds of ValueError and KeyError
        said = f"{HELP}, a text file, JSON with the key text, or parquet with a column text"
        raise ConfigError("haystack", source, said) from error
    if not isinstance(text, str) or not text.split():
        raise ConfigError("haystack", source, "a file with words in it")
    return Haystack(re.sub(r"[^\w.-]", "_", file.stem), text)


def _help() -> str:
    """The paragraphs of prose in Python's help pages, one a line: no headings, listings, grammars or examples.

    Raises:
        ConfigError: this Python has no help pages.
    """
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise ConfigError("haystack", HELP, "a text file: this Python comes without pydoc_data") from error
    found: dict[str, None] = {}
    for _, page in sorted(topics.items()):
        for paragraph in page.split("\n\n"):
            line = " ".join(part.strip() for part in paragraph.splitlines())
            if paragraph[:1].strip() and line.endswith(".") and PROSE.match(line):
                found[line] = None  # pages share paragraphs
    return "\n".join(found)
