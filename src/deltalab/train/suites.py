"""The suites of ``eval.suites`` as a trial trains: the units, results and journal lines of ``deltalab eval``.

Where several ranks train the trial, each measures every so-manieth unit with its replica, and the main rank writes.
"""

from collections.abc import Callable
from pathlib import Path

from deltalab.evals.results import Result, conditions, dtype_name, find_result, journal_result, measure_unit
from deltalab.evals.suites import suite_units
from deltalab.evals.unit import Unit
from deltalab.model.language_model import LanguageModel
from deltalab.spec.suite import Suite
from deltalab.spec.trial import TrialSpec
from deltalab.track import journal
from deltalab.train.distributed import World
from deltalab.train.recorder import Recorder


class TrialSuites:
    """What a trial is measured on beside its own held-out sequences.

    Args:
        spec: the frozen trial.
        run_dir: its run directory, with the tokenizer, if one was learnt.
        log: where results are written.
        world: the ranks that train it.

    Raises:
        ConfigError: a task or length that the suite does not have; said before anything is trained.
    """

    def __init__(self, spec: TrialSpec, run_dir: Path, log: Recorder, world: World) -> None:
        self._spec, self._run_dir, self._log, self._world = spec, run_dir, log, world
        self._units: list[tuple[Suite, Unit]] = [
            (asked.suite, unit) for asked in spec.eval.asked for unit in suite_units(asked, spec.data, run_dir)
        ]

    def due(self, step: int) -> bool:
        """Whether the suites are asked for after this step, which is not the last."""
        return bool(self._units) and step > 0 and step % (self._spec.eval.suite_every or step + 1) == 0

    def measure(self, model: LanguageModel, step: int, stop: Callable[[], bool], weights: str | None = None) -> bool:
        """Measure and journal what is not in the journal yet, so that an interrupted trial goes on where it was.

        Args:
            model: as it is after ``step`` steps, in its own precision.
            step: optimiser steps done.
            stop: asked before every unit; True on one rank ends the measuring on all.
            weights: hash of the file of final weights; None before.

        Returns:
            Whether everything is measured.
        """
        wanted = [conditions(unit, suite, dtype_name(model), weights) for suite, unit in self._units]
        known = []
        if self._world.main:
            self._log.check()  # what was told before is in the journal
            known = journal.read(self._run_dir).evaluations
        open_ = self._world.share([n for n, one in enumerate(wanted) if find_result(known, step, one) is None])
        rank, size = self._world.rank, self._world.size
        for turn in (open_[start : start + size] for start in range(0, len(open_), size)):
            if self._world.any(stop()):
                return False
            mine: Result | None = None
            if rank < len(turn):
                mine = measure_unit(self._units[turn[rank]][1], model, step, wanted[turn[rank]])
            for result in filter(None, self._world.gather(mine)):
                if self._world.main:
                    journal_result(self._log, result)
        return True
