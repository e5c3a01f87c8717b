"""The plan on the terminal and as JSON."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table

from deltalab.dispatch.progress import duration
from deltalab.model.memory import fitting_strategy, sharers_of, training_memory
from deltalab.spec.launcher import Device, Kind, LauncherSpec
from deltalab.spec.study import Equivalence
from deltalab.study import estimates
from deltalab.study.design import comparison, generators
from deltalab.study.ledger import CellRecord
from deltalab.study.plan import Plan
from deltalab.track.journal import State
from deltalab.track.provenance import gpus
from deltalab.wording import many

WORDS = {State.planned: "would run", State.preempted: "would resume", State.lost: "lost, would resume"}
"""States of a plan that are said otherwise than they are called."""
FIGURES = ("MLP", "parameters", "Δ", "state + cache", "FLOPs/token", "time/trial", "memory")
"""Columns of a plan with a cell's shape and costs."""
SHOWN_IDS = 4
MIN_PREFIX = 5


def make_console(stderr: bool = False) -> Console:
    """Where plans, launches and states are shown; wide enough for them where the output is no terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(width=180, stderr=stderr)


def show_plan(console: Console, plan: Plan, launcher: LauncherSpec) -> None:
    """Print cells, costs, states and warnings."""
    table = Table(title=f"{plan.study.name}: {plan.study.question}".rstrip(": "), title_justify="left")
    factors = list(plan.study.factors)
    for factor in factors:
        table.add_column(factor, no_wrap=True)
    table.add_column("layers", no_wrap=True)
    for column in FIGURES:
        table.add_column(column, justify="right")
    table.add_column("trials")
    table.add_column("ids")
    short = prefixes(plan.specs)
    for place, cell in enumerate(plan.cells):
        levels = [cell.levels.get(factor, "") for factor in factors] or [cell.name]
        if cell.excluded is not None:
            table.add_row(*levels, *[""] * (1 + len(FIGURES)), f"excluded: {cell.excluded}", style="dim")
            continue
        table.add_row(
            *(levels if factors else []),
            " + ".join(f"{count} {layer}" for layer, count in cell.layers.items()),
            str(cell.mlp_width),
            f"{cell.parameters:,}",
            "baseline" if place == 0 and cell.budget is None else f"{cell.mismatch:+.2%}",
            _state(cell),
            f"{cell.flops_per_token:,}",
            *_estimate(plan, cell, launcher),
            _standing(plan, cell),
            _ids([*cell.trials.values()] or [t for seeds in cell.tuning.values() for t in seeds.values()], short),
        )
    console.print(table)
    for line in [*generators(plan.study), *comparison(plan.study), *_totals(plan, launcher)]:
        console.print(line, highlight=False, soft_wrap=True)
    for warning in [*plan.warnings, *beyond_memory(plan, launcher)]:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)


def plan_json(plan: Plan, launcher: LauncherSpec) -> dict[str, Any]:
    """The plan for programs: every cell and trial with what it costs, and the totals."""
    seconds = plan.seconds(plan.specs)
    return {
        "study": plan.study.name,
        "question": plan.study.question,
        "design": plan.study.design.value,
        "generators": generators(plan.study),
        "within": plan.study.within,
        "seeds": plan.study.seeds,
        "cells": [
            {
                "name": cell.name,
                "levels": cell.levels,
                "excluded": cell.excluded,
                "equivalent": cell.equivalent,
                "tuned": cell.tuned,
                "waits_for_tuning": cell.waits,
                "layers": cell.layers,
                "mlp_width": cell.mlp_width,
                "parameters": cell.parameters,
                "budget": cell.budget,
                "budget_vocab": cell.budget_vocab,
                "mismatch": cell.mismatch,
                "state_size": cell.state_size,
                "layer_state": cell.layer_state,
                "state_mismatch": cell.state_mismatch,
                "cache_size": cell.cache_size,
                "flops_per_token": cell.flops_per_token,
                "trials": {seed: _trial_json(plan, trial, launcher) for seed, trial in cell.trials.items()},
                "tuning": {
                    value: {seed: _trial_json(plan, trial, launcher) for seed, trial in seeds.items()}
                    for value, seeds in cell.tuning.items()
                },
            }
            for cell in plan.cells
        ],
        "totals": {
            "trials": len(plan.specs),
            "states": {state.value: count for state, count in Counter(plan.states.values()).items()},
            "worker_seconds": seconds,
            "gpu_hours": _hours(plan, launcher) if on_gpus(launcher) else None,
            "money": _money(plan, launcher),
            "largest_mismatch": max((abs(cell.mismatch) for cell in plan.cells), default=0.0),
        },
        "warnings": [*plan.warnings, *beyond_memory(plan, launcher)],
    }


def prefixes(trials: Iterable[str]) -> dict[str, str]:
    """Trial id → its shortest prefix that names it alone among these."""
    ids = sorted(trials)
    short = {}
    for place, trial in enumerate(ids):
        length = MIN_PREFIX
        for other in ids[max(0, place - 1) : place] + ids[place + 1 : place + 2]:
            while length < len(trial) and other[:length] == trial[:length]:
                length += 1
        short[trial] = trial[:length]
    return short


def _trial_json(plan: Plan, trial: str, launcher: LauncherSpec) -> dict[str, Any]:
    timing = plan.timings.get(trial)
    return {
        "id": trial,
        "state": plan.records[trial].state.value,
        "seconds": None if timing is None else timing.seconds(plan.trials[trial]),
        "memory_bytes": timing.memory if timing else None,
        "memory_counted_bytes": _counted(plan, trial, launcher),
    }


def _state(cell: CellRecord) -> str:
    """Recurrent layers × floats of each, how far these are off, and what attention layers keep."""
    parts = []
    if cell.layer_state:
        off = f" ({cell.state_mismatch:+.2%})" if cell.state_mismatch else ""
        parts.append(f"{cell.state_size // cell.layer_state} × {cell.layer_state:,}{off}")
    if cell.cache_size:
        parts.append(f"{cell.cache_size:,}")
    return " + ".join(parts)


def _estimate(plan: Plan, cell: CellRecord, launcher: LauncherSpec) -> tuple[str, str]:
    """Time and memory of one of the cell's trials; memory that was not measured is counted, and has ≈ before it."""
    trials = [*cell.trials.values(), *(t for seeds in cell.tuning.values() for t in seeds.values())]
    timing = plan.timings.get(trials[0])
    counted = f"≈ {_counted(plan, trials[0], launcher) / 2**30:.1f} GiB"
    if timing is None:
        return "?", counted
    memory = f"{timing.memory / 2**30:.1f} GiB" if timing.memory else counted
    return duration(timing.seconds(plan.trials[trials[0]])), memory


def _counted(plan: Plan, trial: str, launcher: LauncherSpec) -> int:
    """Peak bytes of each of a trial's processes by arithmetic."""
    spec, gpu, processes = plan.trials[trial], on_gpus(launcher), launcher.processes if on_gpus(launcher) else 1
    strategy = fitting_strategy(spec, gpu, processes, launcher.hosts, launcher.gpu_memory)
    return training_memory(spec, gpu, processes, sharers_of(spec.train, strategy, processes, launcher.hosts)).peak


def beyond_memory(plan: Plan, launcher: LauncherSpec) -> list[str]:
    """A line for each shape of trial whose counted memory is more than the launcher says a GPU has."""
    if launcher.gpu_memory is None or not on_gpus(launcher):
        return []
    lines: dict[str, str] = {}
    for trial, spec in plan.trials.items():
        counted = _counted(plan, trial, launcher)
        if counted > launcher.gpu_memory and not plan.records[trial].state.terminal:
            said = f"hydra.launcher.gpu_memory_gb={launcher.gpu_memory_gb:g}: {plan.names[trial]} takes about"
            less = "train.micro_batch_size, train.activation_checkpointing, train.strategy=fsdp or more GPUs lessen it"
            lines.setdefault(estimates.key(spec), f"{said} {counted / 1e9:.1f} GB a GPU; {less}")
    return list(lines.values())


def _standing(plan: Plan, cell: CellRecord) -> str:
    if cell.equivalent is not None and plan.study.equivalence is Equivalence.share:
        return f"equivalent to {cell.equivalent}"
    parts = []
    if cell.tuned is not None and plan.study.tune is not None:
        parts.append(f"{plan.study.tune.key}={cell.tuned}")
    if cell.waits:
        parts.append("waits for tuning: " + _counts(plan, (t for s in cell.tuning.values() for t in s.values())))
    else:
        parts.append(_counts(plan, cell.trials.values()))
    if cell.equivalent is not None:
        parts.append(f"must equal {cell.equivalent}")
    return "; ".join(parts)


def _counts(plan: Plan, trials: Iterable[str]) -> str:
    counts = Counter(plan.records[trial].state for trial in trials)
    return ", ".join(f"{count} {WORDS.get(state, state.value)}" for state, count in counts.items())


def _ids(trials: list[str], short: dict[str, str]) -> str:
    more = f" +{len(trials) - SHOWN_IDS}" if len(trials) > SHOWN_IDS else ""
    return " ".join(short[trial] for trial in trials[:SHOWN_IDS]) + more


def _totals(plan: Plan, launcher: LauncherSpec) -> list[str]:
    """How many trials, in what states, how long and at what cost, and how far the cells' budgets are apart."""
    lines = [
        f"{many(len(plan.specs), 'trial')} over seeds {', '.join(map(str, plan.study.seeds))}: "
        + _counts(plan, plan.specs)
    ]
    steps = {(spec.train.batch_size, spec.data.train_length) for spec in plan.trials.values()}
    if len(steps) == 1:
        ((sequences, length),) = steps
        lines[0] += f", {sequences * length:,} tokens a step"
    if plan.study.tune is not None:
        values = ", ".join(map(str, plan.study.tune.seeds))
        lines.append(
            f"{plan.study.tune.key} is chosen per cell by {plan.study.tune.metric} on seeds {values}"
            + (f"; {many(len(plan.waiting), 'cell', 'waits', 'wait')} for it" if plan.waiting else "")
        )
    if plan.unmeasured:
        lines.append(
            f"time unknown: {many(len(plan.unmeasured), 'shape')} of trial never measured; plan=calibrate measures"
        )
    elif (seconds := plan.seconds(plan.specs)) is not None and seconds > 0:
        lines.append(f"about {_cost(plan, launcher)} to go{' for the trials known so far' if plan.waiting else ''}")
    return lines + _matching([cell for cell in plan.cells if cell.excluded is None])


def _matching(cells: list[CellRecord]) -> list[str]:
    """How far the cells are from what they should be equal in."""
    worst = max(cells, key=lambda cell: abs(cell.mismatch))
    wanted = "the baseline's"
    if worst.budget is not None:
        wanted = f"the budget of {worst.budget:,}"
        wanted += f" with a vocabulary of {worst.budget_vocab:,}" if worst.budget_vocab else ""
    elif len(cells) == 1:
        return []
    if len(cells) > 1 and len({cell.parameters for cell in cells}) == 1:
        return ["parameters are equal in every cell"]
    named = f" at most ({worst.name})" if len(cells) > 1 else ""
    return [f"parameters differ from {wanted} by {abs(worst.mismatch):.2%}{named}"]


def _cost(plan: Plan, launcher: LauncherSpec) -> str:
    hours = _hours(plan, launcher) or 0.0
    said = duration(hours / launcher.processes * 3600) + " of one worker"
    if on_gpus(launcher):
        said += f", {hours:,.2f} GPU-hours"
    money = _money(plan, launcher)
    return said if money is None else f"{said}, {money:,.2f} at {launcher.gpu_hour_price:g} a GPU-hour"


def _hours(plan: Plan, launcher: LauncherSpec) -> float | None:
    seconds = plan.seconds(plan.specs)
    return None if seconds is None else seconds / 3600 * launcher.processes


def _money(plan: Plan, launcher: LauncherSpec) -> float | None:
    hours, price = _hours(plan, launcher) if on_gpus(launcher) else None, launcher.gpu_hour_price
    return None if price is None or hours is None else hours * price


def on_gpus(launcher: LauncherSpec) -> bool:
    """Whether trials take GPUs: on Slurm those asked for, here those that are there."""
    here = launcher.kind is Kind.slurm or bool(gpus())
    return launcher.device is not Device.cpu and launcher.gpus_per_trial > 0 and here
