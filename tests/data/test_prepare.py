"""Preparing a text: every document once, the same bytes however the work was cut, shared or interrupted."""

import gzip
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deltalab.data import prepare as preparing
from deltalab.data import sources
from deltalab.data.manifest import settled, store_folder
from deltalab.data.prepare import SPLITS, document_split, prepare
from deltalab.data.store import TokenStream
from deltalab.data.verify import verify
from deltalab.errors import ConfigError, DeltalabError, DiskFull, NotFoundError, UsageError
from deltalab.spec.data import TextSpec, Tokenizer
from tests.data.files import texts, use_empty_cache, write_parquet, write_tokenizer

DOCUMENTS = texts(200)
PLAIN = TextSpec(corpus=None, files="unset")


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TextSpec:
    """Parquet files, cut as finely as they can be, and no store."""
    use_empty_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(sources, "SMALLEST", 1)
    return replace(PLAIN, files=str(write_parquet(tmp_path / "hub", DOCUMENTS) / "*.parquet"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def documents(store: Path, split: str, end: int = 256) -> list[str]:
    """The documents of a split, by the places where they begin."""
    stream = TokenStream(store, split)
    bounds = [*stream.starts(0, len(stream)), len(stream)]
    found = [stream.read(first, last) for first, last in itertools.pairwise(bounds)]
    assert all(document[-1] == end for document in found)
    return [document[:-1].astype(np.uint8).tobytes().decode() for document in found]


def expected(split: str) -> list[str]:
    """The documents that belong to a split, in order."""
    return [text for text in DOCUMENTS if text and document_split(text, 5.0) == split]


def move_to(store: Path, name: str) -> Path:
    """The store out of the way, so that it is made again."""
    return store.rename(store.with_name(name))


def test_a_store_has_every_document_once_in_order_and_in_its_split(spec: TextSpec):
    store = prepare(spec)
    assert len(list(store.glob("shard-*"))) > 9
    for split in SPLITS:
        assert documents(store, split) == expected(split)
        assert expected(split)


def write_jsonl(folder: Path) -> str:
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in DOCUMENTS)
    (folder / "all.jsonl").write_text(lines + "\n\n", encoding="utf-8")
    return "*.jsonl"


def write_gzip(folder: Path) -> str:
    with gzip.open(folder / "all.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in DOCUMENTS)
    return "*.gz"


def write_arrow(folder: Path) -> str:
    table = pa.table({"text": DOCUMENTS})
    half = len(DOCUMENTS) // 2
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as sink:
        sink.write_table(table.slice(0, half), max_chunksize=30)
    with pa.ipc.new_file(folder / "b.arrow", table.schema) as sink:
        sink.write_table(table.slice(half), max_chunksize=30)
    return "*.arrow"


def write_text(folder: Path) -> str:
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number:03d}.txt").write_bytes(text.encode())
    return "**/*.txt"


@pytest.mark.parametrize("write", [write_jsonl, write_gzip, write_arrow, write_text])
def test_any_form_of_file_gives_the_same_documents(write, spec: TextSpec, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "LINES", 777)
    monkeypatch.setattr(sources, "SMALLEST", 3000)
    store = prepare(replace(PLAIN, files=str(tmp_path / write(tmp_path))))
    for split in SPLITS:
        assert documents(store, split) == expected(split)


def test_a_folder_in_the_hubs_form_is_read_offline(spec: TextSpec, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    store = prepare(replace(PLAIN, files=None, hub=str(tmp_path / "hub")))
    assert documents(store, "train") == expected("train")


CONFIGURATIONS = """---
configs:
- {config_name: sample-10BT, data_files: [{split: train, path: sample/10BT/*}]}
- {config_name: sample-100BT, data_files: [{split: train, path: sample/100BT/*}]}
---
"""


def test_a_configuration_of_a_data_set_is_found_by_name(spec: TextSpec, tmp_path: Path):
    """As FineWeb-Edu names its samples: by the head of the data set's card."""
    for name in ("10BT", "100BT"):
        write_parquet(tmp_path / "web/sample" / name, DOCUMENTS, files=2)
    (tmp_path / "web/README.md").write_text(CONFIGURATIONS)
    web = replace(PLAIN, files=None, hub=str(tmp_path / "web"), hub_config="sample-100BT")
    assert [Path(file).parts[-3:-1] for file in sources.find_files(web)] == [("sample", "100BT")] * 2
    for config, said in (("sample-1BT", "sample-1BT"), (None, "null")):
        with pytest.raises(ConfigError) as refused:
            sources.find_files(replace(web, hub_config=config))
        assert str(refused.value) == f"data.hub_config={said}: allowed is one of sample-10BT, sample-100BT"
    with pytest.raises(ConfigError, match=r"data\.hub_split=tset: allowed is one of train"):
        sources.find_files(replace(web, hub_split="tset"))


def test_shares_and_processes_make_the_same_bytes(spec: TextSpec):
    told: list[tuple[int, int]] = []
    whole = tree(move_to(prepare(spec, report=lambda done, total: told.append((done, total))), "whole"))
    assert len(told) > 9
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == told[0][1]
    assert not (prepare(spec, share=(2, 3)) / "manifest.json").exists()
    assert not (prepare(spec, share=(1, 3)) / "manifest.json").exists()
    assert tree(move_to(prepare(spec, share=(3, 3)), "shares")) == whole
    assert tree(prepare(spec, workers=2)) == whole


KILLED = """
import os, signal, sys
import numpy as np
from deltalab.data import prepare, sources
from deltalab.spec.data import TextSpec
sources.SMALLEST = 1
save, calls = np.save, []
def dying(file, array):
    calls.append(array)
    if len(calls) == 20:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, array)
np.save = dying
prepare.prepare(TextSpec(corpus=None, files=sys.argv[1]))
"""


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(spec: TextSpec):
    whole = tree(move_to(prepare(spec), "whole"))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(spec.files)], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    store = store_folder(spec)
    done = {shard: shard.stat().st_mtime_ns for shard in store.glob("shard-*")}
    assert len(done) == 3
    assert len(list(store.glob(".shard-*"))) == 1
    prepare(spec)
    assert {shard: shard.stat().st_mtime_ns for shard in done} == done
    preparing.clear_left(store)
    assert tree(store) == whole


def test_the_manifest_counts_and_sums_up(spec: TextSpec):
    store = prepare(spec)
    manifest = json.loads((store / "manifest.json").read_text())
    for split in SPLITS:
        totals = manifest["splits"][split]
        assert totals == {"tokens": len(TokenStream(store, split)), "documents": len(expected(split))}
    for shard in manifest["shards"]:
        for counts in shard["splits"].values():
            for name, value in counts.items():
                if name.startswith("sha256/"):
                    content = (store / shard["name"] / name.removeprefix("sha256/")).read_bytes()
                    assert hashlib.sha256(content).hexdigest() == value
    assert manifest["tokenizer"]["eos"] == "id 256"
    assert [Path(file).name for file in manifest["files"]] == [f"train-0000{n}.parquet" for n in range(3)]


@pytest.mark.parametrize(("vocab", "dtype"), [(300, np.uint16), (70_000, np.uint32)])
def test_a_given_tokenizer_marks_documents_with_the_tokens_asked_for(spec: TextSpec, tmp_path: Path, vocab, dtype):
    """The tokenizer is a file, or a folder as the hub has them."""
    file = write_tokenizer(tmp_path / "tokenizer.json", vocab)
    name = str(file if vocab == 300 else tmp_path)
    spec = replace(spec, tokenizer=Tokenizer.given, tokenizer_name=name, bos="<s>")
    store = prepare(spec)
    resolved = settled(spec)
    assert resolved.vocab_size == vocab
    shard = next(iter(sorted(store.glob("shard-*"))))
    assert np.load(shard / "train.npy").dtype == dtype
    stream = TokenStream(store, "train")
    tokens = stream.read(0, len(stream))
    np.testing.assert_array_equal(np.flatnonzero(tokens == 0), stream.starts(0, len(stream)))
    token_bytes = np.load(store / "tokenizer/token_bytes.npy")
    assert token_bytes[tokens].sum() == sum(len(text.encode()) for text in expected("train"))


def test_a_text_is_known_by_its_content_and_not_by_its_place(spec: TextSpec, tmp_path: Path):
    elsewhere = replace(PLAIN, files=str(write_parquet(tmp_path / "other", DOCUMENTS) / "*.parquet"))
    changed = replace(PLAIN, files=str(write_parquet(tmp_path / "third", DOCUMENTS[:-1]) / "*.parquet"))
    for each in (spec, elsewhere, changed):
        prepare(each)
    assert settled(spec).corpus_sha256 == settled(elsewhere).corpus_sha256
    assert settled(spec).corpus_sha256 != settled(changed).corpus_sha256
    with pytest.raises(ConfigError, match=r"data\.corpus_sha256=0{64}: allowed is [0-9a-f]{64} or null"):
        settled(replace(spec, corpus_sha256="0" * 64))


def test_other_files_do_not_go_on_with_a_store(spec: TextSpec, tmp_path: Path):
    prepare(spec, share=(1, 2))
    pq.write_table(pa.table({"text": ["more"]}), tmp_path / "hub" / "train-00003.parquet")
    with pytest.raises(UsageError, match="was begun from other files"):
        prepare(spec)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"column": "body"}, r"data\.column=body: allowed is a column of text in .*train-00000\.parquet: id, text"),
        ({"column": "id"}, r"data\.column=id: allowed is a column of text"),
        ({"files": "/nowhere/*.parquet"}, r"data\.files=/nowhere/\*\.parquet: allowed is a glob of files"),
        ({"files": None, "hub": "nobody/nothing"}, r"data\.hub=nobody/nothing: allowed is .*data\.files="),
        (
            {"tokenizer": Tokenizer.given, "tokenizer_name": "no/where", "eos": "</s>"},
            r"data\.tokenizer_name=no/where: allowed is a tokenizer\.json",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(spec: TextSpec, changes: dict, said: str, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=said) as caught:
        prepare(replace(spec, **changes))
    assert "\n" not in str(caught.value)


def test_a_token_that_the_tokenizer_lacks_is_refused(spec: TextSpec, tmp_path: Path):
    name = str(write_tokenizer(tmp_path / "given.json"))
    with pytest.raises(ConfigError, match=r"data\.eos=</s>: allowed is a token of the tokenizer"):
        prepare(replace(spec, tokenizer=Tokenizer.given, tokenizer_name=name, eos="</s>"))


def test_a_line_that_is_no_json_is_named(spec: TextSpec, tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DeltalabError, match=r"bad\.jsonl: no JSON in the line at byte 14"):
        prepare(replace(spec, files=str(tmp_path / "bad.jsonl")))


def test_a_mistake_found_in_a_process_of_the_pool_is_the_same_line(spec: TextSpec, tmp_path: Path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    (tmp_path / "more.jsonl").write_text('{"text": "c"}\n')
    with pytest.raises(ConfigError, match=r"data\.column=text: allowed is a column of text in .*bad\.jsonl: body"):
        prepare(replace(spec, files=str(tmp_path / "*.jsonl")), workers=2)


def test_a_disk_without_room_is_refused_before_anything_is_written(spec: TextSpec, monkeypatch):
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(DiskFull, match=r"GB are needed, 0\.0 GB are free; set DELTALAB_DATA"):
        prepare(spec)
    assert not store_folder(spec).exists()


def test_a_text_that_was_not_prepared_says_how(spec: TextSpec):
    with pytest.raises(NotFoundError, match=r"not prepared \(.*deltalab prepare, with the same data overrides"):
        settled(spec)
    prepare(spec, share=(1, 2))
    with pytest.raises(NotFoundError, match="not prepared to the end"):
        settled(spec)


@pytest.mark.parametrize("workers", [1, 3])
def test_files_that_are_not_what_was_written_are_named_with_what_to_do(spec: TextSpec, workers: int):
    store = prepare(replace(spec, tokenizer=Tokenizer.bpe, bpe_vocab=300))
    told: list[tuple[int, int]] = []
    files = verify(store, workers, lambda done, total: told.append((done, total)))
    assert files == 2 + 6 * len(list(store.glob("shard-*")))
    assert told[-1][0] == told[-1][1] == sum(size for _, size in sizes(store))
    shard = store / "shard-00002/train.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    (store / "shard-00004/test.npy").unlink()
    with pytest.raises(
        DeltalabError, match=r"2 of \d+ files are not .*: shard-00002/train.npy, shard-00004/test.npy; rem"
    ):
        verify(store, workers)
    for name in ("shard-00002", "shard-00004"):
        shutil.rmtree(store / name)
    (store / "manifest.json").unlink()
    assert prepare(replace(spec, tokenizer=Tokenizer.bpe, bpe_vocab=300)) == store
    assert verify(store, workers) == files
    (store / "tokenizer/token_bytes.npy").write_bytes(b"")
    with pytest.raises(DeltalabError, match=r"token_bytes\.npy; remove the whole folder and prepare again"):
        verify(store, workers)


def sizes(store: Path) -> list[tuple[Path, int]]:
    """The files of a store that have checksums, and their bytes."""
    names = ["tokenizer/token_bytes.npy", "tokenizer/tokenizer.json", "shard-*/*.npy"]
    return [(file, file.stat().st_size) for name in names for file in store.glob(name)]


def test_the_shards_that_are_there_can_be_verified_before_the_rest_is(spec: TextSpec):
    store = prepare(spec, share=(1, 2))
    assert verify(store) == 1 + 6 * len(list(store.glob("shard-*")))
    with pytest.raises(NotFoundError, match="nothing is prepared here"):
        verify(store.parent)


def test_a_hub_data_set_goes_on_with_the_revision_it_was_begun_from(spec: TextSpec, tmp_path: Path, monkeypatch):
    """The hub's addresses carry the commit; files of the test answer for them."""
    asked: list[str | None] = []

    def builder(name: str, config: str | None, revision: str | None) -> SimpleNamespace:
        asked.append(revision)
        address = f"hf://datasets/{name}@{revision or newest}/train.parquet"
        return SimpleNamespace(config=SimpleNamespace(data_files={"train": [address]}))

    def opened(file: str):
        return (tmp_path / "hub" / f"train-0000{0 if '@a1/' in file else 1}.parquet").open("rb")

    import datasets

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    monkeypatch.setattr(sources, "_open", opened)
    hub, newest = replace(PLAIN, files=None, hub="lab/texts"), "a1"
    prepare(hub, share=(2, 3))
    newest = "b2"
    store = prepare(hub)
    assert asked == [None, "a1"]
    assert json.loads((store / "manifest.json").read_text())["revision"] == "a1"


def test_small_files_share_a_shard(spec: TextSpec, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sources, "SMALLEST", 2**20)
    store = prepare(replace(PLAIN, files=str(tmp_path / write_text(tmp_path))))
    assert [shard.name for shard in store.glob("shard-*")] == ["shard-00000"]
    assert documents(store, "train") == expected("train")
