"""A task of an array that prepares a text: it makes its shards of the store, as ``deltalab prepare`` does here.

Shards appear whole or not at all. When Slurm asks the task to stop (the signal before the time limit, preemption), what
it is in the midst of is dropped, and the task puts itself back into the queue for the shards that are missing.
"""

import contextlib
import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from deltalab.data.manifest import MANIFEST
from deltalab.data.prepare import make_shards, missing_shards
from deltalab.dispatch.job import STOP_SIGNALS
from deltalab.dispatch.requeue import STANDSTILLS, array_index, await_end, requeue, task_cpus
from deltalab.errors import DeltalabError
from deltalab.spec.data import TextSpec
from deltalab.spec.trial import from_plain
from deltalab.study import submissions
from deltalab.wording import many


class _Stopped(BaseException):
    """Slurm asked this process to stop; nothing on the way up handles it by accident."""


def make_task_shards(folder: Path, offset: int) -> None:
    """Make the shards of this task, and requeue it when it was asked to stop before their end.

    Args:
        folder: the submission's folder, in the runs folder.
        offset: the task of the submission that index 0 of this array stands for.

    Raises:
        DeltalabError: a document cannot be read, the disk is full, or the time limit is too short for one shard.
    """
    submission = submissions.read(folder)
    assert submission.text is not None
    task = offset + array_index()
    numbers, store = [int(number) for number in submission.tasks[task]], Path(submission.store)

    def missing() -> set[int]:
        return {*missing_shards(store)} & {*numbers}

    print(f"{store}: {many(len(missing()), 'shard')} of {len(numbers)} to make", flush=True)
    try:
        with _stops_at_once():
            make_shards(from_plain(TextSpec, submission.text), store, numbers, task_cpus(), _tell)
    except _Stopped:
        for child in multiprocessing.active_children():
            child.kill()
        stops = folder / f"stops-{task}"
        if requeue("the shards that are whole stay", lambda: _refuse_standstill(stops, len(missing()))):
            await_end()
        return
    print(f"{store}: done" + ("; the store is complete" if (store / MANIFEST).is_file() else ""), flush=True)


@contextlib.contextmanager
def _stops_at_once() -> Iterator[None]:
    """Raise ``_Stopped`` in the block at the first signal; those that follow are ignored."""

    def stop(signum: int, frame: FrameType | None) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise _Stopped

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    yield
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _refuse_standstill(file: Path, missing: int) -> None:
    """Fail where a task was interrupted again and again without a shard in between."""
    counts = [*(file.read_text().split() if file.exists() else []), str(missing)]
    file.write_text("\n".join(counts))
    if len(counts) >= STANDSTILLS and len(set(counts[-STANDSTILLS:])) == 1:
        said = f"interrupted {STANDSTILLS} times with {many(missing, 'shard')} missing"
        raise DeltalabError(f"{said}: the time limit is too short for one")


def _tell(done: int, total: int) -> None:
    print(f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB of text", flush=True)
