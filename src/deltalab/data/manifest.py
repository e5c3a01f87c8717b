"""Where the tokens of a text lie and what is said about them; no arrays are read here.

STORE/plan.json          what is prepared: source, files, tokenizer, pieces
STORE/tokenizer/         tokenizer.json where there is one, token_bytes.npy, said.json (hash, vocabulary, marks)
STORE/shard-00000/       a piece: train.npy (tokens), train.documents.npy (offsets), shard.json (counts, checksums)
STORE/manifest.json      written last: all of it together
"""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from deltalab.data.cache import cache_root
from deltalab.data.corpus import corpus_sha256
from deltalab.errors import ConfigError, NotFoundError
from deltalab.spec.data import TextSpec, Tokenizer

MANIFEST, PLAN, TOKEN_BYTES = "manifest.json", "plan.json", "token_bytes.npy"
DECIDING = (
    "corpus", "hub", "hub_config", "hub_revision", "hub_split", "files", "column", "tokenizer", "tokenizer_name", "bos",
    "eos", "held_out",
)  # fmt: skip
"""Keys of a text that decide what its store holds."""


def stores_root() -> Path:
    """``$DELTALAB_DATA``, or ``stores`` in the cache: where prepared texts lie, for all machines to see."""
    named = os.environ.get("DELTALAB_DATA")
    return Path(named).absolute() if named else cache_root().absolute() / "stores"


def source_of(spec: TextSpec) -> dict[str, Any]:
    """What decides a store's content, as JSON values."""
    plain = {key: getattr(spec, key) for key in DECIDING}
    plain |= {key: plain[key] and plain[key].value for key in ("corpus", "tokenizer")}
    plain["bpe_vocab"] = spec.bpe_vocab if spec.tokenizer is Tokenizer.bpe else None
    plain["corpus_sha256"] = corpus_sha256(spec.corpus) if spec.corpus is not None else None
    return plain


def store_folder(spec: TextSpec) -> Path:
    """The folder of a text's store, whether it is there or not.

    Raises:
        ConfigError: the corpus is not on this machine.
    """
    source = source_of(settled_paths(spec))
    digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:12]
    if spec.corpus is not None:
        name = spec.corpus.value
    elif spec.hub is not None:
        name = "-".join(filter(None, (Path(spec.hub).name, spec.hub_config)))
    else:
        name = Path(str(spec.files)).absolute().parent.name.strip("*") or "files"
    return stores_root() / f"{name}-{spec.tokenizer.value}-{digest}"


def shard_folder(store: Path, number: int) -> Path:
    """Where a shard lies."""
    return store / f"shard-{number:05d}"


def read_manifest(spec: TextSpec) -> dict[str, Any]:
    """What was written down when a text was prepared.

    Raises:
        NotFoundError: it was not prepared, or not to the end.
        ConfigError: it has become another text than the spec says.
    """
    folder = store_folder(spec)
    file = folder / MANIFEST
    if not file.is_file():
        key = next(key for key in ("files", "hub", "corpus") if getattr(spec, key) is not None)
        begun = "not prepared to the end" if folder.exists() else "not prepared"
        raise NotFoundError(
            f"data.{key}={source_of(spec)[key]}: {begun} ({folder}); deltalab prepare, with the same data overrides, "
            "does it; DELTALAB_DATA says where prepared texts lie"
        )
    manifest = json.loads(file.read_text())
    found = {"corpus_sha256": manifest["corpus_sha256"], "tokenizer_sha256": manifest["tokenizer"]["sha256"]}
    for key, value in found.items():
        said = getattr(spec, key)
        if said not in (None, value):
            raise ConfigError(f"data.{key}", said, f"{value} or null: what {folder} was prepared from")
    return manifest


def settled(spec: TextSpec) -> TextSpec:
    """The spec with everything that its store or its corpus says.

    Raises:
        NotFoundError: it has to be prepared and was not.
        ConfigError: the corpus is not on this machine, or is another one.
    """
    spec = settled_paths(spec)
    if spec.embedded and spec.corpus is not None:
        return spec if spec.corpus_sha256 else replace(spec, corpus_sha256=corpus_sha256(spec.corpus))
    if spec.streaming:
        from deltalab.data.streaming import settled_stream

        return settled_stream(spec)
    manifest = read_manifest(spec)
    given = spec.tokenizer is Tokenizer.given
    return replace(
        spec,
        corpus_sha256=manifest["corpus_sha256"],
        tokenizer_sha256=manifest["tokenizer"]["sha256"] if given else None,
        tokenizer_vocab=manifest["tokenizer"]["vocab_size"] if given else None,
    )


def settled_paths(spec: TextSpec) -> TextSpec:
    """The same spec read from any folder: a trial does not run where it was asked for."""
    changes = {}
    if spec.files is not None:
        changes["files"] = str(Path(spec.files).absolute())
    for key in ("hub", "tokenizer_name"):
        value = getattr(spec, key)
        if value is not None and Path(value).exists():
            changes[key] = str(Path(value).absolute())
    return replace(spec, **changes) if changes else spec
