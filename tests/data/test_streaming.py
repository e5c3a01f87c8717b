"""A streamed text: every token once an epoch, the same batches however it is read, the store that preparing makes."""

import multiprocessing
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltalab.data import prepare as preparing
from deltalab.data import sources
from deltalab.data.batch import IGNORE, Batch, make_task
from deltalab.data.manifest import settled, store_folder
from deltalab.data.prepare import SPLITS, begin, missing_shards, planned_pieces, prepare
from deltalab.data.store import TokenStream
from deltalab.data.streaming import StreamedText, make_alone
from deltalab.errors import ConfigError
from deltalab.spec.data import TextSpec
from tests.data.files import texts, use_empty_cache, write_parquet

LENGTH = 200


@pytest.fixture
def spec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TextSpec:
    """A streamed text of some shards, of which none is there."""
    use_empty_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(sources, "SMALLEST", 3000)
    files = write_parquet(tmp_path / "hub", texts(150)) / "*.parquet"
    return TextSpec(corpus=None, files=str(files), streaming=True, train_length=LENGTH, test_length=30)


def counted(tokens: np.ndarray, targets: np.ndarray) -> Counter[tuple[bytes, bytes]]:
    return Counter((row.tobytes(), wanted.tobytes()) for row, wanted in zip(tokens, targets, strict=True))


def expected(store: Path) -> Counter[tuple[bytes, bytes]]:
    """All windows of all shards."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    for folder in sorted(store.glob("shard-*")):
        tokens = np.load(folder / "train.npy").astype(np.int64)
        windows = -(-(len(tokens) - 1) // LENGTH)
        rows = np.zeros((2, windows * LENGTH), dtype=np.int64)
        rows[1] = IGNORE
        rows[0, : len(tokens) - 1], rows[1, : len(tokens) - 1] = tokens[:-1], tokens[1:]
        found += counted(*rows.reshape(2, windows, LENGTH))
    return found


def batches(task: StreamedText, first: int, last: int, rows: int) -> Batch:
    parts = [task.train_batch(step, rows) for step in range(first, last)]
    return Batch(tokens=np.concatenate([p.tokens for p in parts]), targets=np.concatenate([p.targets for p in parts]))


def left_alone(store: Path) -> Path:
    """The store, once no process makes the next shard in it any more."""
    for process in multiprocessing.active_children():
        process.join()
    return store


def test_an_epoch_reads_every_token_once_in_an_order_of_its_own(spec: TextSpec):
    prepare(spec)
    windows = expected(store_folder(spec))
    size = windows.total()
    task = StreamedText(spec, 3)
    epochs = [batches(task, epoch * size, (epoch + 1) * size, 1) for epoch in (0, 1)]
    for epoch in epochs:
        assert counted(epoch.tokens, epoch.targets) == windows
    assert not np.array_equal(epochs[0].tokens, epochs[1].tokens)
    assert not np.array_equal(epochs[0].tokens, batches(StreamedText(spec, 4), 0, size, 1).tokens)


def test_batches_are_the_same_from_any_step_on_and_when_the_store_was_lost(spec: TextSpec):
    whole = batches(StreamedText(spec, 0), 0, 400, 1)
    assert len(whole.tokens) > 1.5 * expected(store_folder(spec)).total()
    shutil.rmtree(left_alone(store_folder(spec)))
    np.testing.assert_array_equal(batches(StreamedText(spec, 0), 20, 50, 8).tokens, whole.tokens[160:])
    task = StreamedText(spec, 0)
    np.testing.assert_array_equal(batches(task, 40, 50, 8).targets, whole.targets[320:])
    np.testing.assert_array_equal(batches(task, 1, 3, 7).targets, whole.targets[7:21])


def test_what_was_read_is_what_preparing_makes(spec: TextSpec):
    def tree(store: Path) -> dict[str, bytes]:
        return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}

    batches(StreamedText(spec, 0), 0, 300, 1)
    store = left_alone(store_folder(spec))
    assert (store / "manifest.json").exists()
    streamed = tree(store)
    shutil.rmtree(store)
    assert tree(prepare(spec)) == streamed


def test_no_more_is_made_than_is_read_and_evaluation_is_the_same_for_every_seed(spec: TextSpec):
    one, other = StreamedText(spec, 0), StreamedText(spec, 1)
    assert len(missing_shards(one.store)) == len(planned_pieces(one.store)) > 5
    (first,) = one.eval_batches(3, 8)
    assert 0 < len(missing_shards(one.store)) < len(planned_pieces(one.store))
    other.train_batch(30, 4)
    (again,) = other.eval_batches(3, 8)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    prepare(spec)
    whole = TokenStream(one.store, "validation")
    np.testing.assert_array_equal(first.tokens.ravel(), whole.read(0, 90))
    assert sum(len(batch.tokens) for batch in one.eval_batches(10**6, 8)) == (len(whole) - 1) // 30


def test_documents_begin_where_the_batch_says_if_states_are_reset(spec: TextSpec):
    batch = StreamedText(replace(spec, reset=True), 0).train_batch(0, 60)
    assert batch.starts is not None
    after_an_end = batch.tokens[:, :-1] == 256
    np.testing.assert_array_equal(batch.starts[:, 1:], after_an_end & (batch.targets[:, 1:] != IGNORE))
    assert batch.starts.any()


def test_of_many_that_want_a_shard_one_makes_it(spec: TextSpec, monkeypatch: pytest.MonkeyPatch):
    store, made, write = begin(spec), [], preparing._write_shard

    def counting(*given):
        made.append(given)
        write(*given)

    monkeypatch.setattr(preparing, "_write_shard", counting)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: make_alone(spec, store, 2), range(8)))
    assert len(made) == 1
    assert not list(store.glob(".*"))


def test_it_is_resolved_without_being_read_and_another_text_is_refused(spec: TextSpec, tmp_path: Path):
    resolved = settled(spec)
    store = store_folder(spec)
    assert len(missing_shards(store)) == len(planned_pieces(store))
    assert isinstance(make_task(resolved, 0), StreamedText)
    elsewhere = replace(spec, files=str(write_parquet(tmp_path / "other", texts(150)) / "*.parquet"))
    assert settled(elsewhere).corpus_sha256 == resolved.corpus_sha256
    shorter = replace(spec, files=str(write_parquet(tmp_path / "third", texts(120)) / "*.parquet"))
    with pytest.raises(ConfigError, match=r"data\.corpus_sha256=[0-9a-f]{64}: allowed is [0-9a-f]{64} or null"):
        make_task(replace(shorter, corpus_sha256=resolved.corpus_sha256), 0)


def test_a_text_without_a_window_is_refused(spec: TextSpec, tmp_path: Path):
    tiny = replace(spec, files=str(write_parquet(tmp_path / "tiny", ["", "a"], files=1) / "*.parquet"))
    task = StreamedText(tiny, 0)
    splits = {split: len(TokenStream(prepare(tiny), split)) for split in SPLITS}
    assert sum(splits.values()) == 2
    with pytest.raises(ConfigError, match=r"data\.test_length=30: allowed is a longer text's"):
        next(iter(task.eval_batches(1, 1)))
    if not splits["train"]:
        with pytest.raises(ConfigError, match=r"data\.train_length=200: allowed is a longer text's"):
            task.train_batch(0, 1)
