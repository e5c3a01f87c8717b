"""How fast texts are prepared and read: ``python -m benchmarks.data``.

Preparing: the source of Python's standard library four times over, as parquet, by a BPE of 32,000 tokens that was
learnt before the clock starts; processes and their start are counted. Reading: batches of 128 sequences of 4,096
tokens as a trial reads them, from a store of bytes that the machine may keep in memory; one process.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deltalab.data.corpus import documents
from deltalab.data.manifest import read_manifest, settled
from deltalab.data.prepare import prepare
from deltalab.data.text import Text
from deltalab.spec.data import Corpus, TextSpec, Tokenizer

TIMES = 4
READ, PREPARED = 100e6, 0.8e6
"""Tokens a second that are to be reached: by a reading process, by two preparing ones."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DELTALAB_DATA"] = str(Path(folder) / "stores")
        texts = list(documents(Corpus.stdlib).values())
        for number in range(TIMES):
            part = [f"# {number}\n{text}" for text in texts]
            pq.write_table(pa.table({"text": part}), Path(folder) / f"{number}.parquet", row_group_size=50)
        spec = TextSpec(corpus=None, files=f"{folder}/*.parquet", train_length=4096)
        preparing = [_prepared(spec, arguments.workers, number) for number in range(arguments.repeats)]
        _tell(f"prepared by {arguments.workers} processes", preparing, PREPARED)
        prepare(spec)
        task = Text(settled(spec), 0)
        _tell("read by one process", [_read(task) for _ in range(arguments.repeats)], READ)


def _prepared(spec: TextSpec, workers: int, number: int) -> float:
    """Tokens a second; every repeat has a store of its own, which holds out a little more."""
    spec = replace(spec, tokenizer=Tokenizer.bpe, bpe_vocab=32_000, held_out=5.0 + number / 100)
    prepare(spec, share=(10**6, 10**6))  # no shard: the plan and the tokenizer
    start = time.perf_counter()
    prepare(spec, workers=workers)
    seconds = time.perf_counter() - start
    return sum(split["tokens"] for split in read_manifest(spec)["splits"].values()) / seconds


def _read(task: Text, rows: int = 128, steps: int = 50) -> float:
    task.train_batch(0, rows)
    start = time.perf_counter()
    tokens = sum(task.train_batch(step, rows).tokens.size for step in range(steps))
    return tokens / (time.perf_counter() - start)


def _tell(what: str, rates: list[float], wanted: float) -> None:
    low, middle, high = sorted(rates)[0], sorted(rates)[len(rates) // 2], sorted(rates)[-1]
    print(f"{what}: {middle / 1e6:.2f}M tokens/s ({low / 1e6:.2f} to {high / 1e6:.2f}), wanted {wanted / 1e6:.1f}M")


if __name__ == "__main__":
    main()
