"""The plan as a table on the terminal."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from deltalab.study.plan import Plan


def make_console() -> Console:
    """Where plans, launches and states are shown; wide enough for them where the output is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def show_plan(console: Console, plan: Plan) -> None:
    """Print cells, costs, states and warnings."""
    table = Table(title=f"{plan.study.name}: {plan.study.question}".rstrip(": "), title_justify="left")
    factors = list(plan.study.factors)
    for factor in factors:
        table.add_column(factor)
    for column in ("parameters", "Δ", "state", "cache", "FLOPs/token"):
        table.add_column(column, justify="right")
    table.add_column("trials")
    for place, cell in enumerate(plan.cells):
        levels = [cell.levels[factor] for factor in factors]
        if cell.excluded is not None:
            table.add_row(*levels, *[""] * 5, f"excluded: {cell.excluded}", style="dim")
            continue
        counts = Counter(plan.states[trial].value for trial in cell.trials.values())
        table.add_row(
            *levels,
            f"{cell.parameters:,}",
            "baseline" if place == 0 else f"{cell.mismatch:+.2%}",
            f"{cell.state_size:,}",
            f"{cell.cache_size:,}",
            f"{cell.flops_per_token:,}",
            ", ".join(f"{count} {state}" for state, count in counts.items()),
        )
    console.print(table)
    totals = Counter(state.value for state in plan.states.values())
    console.print(
        f"{len(plan.specs)} trial{'s' * (len(plan.specs) != 1)} over seeds {', '.join(map(str, plan.study.seeds))}: "
        + ", ".join(f"{count} {state}" for state, count in totals.items()),
        highlight=False,
    )
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False)
