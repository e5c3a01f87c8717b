"""Batches made ahead: a thread builds the next ones while the device computes the present one.

A batch is a pure function of the seed and the step, so who builds it, and when, changes no number.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from deltalab.data.batch import Task

AHEAD = 2
"""Batches that lie ready at most."""
POLL_SECONDS = 0.2
"""How soon the thread notices that nobody wants another batch."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """A rank's part of a batch, where it is computed.

    Attributes:
        tokens: int64 [b, T], b of the batch's B sequences.
        targets: int64 [b, T], ``IGNORE`` where nothing is scored.
        starts: bool [b, T], where documents begin that know nothing of the one before; None where none does.
        scored: targets of the whole batch.
    """

    tokens: Tensor
    targets: Tensor
    starts: Tensor | None
    scored: int

    def parts(self, count: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Tokens, targets and starts of ``count`` parts of the same number of sequences."""
        starts = [None] * count if self.starts is None else self.starts.chunk(count)
        return zip(self.tokens.chunk(count), self.targets.chunk(count), starts, strict=True)


class Feed:
    """The batches of a trial from a step on, in order. The thread runs inside the ``with`` block.

    Args:
        task: where they come from.
        batch_size: sequences of a batch, over all ranks.
        rows: this rank's part of them.
        device: where they are computed; to a GPU they are copied from pinned memory, which nobody waits for.
        steps: the steps that want one.
        ahead: batches that lie ready at most; 0 makes each when it is taken, without a thread.
    """

    def __init__(
        self, task: Task, batch_size: int, rows: slice, device: torch.device, steps: range, ahead: int = AHEAD
    ) -> None:
        self._task, self._batch_size, self._rows, self._device, self._steps = task, batch_size, rows, device, steps
        self._ready: queue.Queue[Share | Exception] | None = queue.Queue(ahead) if ahead else None
        self._left = iter(steps)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="feed", daemon=True)

    def __enter__(self) -> Self:
        if self._ready is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._ready is not None:
            self._thread.join()

    def take(self) -> Share:
        """The next step's share, on the device.

        Raises:
            Exception: whatever its making raised.
        """
        made = self._made(next(self._left)) if self._ready is None else self._ready.get()
        if isinstance(made, Exception):
            raise made
        return Share(
            tokens=self._moved(made.tokens),
            targets=self._moved(made.targets),
            starts=None if made.starts is None else self._moved(made.starts),
            scored=made.scored,
        )

    def _fill(self) -> None:
        for step in self._steps:
            try:
                made = self._made(step)
            except Exception as error:
                made = error
            if not self._put(made) or isinstance(made, Exception):
                return

    def _put(self, made: Share | Exception) -> bool:
        assert self._ready is not None
        while not self._ended.is_set():
            try:
                self._ready.put(made, timeout=POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def _made(self, step: int) -> Share:
        batch = self._task.train_batch(step, self._batch_size)
        parts = (batch.tokens, batch.targets, batch.starts)
        tokens, targets, starts = (None if p is None else self._pinned(torch.from_numpy(p[self._rows])) for p in parts)
        assert tokens is not None
        assert targets is not None
        return Share(tokens=tokens, targets=targets, starts=starts, scored=int(batch.scored.sum()))

    def _pinned(self, x: Tensor) -> Tensor:
        return x.pin_memory() if self._device.type == "cuda" else x

    def _moved(self, x: Tensor) -> Tensor:
        return x.to(self._device, non_blocking=True)
