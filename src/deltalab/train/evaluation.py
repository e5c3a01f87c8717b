"""Run one evaluation: ``run_evaluation`` measures a trial's weights on a task, unit by unit.

The results go to the measured trial's journal, each as soon as it is there; whoever measures the same trial on another
task beside it waits for a moment. The evaluation's own journal tells its states and how many units are done.
"""

import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from deltalab.errors import Busy, NotFoundError
from deltalab.evals.results import (
    Result,
    conditions,
    dtype_name,
    find_result,
    journal_result,
    measure_unit,
    step_of_weights,
    weights_sha256,
)
from deltalab.evals.suites import suite_units
from deltalab.spec.evaluation import EvaluationSpec
from deltalab.spec.launcher import Device
from deltalab.spec.trial import TrialSpec
from deltalab.track import journal
from deltalab.track.claim import STALE_SECONDS, claimed
from deltalab.track.journal import Journal, State
from deltalab.train.checkpoint import WEIGHTS
from deltalab.train.disk import is_full, resumable_when_full
from deltalab.train.distributed import pick_device
from deltalab.train.weights import load_weights

PATIENCE_SECONDS = 2 * STALE_SECONDS
"""How long a result waits for others that are just being written to the same journal."""


def run_evaluation(
    spec: EvaluationSpec,
    trial: TrialSpec,
    run_dir: Path,
    device: Device,
    stop: Callable[[], bool],
    claim: Callable[[], None],
) -> State:
    """Measure what the trial's journal does not have yet.

    Args:
        spec: the frozen evaluation.
        trial: what the trial was trained by.
        run_dir: the evaluation's own, beside the trial's; the caller holds its claim.
        device: auto takes a GPU where there is one.
        stop: asked before every unit; True ends the run, which goes on with the next unit when it is run again.
        claim: the check of the claim, made before anything is written.

    Returns:
        ``completed`` or ``preempted``.

    Raises:
        Busy: the claim is lost, or another process trains or measures the trial for minutes.
        DiskFull: there is no room for the journals; the evaluation can be resumed.
        Exception: whatever failed, after the journal says so.
    """
    with resumable_when_full(run_dir, True, claim):
        log = Journal(run_dir, claim)
        try:
            return _measure(spec, trial, run_dir, device, stop, log)
        except Exception as error:
            if not is_full(error) and not isinstance(error, Busy):
                said = traceback.format_exception_only(error)[-1].strip()
                log.state(State.failed, error=said, traceback=traceback.format_exc())
            raise


def _measure(
    spec: EvaluationSpec, trial: TrialSpec, run_dir: Path, device: Device, stop: Callable[[], bool], log: Journal
) -> State:
    measured = run_dir.parent / spec.trial
    weights = measured / WEIGHTS
    if not weights.is_file():
        raise NotFoundError(f"{weights}: not there; what is measured has completed")
    where = pick_device(device)
    units = suite_units(spec.suite, trial.data, measured)
    log.state(State.running, device=str(where), threads=torch.get_num_threads(), steps=len(units))
    model = load_weights(weights, trial, None if spec.dtype is None else getattr(torch, spec.dtype), where)
    dtype, sha256, step = dtype_name(model), weights_sha256(weights), step_of_weights(journal.read(measured), trial)
    for done, unit in enumerate(units):
        if stop():
            log.state(State.preempted, step=done)
            return State.preempted
        wanted = conditions(unit, spec.suite.suite, dtype, sha256)
        result = find_result(journal.read(measured).evaluations, step, wanted)
        if result is None:
            result = measure_unit(unit, model, step, wanted)
            deliver(measured, result)
        log.metrics(done + 1, result["values"])
    log.state(State.completed, step=len(units))
    return State.completed


def deliver(measured: Path, result: Result) -> None:
    """Put a result into the journal of the trial it is of, unless another process was faster.

    Raises:
        Busy: another process holds the trial for minutes.
    """
    with claimed(measured, PATIENCE_SECONDS) as claim:
        wanted = {key: value for key, value in result.items() if key != "values"}
        if find_result(journal.read(measured).evaluations, result["step"], wanted) is None:
            journal_result(Journal(measured, claim), result)
