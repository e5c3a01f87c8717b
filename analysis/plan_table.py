"""The plan as the report shows it: every cell of the study, with what it sets, its size and its trials."""

from analysis.collate import Results
from analysis.notes import Notes, percent, seeds_in_words
from analysis.numbers import count
from analysis.tables import Column, Item, Table
from deltalab.study.ledger import CellRecord


def plan_table(results: Results) -> Table:
    """A row per planned cell; those that are not run say why."""
    book, cells = Notes(), [*results.cells, *results.excluded]
    cached, widths = any(cell.cache_size for cell in cells), any(cell.mlp_width for cell in cells)
    heads = [*results.factors, "sets", *(["MLP width"] if widths else []), "params", "off", "state"]
    heads += [*(["cache"] if cached else []), "FLOPs per token", "trials"]
    rows = []
    for cell in cells:
        row = [Item(text=level, sort=level) for level in cell.levels.values()]
        row[0] = Item(text=row[0].text, sort=row[0].sort, marks=book.mark(_why(cell)))
        row.append(Item(text=_sets(results, cell), sort=None))
        sizes = [*([cell.mlp_width] if widths else []), cell.parameters]
        row += [Item(text=count(size), sort=size) for size in sizes]
        row.append(Item(text=percent(cell.mismatch), sort=cell.mismatch))
        sizes = [cell.state_size, *([cell.cache_size] if cached else []), cell.flops_per_token]
        row += [Item(text=count(size), sort=size) for size in sizes]
        row.append(Item(text=seeds_in_words(sorted(cell.trials)) if cell.trials else "none", sort=len(cell.trials)))
        rows.append(row)
    left = len(results.factors) + 1
    columns = [
        Column(title=head, part="cell", right=left <= place < len(heads) - 1) for place, head in enumerate(heads)
    ]
    remark = (
        f"Off: parameters against the budget, or against {results.reference} where there is none. "
        "State and cache in floats."
    )
    common = results.record.study.get("overrides") or {}
    remarks = [remark] + ([f"Every cell: {_written(common)}."] if common else [])
    return Table(title="Plan", columns=columns, rows=rows, notes=book.listed, remarks=remarks)


def _why(cell: CellRecord) -> str:
    if cell.excluded is not None:
        return f"not run: {cell.excluded}"
    return "not run yet: tuning has not chosen for it" if cell.waits else ""


def _sets(results: Results, cell: CellRecord) -> str:
    """What the cell's levels set, beyond what every cell has."""
    chosen: dict[str, object] = {}
    for factor, levels in results.record.study["factors"].items():
        chosen |= levels.get(cell.levels[factor]) or {}
    return _written(chosen)


def _written(keys: dict[str, object]) -> str:
    """``variant=kda train.lr=0.01``."""
    return " ".join(f"{key}={_plain(value)}" for key, value in keys.items())


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
