"""The journal of a running trial, written from a thread of its own: no step waits for a file system."""

import queue
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Self

from deltalab.track.journal import Journal


class Recorder:
    """Appends to a journal in the order it is told, soon after. The thread runs inside the ``with`` block.

    What appending raised (the disk is full, the claim is lost) is raised by the next call of a method, or at the end of
    the block; nothing is written after it.

    Args:
        journal: what is appended to.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lines: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._lines.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """See ``Journal.metrics``."""
        self._tell(partial(self._journal.metrics, step, values))

    def evaluation(self, step: int, values: dict[str, float], **details: Any) -> None:
        """See ``Journal.evaluation``."""
        self._tell(partial(self._journal.evaluation, step, values, **details))

    def note(self, step: int, text: str, **details: Any) -> None:
        """See ``Journal.note``."""
        self._tell(partial(self._journal.note, step, text, **details))

    def check(self) -> None:
        """Wait until all is written, then ``Journal.check``."""
        self._lines.join()
        self._raise()
        self._journal.check()

    def _tell(self, line: Callable[[], None]) -> None:
        self._raise()
        self._lines.put(line)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                if self._error is None:
                    line()
            except Exception as error:
                self._error = error
            finally:
                self._lines.task_done()
