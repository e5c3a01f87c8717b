"""Footnotes: what a reader must know of a value before believing it. A note is written once, marked where it holds."""

from collections import Counter, defaultdict

from analysis.collate import Metric, Results
from analysis.statistics import Difference, Estimate, Summary
from deltalab.spec.study import Goal
from deltalab.study.ledger import CellRecord
from deltalab.track.journal import State
from deltalab.wording import listed

SAID = {State.planned: "not started"}
"""States that need other words than their names."""


class Notes:
    """Texts with their marks a, b, c …, in order of first use."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> tuple[str, ...]:
        """The mark of a note, as a tuple; no mark for no text."""
        if not text:
            return ()
        if text not in self._marks:
            letters = "abcdefghijklmnoprstuvwxyz"  # without q, which has no superscript in Unicode
            turn, place = divmod(len(self._marks), len(letters))
            self._marks[text] = letters[place] * (turn + 1)
        return (self._marks[text],)

    @property
    def listed(self) -> list[tuple[str, str]]:
        """(mark, text) of every note."""
        return [(mark, text) for text, mark in self._marks.items()]


def missing_seeds(results: Results, cell: CellRecord) -> str:
    """``2 of 3 seeds: seed 1 diverged``, or nothing where every seed is compared."""
    there = results.compared(cell)
    if len(there) == len(cell.trials):
        return ""
    parts = [
        f"{seeds_in_words(seeds)} {SAID.get(state, state.value)}"
        for state in State
        if (seeds := [seed for seed in results.seeds_in(cell, state) if seed not in there])
    ]
    before = f" before {results.budget.words}" if results.budget else ""
    return f"{len(there)} of {len(cell.trials)} seeds: {', '.join(parts)}{before}"


def ended_later(results: Results, cell: CellRecord) -> str:
    """Seeds that are compared at the budget although they diverged or failed, or have not come to their end, since."""
    there = results.compared(cell)
    parts = [
        f"{seeds_in_words(seeds)} {state.value}"
        for state in State
        if state is not State.completed and (seeds := [seed for seed in results.seeds_in(cell, state) if seed in there])
    ]
    return f"after {results.budget.words}: {', '.join(parts)}" if results.budget and parts else ""


def ended_early(results: Results, cell: CellRecord) -> str:
    """Compared seeds that a limit ended before their last step."""
    rows = results.trials[results.trials["compared"]]
    limited = defaultdict(list)
    for seed, limit in sorted(map(tuple, rows.loc[rows["cell"] == cell.name, ["seed", "early"]].to_numpy().tolist())):
        if limit:
            limited[limit].append(seed)
    return ", ".join(f"{seeds_in_words(seeds)} ended early by {limit}" for limit, seeds in limited.items())


def unequal_tokens(results: Results, cell: CellRecord) -> str:
    """Seeds that were trained on another number of tokens than most of their block, where their ends are compared."""
    if results.budget is not None:
        return ""
    rows = results.trials[results.trials["compared"] & results.trials["cell"].isin(results.block_of(cell))]
    usual = Counter(rows["tokens"]).most_common(1)
    own = rows.loc[rows["cell"] == cell.name, ["seed", "tokens"]].to_numpy()
    other = defaultdict(list)
    for seed, tokens in sorted(map(tuple, own.tolist())):
        if usual and tokens != usual[0][0]:
            other[tokens].append(seed)
    parts = [f"{seeds_in_words(seeds)} trained on {tokens:,} tokens" for tokens, seeds in other.items()]
    return f"{', '.join(parts)}; most trials{results.alike} on {usual[0][0]:,}" if parts else ""


def missing_values(results: Results, cell: CellRecord, metric: Metric, found: Estimate) -> str:
    """Compared seeds whose metric was never logged or is not finite."""
    done = results.compared(cell)
    if found.n == len(done):
        return ""
    values = results.values(metric.name)[cell.name]
    lost = [seed for seed in done if seed not in values]
    came = f"came to {results.budget.words}" if results.budget else "completed"
    return f"{seeds_in_words(lost)} {came} without a finite {metric.name}"


def unequal_steps(results: Results, steps: dict[str, dict[int, int]], cell: CellRecord) -> str:
    """Seeds whose value is of another step than most of the cell's block.

    Args:
        steps: cell → seed → step, see ``Results.last_steps``.
        cell: the cell the note is for.
    """
    counted = Counter(step for name in results.block_of(cell) for step in steps.get(name, {}).values())
    usual = max(counted, key=lambda step: (counted[step], step), default=0)
    other = defaultdict(list)
    for seed, step in sorted(steps.get(cell.name, {}).items()):
        if step != usual:
            other[step].append(seed)
    parts = [f"{seeds_in_words(seeds)} measured at step {step:,}" for step, seeds in other.items()]
    return f"{', '.join(parts)}; most trials{results.alike} at step {usual:,}" if parts else ""


def same_trials(results: Results, cell: CellRecord) -> str:
    """An earlier cell that is the same computation, so that both show the same trials."""
    for earlier in results.cells:
        if earlier.name == cell.name:
            return ""
        if set(earlier.trials.values()) & set(cell.trials.values()):
            return f"the same computation as {results.label(earlier)}: both show the same trials"
    return ""


def tuned(results: Results, cell: CellRecord) -> str:
    """The value that tuning gave a cell, and how, or that it is not chosen yet."""
    tune = results.record.study.get("tune")
    if not tune or not cell.tuning:
        return ""
    how = f"by {tune['metric']} on {seeds_in_words(tune['seeds'])}"
    if cell.waits:
        return f"not run yet: {tune['key']} is being chosen {how}"
    return f"{tune['key']}={cell.tuned}, chosen {how} among {len(cell.tuning)} values"


def unpaired_seeds(difference: Difference) -> str:
    """Seeds left out of the paired comparison."""
    if not difference.unpaired:
        return ""
    if not difference.per_seed:
        return "no seed is completed both here and in the baseline"
    used, lost = seeds_in_words(sorted(difference.per_seed)), seeds_in_words(list(difference.unpaired))
    return (
        f"paired over {used}: {lost} {'is' if len(difference.unpaired) == 1 else 'are'} missing here or in the baseline"
    )


def mismatch(results: Results, cell: CellRecord) -> str:
    """A size that differs from the baseline's by more than the study tolerates."""
    tolerance = results.record.study.get("tolerance", 0.0)
    if abs(cell.mismatch) <= tolerance:
        return ""
    return f"{percent(cell.mismatch)} parameters from {results.reference}, more than the tolerance of {tolerance:.2%}"


BOLD = "Bold: the best mean"
"""How the remark on bold begins, which a reader needs where bold may not be seen."""


def remarks(results: Results, summaries: dict[str, Summary]) -> list[str]:
    """What holds for the whole table: how each number was computed and what it cannot say."""
    primary = results.metrics[0]
    summary = summaries[primary.name]
    most = max((estimate.n for s in summaries.values() for estimate in s.estimates.values()), default=0)
    said = []
    if results.budget:
        said.append(f"Compared at {results.budget.words}: the newest value of each trial that is not beyond it.")
    if most > 1:
        said.append("mean ± half-width of the 95 % t-interval over seeds.")
    elif most == 1:
        so_far = " so far" if any(len(cell.trials) > 1 for cell in results.cells) else ""
        said.append(f"One seed per cell{so_far}: no interval and no p can be given, and a difference may be chance.")
    if summary.differences and most:
        said.append(_difference_remark(results, primary, summary))
    if any(metric.goal for metric in results.metrics) and len(results.cells) > 1 and most:
        said.append(f"{BOLD}{results.alike} among the cells with the most values; ties within rounding are all bold.")
    undirected = [metric.name for metric in results.metrics if metric.goal is None]
    if undirected:
        said.append(f"No best value is marked for {', '.join(undirected)}: the study does not say which way is better.")
    left_out = results.trials.loc[~results.trials["compared"], "state"]
    if any(left_out == State.diverged.value):
        said.append("A diverged seed is a result: means are over the seeds that did not diverge, and so look better.")
    said += _out_of_range(results, summaries)
    said += [f"{block.lacks}." for block in results.blocks if block.lacks]
    said += [f"Not run: {results.label(cell)}, because {cell.excluded}." for cell in results.excluded]
    return said


def effect_remarks(results: Results, crossed: bool) -> list[str]:
    """How effects were computed.

    Args:
        crossed: whether there are interactions among them.
    """
    said = [
        "Effect of a level: per seed, its difference from the baseline's level, averaged over the levels of the other "
        "factors."
    ]
    if crossed:
        said.append("Interaction (a × b): per seed, the difference of differences (ab − a₀b) − (ab₀ − a₀b₀).")
    if results.within:
        said.append(f"No effect of {listed(results.within)} alone: a difference between its levels is none.")
    return [*said, "From two seeds on with a 95 % t-interval, not corrected for the number of effects."]


def _difference_remark(results: Results, primary: Metric, summary: Summary) -> str:
    text = f"Δ {primary.name}: cell − baseline{results.alike}, paired by seed"
    if all(difference.estimate.n < 2 for difference in summary.differences.values()):
        return text + "."
    text += " [95 % t-interval, not corrected for the number of cells]"
    if not summary.family:
        return text + "."
    return f"{text}; p: paired t-test, Holm-corrected over the {summary.family} cells tested."


def _out_of_range(results: Results, summaries: dict[str, Summary]) -> list[str]:
    """The t-interval does not know that an accuracy ends at 1 and a loss at 0."""
    reaching = [m.name for m in results.metrics if _reaches_out(m, list(summaries[m.name].estimates.values()))]
    if not reaching:
        return []
    return [
        f"Some intervals of {', '.join(reaching)} reach past what the metric can be: a t-interval takes the seeds as "
        "normally distributed, which a few seeds near a bound are not."
    ]


def _reaches_out(metric: Metric, found: list[Estimate]) -> bool:
    accuracy = "accuracy" in metric.name.split("/")
    if not accuracy and metric.goal is not Goal.min:
        return False
    return any(e.low < 0 <= e.mean or (accuracy and e.high > 1 >= e.mean) for e in found)


def seeds_in_words(seeds: list[int]) -> str:
    """``seed 1``, ``seeds 0, 2``."""
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def percent(share: float) -> str:
    """``+1.35 %`` with a true minus."""
    return f"{share:+.2%}".replace("-", "−")
