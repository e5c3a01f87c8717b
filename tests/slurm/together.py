"""Tests that wait for Slurm most of the time, run together: each in a thread, with a desk of its own."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

Started = Mapping[str, "Future[None]"]
AT_A_TIME = 5
"""More would wait for a processor instead."""


def together(scenario: Callable[..., None]) -> Callable[[Started], None]:
    """Make a test of a function of ``desk`` and fixtures; the module's other ones run meanwhile."""

    def collect(started: Started) -> None:
        started[scenario.__name__].result()

    collect.scenario = scenario  # pyright: ignore[reportFunctionMemberAccess]
    collect.__doc__, collect.__name__ = scenario.__doc__, scenario.__name__
    return collect


@contextmanager
def start(module: ModuleType, names: Iterable[str], give: Callable[[str, str], Any]) -> Iterator[Started]:
    """Start a module's scenarios.

    Args:
        module: where they are.
        names: those wanted.
        give: the value of an argument: (name of the scenario, name of the argument) → value.
    """
    scenarios = {name: getattr(getattr(module, name), "scenario", None) for name in names}
    wanted = {name: (run, inspect.signature(run).parameters) for name, run in scenarios.items() if run is not None}
    given = {name: {what: give(name, what) for what in parameters} for name, (_, parameters) in wanted.items()}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(run, **given[name]) for name, (run, _) in wanted.items()}
        pool.shutdown(cancel_futures=True)
