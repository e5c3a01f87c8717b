"""The time that the rows of a benchmark have, kept with an alarm."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

LONGER = 1.25
"""Our rows may come until so many times the budget."""


class OutOfTime(BaseException):
    """The time budget is spent; no ``Exception``, for tuners take those for a configuration that does not work."""


@dataclass(frozen=True)
class Budget:
    """Seconds from the start that the peer's rows have; ours have ``LONGER`` times as many."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    def left(self, who: str) -> float:
        """Seconds that the rows of ``who`` still have."""
        return self.seconds * (LONGER if who == "ours" else 1) - (time.monotonic() - self.start)

    @contextmanager
    def limit(self, who: str) -> Iterator[None]:
        """Break off what runs inside when no time is left.

        Raises:
            OutOfTime: none is.
        """
        if self.left(who) <= 0:
            raise OutOfTime

        def stop(_number: int, _frame: FrameType | None) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(self.left(who), 1e-3), 1.0)  # again, where one was swallowed
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
