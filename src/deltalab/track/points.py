"""Every point of a trial as columns: what tables and curves are made of. No torch.

``journal.read`` makes a dictionary of each metric, which is right for one trial; a study of a thousand trials with
twenty metrics has twenty million points, and those are arrays here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deltalab.track import journal
from deltalab.track.journal import Record, State


@dataclass(frozen=True, kw_only=True)
class Points:
    """One metric of one trial, by step; a step logged again after a resume counts once, the newest.

    Attributes:
        step: (N,) int64, ascending.
        value: (N,) float64.
        seconds: (N,) float64, running time of the trial when the point was logged; NaN where nobody knows.
    """

    step: np.ndarray
    value: np.ndarray
    seconds: np.ndarray


@dataclass(frozen=True, kw_only=True)
class History:
    """What is known of a trial: its record (of whose ``metrics`` only the newest are there) and all of its points."""

    record: Record = field(default_factory=Record)
    points: Mapping[str, Points] = field(default_factory=dict)


def history(run_dir: Path) -> History:
    """The history of a run directory (an empty one, ``planned``, where nothing has run)."""
    try:
        content = (run_dir / journal.FILE).read_bytes()
    except OSError:
        return History()
    record = journal.glance_at(content)
    whole = content[: content.rfind(b"\n") + 1]
    table = _arrow(whole) if whole else None
    return History(record=record, points=_of_lines(run_dir) if table is None else _of_table(table))


def latest(step: np.ndarray, value: np.ndarray, seconds: np.ndarray) -> Points:
    """Points in the order they were logged, as ``Points``."""
    if not (step[1:] > step[:-1]).all():
        step, places = np.unique(step[::-1], return_index=True)
        places = value.size - 1 - places
        value, seconds = value[places], seconds[places]
    return Points(step=step, value=value, seconds=seconds)


def _arrow(lines: bytes) -> Any:
    """The journal as an Arrow table, a row per line, in a quarter of ``json``'s time.

    None where Arrow refuses: it knows neither NaN nor a line that a killed process left half-written.
    """
    import pyarrow as pa
    from pyarrow import json as arrow_json

    options = arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1)  # a block's types hold for the next
    try:
        table = arrow_json.read_json(pa.BufferReader(lines), read_options=options)
    except pa.ArrowInvalid:
        return None
    typed = {"t": pa.types.is_floating, "event": pa.types.is_string, "state": pa.types.is_string}
    usable = all(name in table.column_names and is_it(table.schema.field(name).type) for name, is_it in typed.items())
    return table.combine_chunks() if usable else None


def _of_table(table: Any) -> dict[str, Points]:
    if "values" not in table.column_names:
        return {}
    seconds = _running(table["t"].to_numpy(), table["state"].to_pylist())
    logged = ~np.asarray(table["values"].is_null())
    values = table["values"].combine_chunks()
    steps = table["step"].to_numpy(zero_copy_only=False)
    found, everywhere = {}, None
    for place, metric in enumerate(values.type):
        column = values.field(place)
        there = logged & ~np.asarray(column.is_null())
        there = logged if np.array_equal(there, logged) else there
        value = column.to_numpy(zero_copy_only=False).astype(np.float64)[there]
        if everywhere is None or there is not logged:
            points = latest(steps[there].astype(np.int64), value, seconds[there])
        else:
            points = replace(everywhere, value=value)
        if there is logged and points.value is value:
            everywhere = points  # metrics logged together share the other two columns
        found[metric.name] = points
    return found


def _of_lines(run_dir: Path) -> dict[str, Points]:
    """The same line by line, for the journals that Arrow refuses."""
    lines = journal.entries(run_dir)[0]
    seconds = _running(np.array([line["t"] for line in lines]), [line.get("state") for line in lines])
    found: dict[str, list[tuple[int, float, float]]] = {}
    for line, moment in zip(lines, seconds, strict=True):
        if line["event"] in journal.MEASURED:
            for name, value in line["values"].items():
                found.setdefault(name, []).append((line["step"], math.nan if value is None else value, moment))
    columns = {name: np.array(rows, dtype=np.float64).T for name, rows in found.items()}
    return {name: latest(step.astype(np.int64), value, time) for name, (step, value, time) in columns.items()}


def _running(moments: np.ndarray, states: list[str | None]) -> np.ndarray:
    """Seconds of running time at each line, summed over executions as ``journal.extend`` sums them."""
    changes = [place for place, state in enumerate(states) if state is not None]
    counts = np.zeros(len(moments), dtype=bool)
    for place, following in zip(changes, [*changes[1:], len(moments)], strict=False):
        counts[place + 1 : following + 1] = states[place] == State.running.value
    resumed = [place for place in changes if states[place] == State.running.value]
    counts[resumed] = False  # what went by before a resume was not running time
    gained = np.maximum(0.0, np.diff(moments, prepend=moments[:1]))
    return np.cumsum(np.where(counts, gained, 0.0))
