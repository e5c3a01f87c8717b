"""The statistics in full precision, for CSV and JSON: empty where a number cannot be given."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import notes
from analysis.collate import Results
from analysis.pooled import Interval
from analysis.statistics import Estimate, Summary
from analysis.tables import Table, effect_label
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import State

EFFECT_COLUMNS = [
    "metric", "kind", "effect", "estimate", "low", "high", "sd", "seeds", "combinations", "combinations_left_out",
    "pooled", "pooled_low", "pooled_high", "pooled_by",
]  # fmt: skip


def raw_table(results: Results, summaries: dict[str, Summary]) -> pd.DataFrame:
    """The comparison in full precision, a row per cell; empty where a number cannot be given."""
    return pd.DataFrame([_raw_row(results, cell, summaries) for cell in results.cells])


def to_json(results: Results, summaries: dict[str, Summary], table: Table) -> str:
    """The same for programs, with the footnotes, remarks and provenance of the table; null where there is no number."""
    rows = json.loads(raw_table(results, summaries).to_json(orient="records", double_precision=15) or "[]")
    said = {"notes": dict(table.notes), "remarks": table.remarks, "provenance": table.provenance}
    budget = str(results.budget) if results.budget else None
    trials = {cell.name: cell.trials for cell in results.cells}
    plain = {
        "study": results.record.name,
        "at": budget,
        "within": results.within,
        "cells": rows,
        "trials": trials,
        **said,
    }
    return json.dumps(plain, indent=1) + "\n"


def _raw_row(results: Results, cell: CellRecord, summaries: dict[str, Summary]) -> dict[str, Any]:
    base = results.baselines[cell.name]
    row: dict[str, Any] = {
        "cell": cell.name,
        **{f"level.{factor}": level for factor, level in cell.levels.items()},
        "baseline": cell.name == base,
        "compared_with": base if base != cell.name else None,
        "seeds_planned": len(cell.trials),
        "seeds_completed": len(results.seeds_in(cell, State.completed)),
        "seeds_compared": len(results.compared(cell)),
        "parameters": cell.parameters,
        "mismatch": cell.mismatch,
        "state_size": cell.state_size,
        "cache_size": cell.cache_size,
        "flops_per_token": cell.flops_per_token,
    }
    for metric, summary in summaries.items():
        found = summary.estimates[cell.name]
        row |= {f"{metric}:{name}": getattr(found, name) for name in ("mean", "sd", "n", "low", "high")}
        against = summary.differences.get(cell.name)
        if summary.differences:
            shift = against.estimate if against else Estimate()
            row |= {
                f"{metric}:difference": shift.mean,
                f"{metric}:difference_low": shift.low,
                f"{metric}:difference_high": shift.high,
                f"{metric}:pairs": shift.n if against else None,
                f"{metric}:p": against.p if against else None,
                f"{metric}:p_holm": against.holm if against else None,
                f"{metric}:hedges_g_z": against.g if against else None,
                **_pooled(f"{metric}:pooled", summary, {cell.name: 1.0, str(base): -1.0} if against else {}),
            }
    said = (notes.missing_seeds, notes.ended_later, notes.ended_early, notes.unequal_tokens)
    row["notes"] = "; ".join(filter(None, (note(results, cell) for note in said)))
    return row


def _pooled(name: str, summary: Summary, weights: Mapping[str, float]) -> dict[str, Any]:
    """A contrast with pooled noise, and the model it is of."""
    found = summary.model.contrast(weights) if summary.model is not None else Interval()
    kind = summary.model.kind if summary.model is not None and weights else None
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_by": kind}


def raw_effects(summaries: dict[str, Summary]) -> pd.DataFrame:
    """Effects of every metric in full precision."""
    rows = [
        {
            "metric": metric,
            "kind": "main" if len(effect.levels) == 1 else "interaction",
            "effect": effect_label(effect),
            "estimate": effect.estimate.mean,
            "low": effect.estimate.low,
            "high": effect.estimate.high,
            "sd": effect.estimate.sd,
            "seeds": effect.estimate.n,
            "combinations": len(effect.averaged),
            "combinations_left_out": len(effect.left_out),
            **_pooled("pooled", summary, effect.contrast),
        }
        for metric, summary in summaries.items()
        for effect in summary.effects
    ]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)
