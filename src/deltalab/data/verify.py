"""Hold the files of a store against the checksums that were written down when they were made."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from deltalab.data.manifest import MANIFEST, PLAN, TOKEN_BYTES
from deltalab.data.prepare import Report
from deltalab.data.tokens import TOKENIZER
from deltalab.errors import DeltalabError, NotFoundError

NAMED = 3
"""Files that an error names; of the others it says how many they are."""


def verify(store: Path, workers: int = 1, report: Report = lambda done, total: None) -> int:
    """Read every file of a store once; of one that is not complete, those of the shards that are there.

    Args:
        store: the store's folder.
        workers: threads that read.
        report: told bytes read and in all.

    Returns:
        How many files were read, all of them as they were written.

    Raises:
        NotFoundError: nothing was prepared there.
        DeltalabError: files are missing or not what was written; says how to have them made again.
    """
    if not (store / PLAN).is_file():
        raise NotFoundError(f"{store}: nothing is prepared here; deltalab prepare, without --verify, does it")
    wanted = dict(_checksums(store))
    sizes = {file: file.stat().st_size if file.is_file() else 0 for file in wanted}
    done, total, wrong = 0, sum(sizes.values()), []
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_sha256, file): file for file in wanted}
        for future in as_completed(futures):
            file = futures[future]
            if future.result() != wanted[file]:
                wrong.append(file.relative_to(store))
            done += sizes[file]
            report(done, total)
    if wrong:
        raise DeltalabError(_remedy(store, sorted(wrong), len(wanted)))
    return len(wanted)


def _checksums(store: Path) -> Iterator[tuple[Path, str]]:
    """Files and the SHA-256 that each was written with."""
    said = json.loads((store / "tokenizer" / "said.json").read_text())
    for name, key in ((TOKENIZER, "sha256"), (TOKEN_BYTES, "token_bytes_sha256")):
        if said.get(key):  # the byte tokenizer has no file
            yield store / "tokenizer" / name, said[key]
    if (store / MANIFEST).is_file():
        shards = json.loads((store / MANIFEST).read_text())["shards"]
    else:
        found = sorted(store.glob("shard-*/shard.json"))
        shards = [{"name": file.parent.name, **json.loads(file.read_text())} for file in found]
    for shard in shards:
        for counts in shard["splits"].values():
            for key, value in counts.items():
                if key.startswith("sha256/"):
                    yield store / shard["name"] / key.removeprefix("sha256/"), value


def _sha256(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _remedy(store: Path, wrong: list[Path], files: int) -> str:
    """What is wrong, and what to remove so that it is made again."""
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    said = (
        f"{store}: {len(wrong)} of {files} files are not what was written: {', '.join(map(str, wrong[:NAMED]))}{more}"
    )
    folders = list(dict.fromkeys(file.parts[0] for file in wrong))
    if "tokenizer" in folders:  # every shard was made with it
        return f"{said}; remove the whole folder and prepare again"
    gone = f"remove {_first(folders)} and {MANIFEST} there"
    return f"{said}; {gone}, and the same command without --verify makes them again"


def _first(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
