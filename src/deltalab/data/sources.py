"""Where text comes from: files of rows or of text, here or on the hub, cut into pieces that can be read by themselves.

    files → units (row groups, record batches, megabytes of lines, whole files) → pieces of consecutive units

The documents of all pieces, one piece after the other, are those of the files in the order of their names, however they
are cut.
"""

import contextlib
import glob
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from deltalab.data.corpus import corpus_sha256, documents
from deltalab.errors import ConfigError, DeltalabError
from deltalab.spec.data import Corpus, TextSpec

LINES = 2**20
"""Bytes of a unit of lines: it has the lines that begin in it."""
PIECES = 64
"""About how many pieces a small text is cut into; those of a large one stay below ``LARGEST``."""
SMALLEST, LARGEST = 2**20, 2**28
"""Bytes of a piece."""

Document = tuple[str, str]
"""What decides its split, and its text."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive units of one or more files.

    Attributes:
        parts: path or address, first and last unit, the last excluded; none for an embedded corpus.
        size: bytes as far as known before reading.
    """

    parts: list[tuple[str, int, int]]
    size: int


@dataclass(frozen=True)
class Form:
    """How files of a kind are read.

    Attributes:
        units: file, column → bytes of each of its units.
        texts: file, column, first, last → documents of those units.
    """

    units: Callable[[str, str], list[int]]
    texts: Callable[[str, str, int, int], Iterator[str | None]]


def find_files(spec: TextSpec) -> list[str]:
    """Paths or addresses of a text's files, in order; those of the hub carry the revision.

    Raises:
        ConfigError: there are none, or the data set cannot be reached.
    """
    if spec.files is not None:
        found = sorted(path for path in glob.glob(spec.files, recursive=True) if Path(path).is_file())  # noqa: PTH207
        if not found:
            raise ConfigError("data.files", spec.files, "a glob of files that are here, as in 'texts/*.parquet'")
        return found
    from datasets import load_dataset_builder

    try:
        with _no_retries_told():
            builder = load_dataset_builder(str(spec.hub), spec.hub_config, revision=spec.hub_revision)
    except Exception as error:  # whatever datasets, the hub and the network raise
        cause = " ".join(str(error).split())[:160]
        if isinstance(error, ValueError) and (named := re.search(r"[Aa]vailable(?: configs)?: \[(.+?)\]", str(error))):
            configurations = named[1].replace("'", "").split(", ")
            raise ConfigError("data.hub_config", spec.hub_config or "null", configurations) from error
        allowed = (
            "a data set that can be reached from here (offline? prepare where the hub is, or download its files and "
            f"name them: data.hub=null data.files='FOLDER/*.parquet'; said: {cause})"
        )
        raise ConfigError("data.hub", spec.hub, allowed) from error
    splits = builder.config.data_files or {}
    if spec.hub_split not in splits:
        raise ConfigError("data.hub_split", spec.hub_split, splits or "none: this data set has no plain files")
    return sorted(map(str, splits[spec.hub_split]))


@contextlib.contextmanager
def _no_retries_told() -> Iterator[None]:
    """The hub's client tells of every retry; what it ends with is told here in one line."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def cut(spec: TextSpec) -> list[Piece]:
    """The pieces of a text, in order.

    Raises:
        ConfigError: see ``find_files``; a file without the column.
    """
    if spec.corpus is not None:
        size = sum(len(text.encode()) for text in _embedded(spec.corpus, corpus_sha256(spec.corpus)).values())
        return [Piece(parts=[], size=size)]
    units = {file: _form(file).units(file, spec.column) for file in find_files(spec)}
    return list(_group(units, min(LARGEST, max(SMALLEST, sum(map(sum, units.values())) // PIECES))))


def pinned_revision(pieces: list[Piece]) -> str | None:
    """The commit of the hub that pieces are read from; None of files that are here, or of no pieces."""
    found = (re.match(r"hf://datasets/[^@]+@([^/]+)/", file) for piece in pieces for file, _, _ in piece.parts)
    return next((match[1] for match in found if match), None)


def read(spec: TextSpec, piece: Piece) -> Iterator[Document]:
    """The documents of a piece that are not empty; equal texts come into the same split."""
    if spec.corpus is not None:
        yield from _embedded(spec.corpus, corpus_sha256(spec.corpus)).items()
        return
    for file, first, last in piece.parts:
        for text in _form(file).texts(file, spec.column, first, last):
            if text:
                yield text, text


@lru_cache(maxsize=1)
def _embedded(corpus: Corpus, sha256: str) -> dict[str, str]:
    return documents(corpus)


def _group(units: dict[str, list[int]], target: int) -> Iterator[Piece]:
    """Pieces of ``target`` bytes or a little more."""
    parts: list[tuple[str, int, int]] = []
    size = 0
    for file, sizes in units.items():
        first = 0
        for unit, unit_size in enumerate(sizes, start=1):
            size += unit_size
            if size >= target:
                yield Piece(parts=[*parts, (file, first, unit)], size=size)
                parts, size, first = [], 0, unit
        if first < len(sizes):
            parts.append((file, first, len(sizes)))
    if parts:
        yield Piece(parts=parts, size=size)


def _parquet_units(file: str, column: str) -> list[int]:
    with _open(file) as stream:
        found = pq.ParquetFile(stream)
        place = _column(found.schema_arrow, file, column)
        name = found.schema_arrow.names[place]
        groups = [found.metadata.row_group(unit) for unit in range(found.num_row_groups)]
        columns = [[group.column(place) for place in range(group.num_columns)] for group in groups]
        return [sum(c.total_uncompressed_size for c in row if c.path_in_schema == name) for row in columns]


def _parquet_texts(file: str, column: str, first: int, last: int) -> Iterator[str | None]:
    with _open(file) as stream:
        found = pq.ParquetFile(stream)
        for batch in found.iter_batches(batch_size=1024, row_groups=range(first, last), columns=[column]):
            yield from batch.column(0).to_pylist()


@contextlib.contextmanager
def _arrow(file: str) -> Iterator[list[pa.RecordBatch]]:
    """Record batches of a file, or of a stream as ``datasets`` saves it; of local ones nothing is read yet."""
    with _open(file) as stream:
        source = pa.memory_map(file) if Path(file).is_file() else pa.py_buffer(stream.read())
        try:
            found = pa.ipc.open_file(source)
            yield [found.get_batch(unit) for unit in range(found.num_record_batches)]
        except pa.ArrowInvalid:
            source = pa.memory_map(file) if Path(file).is_file() else source
            yield list(pa.ipc.open_stream(source))


def _arrow_units(file: str, column: str) -> list[int]:
    with _arrow(file) as batches:
        return [batch.column(_column(batch.schema, file, column)).nbytes for batch in batches]


def _arrow_texts(file: str, column: str, first: int, last: int) -> Iterator[str | None]:
    with _arrow(file) as batches:
        for batch in batches[first:last]:
            yield from batch.column(column).to_pylist()


def _line_units(file: str, column: str) -> list[int]:
    size = _size(file)
    if _compressed(file):
        return [size]
    return [min(LINES, size - start) for start in range(0, size, LINES)]


def _line_texts(file: str, column: str, first: int, last: int) -> Iterator[str | None]:
    with _open(file) as stream:
        place, end = 0, None
        if not _compressed(file):
            place, end = first * LINES, last * LINES
        if place:
            stream.seek(place - 1)
            place += len(stream.readline()) - 1
        while (end is None or place < end) and (line := stream.readline()):
            if line.strip():
                yield _field(line, file, place, column)
            place += len(line)


def _field(line: bytes, file: str, place: int, column: str) -> str | None:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DeltalabError(f"{file}: no JSON in the line at byte {place}: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(column), str | None) or column not in row:
        raise _no_column(file, column, row if isinstance(row, dict) else {})
    return None if row[column] is None else row[column].encode(errors="replace").decode()  # JSON can write half a pair


def _whole_units(file: str, column: str) -> list[int]:
    return [_size(file)]


def _whole_texts(file: str, column: str, first: int, last: int) -> Iterator[str | None]:
    with _open(file) as stream:
        try:
            yield stream.read().decode()
        except UnicodeDecodeError as error:
            raise DeltalabError(f"{file}: no UTF-8 text ({error.reason} at byte {error.start})") from error


LINES_FORM = Form(_line_units, _line_texts)
WHOLE_FORM = Form(_whole_units, _whole_texts)
FORMS = {
    ".parquet": Form(_parquet_units, _parquet_texts),
    ".arrow": Form(_arrow_units, _arrow_texts),
    ".jsonl": LINES_FORM,
    ".json": LINES_FORM,
    ".ndjson": LINES_FORM,
    ".txt": WHOLE_FORM,
    ".text": WHOLE_FORM,
    ".md": WHOLE_FORM,
    ".rst": WHOLE_FORM,
}
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")


def _form(file: str) -> Form:
    suffixes = [part for part in PurePosixPath(file).suffixes if part not in COMPRESSED]
    form = FORMS.get(suffixes[-1] if suffixes else "")
    if form is None or (_compressed(file) and form not in (LINES_FORM, WHOLE_FORM)):
        allowed = f"{', '.join(FORMS)}; text and lines also with {', '.join(COMPRESSED)}"
        raise ConfigError("data.files", file, f"files that end in {allowed}")
    return form


def _compressed(file: str) -> bool:
    return file.endswith(COMPRESSED)


def _open(file: str) -> Any:
    return fsspec.open(file, "rb", compression="infer" if _compressed(file) else None)


def _size(file: str) -> int:
    filesystem, path = fsspec.core.url_to_fs(file)
    return filesystem.size(path) or 0


def _column(schema: pa.Schema, file: str, column: str) -> int:
    place = schema.get_field_index(column)
    if place < 0 or not (pa.types.is_string(kind := schema.field(place).type) or pa.types.is_large_string(kind)):
        raise _no_column(file, column, schema.names)
    return place


def _no_column(file: str, column: str, names: Any) -> ConfigError:
    return ConfigError("data.column", column, f"a column of text in {file}: {', '.join(map(str, names)) or 'none'}")
