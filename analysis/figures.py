"""The pictures of a report, for which there is data.

values        the primary metric: every seed, mean and 95 % t-interval
differences   the same against the baseline, paired by seed
effects       main effects (studies of several factors)
interactions  every two factors together (studies that cross them)
rates         the primary or the tuned metric by learning rate (studies that vary or tune it)
state, speed  the primary metric against state and cache, and against training speed, with the Pareto front
slices        accuracy by position, gap, depth or order (tasks that report it)
lengths       accuracy by length of a task (trials evaluated on a suite)
curves        training loss, mean over completed seeds with the band from the lowest to the highest
"""

from analysis.canvas import Picture, style
from analysis.collate import Results
from analysis.crossing import interactions_picture
from analysis.dots import differences_picture, effects_picture, values_picture
from analysis.lengths import lengths_of, lengths_picture
from analysis.lines import curves_picture, loss_of, slices_of, slices_picture
from analysis.rates import rates_picture, sensitivity
from analysis.statistics import Summary
from analysis.tradeoff import costs, tradeoff_picture


def draw_all(results: Results, summaries: dict[str, Summary]) -> list[Picture]:
    """Every picture there is data for, in the order of the report."""
    primary = results.metrics[0]
    summary = summaries[primary.name]
    drawn = []
    with style():
        if any(found.n for found in summary.estimates.values()):
            drawn.append(values_picture(results, primary, summary))
        if any(difference.estimate.n for difference in summary.differences.values()):
            drawn.append(differences_picture(results, primary, summary))
        if len(results.factors) > 1 and any(e.estimate.n and len(e.levels) == 1 for e in summary.effects):
            drawn.append(effects_picture(results, primary, summary))
        if together := interactions_picture(results, primary):
            drawn.append(together)
        if rates := sensitivity(results):
            drawn.append(rates_picture(rates))
        if primary.goal and any(found.n for found in summary.estimates.values()):
            drawn += [tradeoff_picture(results, primary, summary, cost) for cost in costs(results)]
        if slices := slices_of(results):
            drawn.append(slices_picture(results, *slices))
        if lengths := lengths_of(results):
            drawn.append(lengths_picture(results, lengths))
        if loss := loss_of(results):
            drawn.append(curves_picture(results, loss))
    return drawn
