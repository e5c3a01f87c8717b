"""Text: splits, tokens, windows, and a cache that several processes may build at once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deltalab.data.batch import IGNORE
from deltalab.data.cache import build_once, cache_root
from deltalab.data.corpus import corpus_sha256, documents
from deltalab.data.prepare import SPLITS, document_split
from deltalab.data.store import TokenStream
from deltalab.data.text import Text, open_store, window_order
from deltalab.data.tokens import BPEEncoder, ByteEncoder
from deltalab.errors import ConfigError
from deltalab.spec.data import Corpus, TextSpec, Tokenizer
from tests.data.tiny import use_tiny_corpus

BYTES = TextSpec(train_length=20, test_length=30)
BPE = TextSpec(train_length=20, test_length=30, tokenizer=Tokenizer.bpe, bpe_vocab=320)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    """The root of one tiny corpus, and one cache, for all tests of this file."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield use_tiny_corpus(monkeypatch, Path(tmp_path_factory.mktemp("tiny")))


def streams(spec: TextSpec) -> dict[str, np.ndarray]:
    """Split → its token stream."""
    return {split: whole(TokenStream(open_store(spec), split)) for split in SPLITS}


def whole(stream: TokenStream) -> np.ndarray:
    """All tokens of a stream."""
    return stream.read(0, len(stream))


def test_a_split_depends_on_the_name_alone_and_takes_its_share():
    counts = dict.fromkeys(SPLITS, 0)
    for i in range(10_000):
        counts[document_split(f"stdlib/{i}.py", 5.0)] += 1
    assert counts["validation"] == pytest.approx(500, rel=0.2)
    assert counts["test"] == pytest.approx(500, rel=0.2)
    assert document_split("stdlib/json/decoder.py", 5.0) == "validation"
    assert document_split("stdlib/json/encoder.py", 5.0) == "train"


def test_streams_hold_every_document_once_and_in_its_own_split(root: Path):
    found = {split: bytes_of(stream) for split, stream in streams(BYTES).items()}
    assert sorted(text for texts in found.values() for text in texts) == sorted(documents(Corpus.stdlib).values())
    for name, text in documents(Corpus.stdlib).items():
        assert text in found[document_split(name, 5.0)]


def bytes_of(stream: np.ndarray) -> list[str]:
    """The documents of a stream of bytes."""
    ends = np.flatnonzero(stream == 256)
    assert ends[-1] == len(stream) - 1
    starts = [0, *(ends[:-1] + 1)]
    return [stream[start:end].astype(np.uint8).tobytes().decode() for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("spec", [BYTES, BPE], ids=["bytes", "bpe"])
def test_token_bytes_add_up_to_the_text(root: Path, spec: TextSpec):
    token_bytes = np.load(open_store(spec) / "tokenizer/token_bytes.npy")
    assert len(token_bytes) == spec.vocab_size
    assert token_bytes[-1] == 0
    for split, stream in streams(spec).items():
        texts = [text for name, text in documents(spec.corpus).items() if document_split(name, 5.0) == split]
        assert token_bytes[stream].sum() == sum(len(text.encode()) for text in texts)
        assert (stream == spec.vocab_size - 1).sum() == len(texts)


def test_bpe_decodes_to_what_it_encoded(root: Path):
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(open_store(BPE) / "tokenizer/tokenizer.json"))
    stream = streams(BPE)["validation"]
    first = stream[: np.flatnonzero(stream == BPE.vocab_size - 1)[0]]
    texts = documents(BPE.corpus)
    assert tokenizer.decode(first.tolist()) == next(texts[n] for n in texts if document_split(n, 5.0) == "validation")
    assert len(stream) < len(streams(BYTES)["validation"]) / 2


def test_bpe_learns_the_same_from_the_same(root: Path):
    texts = list(documents(Corpus.stdlib).values())
    one, other = (BPEEncoder.learn(320, texts) for _ in range(2))
    np.testing.assert_array_equal(np.concatenate(one.encode(texts)), np.concatenate(other.encode(texts)))
    np.testing.assert_array_equal(one.token_bytes, other.token_bytes)


def test_an_end_of_document_in_the_text_is_text():
    text = "<|endoftext|> Ā"
    assert (ByteEncoder(257).encode([text])[0] == 256).sum() == 1
    assert (BPEEncoder.learn(300, [text]).encode([text])[0] == 299).sum() == 1


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_an_epoch_reads_and_predicts_every_token_once_in_an_order_of_its_own(root: Path, rows: int):
    task, stream = Text(BYTES, 5), streams(BYTES)["train"]
    windows = -(-(len(stream) - 1) // 20)
    batches = [task.train_batch(step, rows) for step in range(-(-2 * windows // rows))]
    tokens, targets = (np.concatenate([getattr(b, name) for b in batches]) for name in ("tokens", "targets"))
    orders = [window_order(5, epoch, windows) for epoch in (0, 1)]
    for epoch, order in enumerate(orders):
        assert sorted(order) == list(range(windows))
        places = slice(epoch * windows, (epoch + 1) * windows)
        back = np.argsort(order)
        predicted = targets[places][back].ravel()
        assert (predicted[len(stream) - 1 :] == IGNORE).all()
        np.testing.assert_array_equal(predicted[: len(stream) - 1], stream[1:])
        np.testing.assert_array_equal(tokens[places][back].ravel()[: len(stream) - 1], stream[:-1])
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], window_order(6, 0, windows))


def test_the_order_is_the_same_for_any_number_of_sequences_a_step(root: Path):
    by_two, by_six = Text(BYTES, 3), Text(BYTES, 3)
    parts = np.concatenate([by_two.train_batch(step, 2).tokens for step in range(30, 36)])
    np.testing.assert_array_equal(parts, np.concatenate([by_six.train_batch(step, 6).tokens for step in (10, 11)]))


def test_targets_are_the_next_tokens(root: Path):
    for batch in [Text(BYTES, 0).train_batch(2, 9), *Text(BYTES, 0).eval_batches(9, 9)]:
        np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    stream = streams(BYTES)["validation"]
    (batch,) = Text(BYTES, 0).eval_batches(5, 5)
    np.testing.assert_array_equal(batch.tokens.ravel(), stream[:150])
    np.testing.assert_array_equal(batch.targets.ravel(), stream[1:151])


def test_evaluation_ends_with_the_split(root: Path):
    windows = (len(streams(BYTES)["validation"]) - 1) // 30
    batches = list(Text(BYTES, 0).eval_batches(10**6, 8))
    assert sum(len(batch.tokens) for batch in batches) == windows
    assert all(batch.tokens.shape[1] == 30 for batch in batches)


def test_another_corpus_is_refused_in_one_line(root: Path):
    mine = corpus_sha256(Corpus.stdlib)
    Text(TextSpec(corpus_sha256=mine), 0)
    with pytest.raises(ConfigError, match=rf"data\.corpus_sha256=0{{64}}: allowed is {mine}") as caught:
        Text(TextSpec(corpus_sha256="0" * 64), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["train_length", "test_length"])
def test_a_window_longer_than_the_split_is_refused(root: Path, key: str):
    with pytest.raises(ConfigError, match=rf"data\.{key}=1000000: allowed is 1 to "):
        Text(TextSpec(**{key: 10**6}), 0)


def test_a_corpus_too_small_to_split_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    root = use_tiny_corpus(monkeypatch, tmp_path)
    for file in sorted(root.rglob("*.py"))[1:]:
        file.unlink()
    with pytest.raises(ConfigError, match=r"data\.train_length=20: allowed is|data\.test_length=30: allowed is"):
        Text(BYTES, 0)


def test_streams_are_made_once(root: Path, monkeypatch: pytest.MonkeyPatch):
    Text(BYTES, 0)
    monkeypatch.delattr("deltalab.data.prepare.read")
    Text(BYTES, 1)


PROGRAM = """
import sys, time
from pathlib import Path
from deltalab.data import corpus
corpus.source_roots = lambda _: {"stdlib": Path(sys.argv[1])}
from deltalab.data.batch import make_task
from deltalab.spec.data import TextSpec, Tokenizer
print("ready", flush=True)
sys.stdin.readline()
task = make_task(TextSpec(tokenizer=Tokenizer.bpe, bpe_vocab=300), 0)
print(task.train_batch(0, 8).tokens.sum(), flush=True)
"""


def test_processes_that_build_the_cache_at_once_all_succeed(root: Path, tmp_path: Path):
    environment = {**os.environ, "DELTALAB_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(root)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    for kind in ("sha256", "stores"):
        assert len(list((tmp_path / kind).iterdir())) == 1, "no half-made copies are left"


def test_the_first_of_two_builders_wins(tmp_path: Path):
    target = tmp_path / "deep" / "made"

    def build(folder: Path, text: str) -> None:
        folder.mkdir()
        (folder / "text").write_text(text)

    def slow(folder: Path) -> None:
        build_once(target, lambda other: build(other, "first"))
        build(folder, "second")

    assert build_once(target, slow) == target
    assert (target / "text").read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["made"]


def test_a_failed_build_leaves_nothing(tmp_path: Path):
    def build(folder: Path) -> None:
        folder.mkdir()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_once(tmp_path / "cache" / "x", build)
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DELTALAB_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("DELTALAB_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_root() == tmp_path / "home/.cache/deltalab"


def test_documents_begin_where_the_batch_says_if_states_are_reset(root: Path):
    plain, reset = Text(BYTES, 5), Text(TextSpec(train_length=200, test_length=30, reset=True), 5)
    assert plain.train_batch(0, 3).starts is None
    for step in range(3):
        batch = reset.train_batch(step, 8)
        assert batch.starts is not None
        after_an_end = batch.tokens[:, :-1] == 256
        np.testing.assert_array_equal(batch.starts[:, 1:], after_an_end & (batch.targets[:, 1:] != IGNORE))
        assert batch.starts.any()
