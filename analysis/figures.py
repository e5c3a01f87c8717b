"""The pictures of a report, for which there is data.

values       the primary metric: every seed, mean and 95 % t-interval
differences  the same against the baseline, paired by seed
effects      main effects (studies of several factors)
slices       accuracy by position in the sequence (tasks that report it)
curves       training loss, mean over completed seeds with the band from the lowest to the highest
"""

from analysis.canvas import Picture, style
from analysis.collate import Results
from analysis.dots import differences_picture, effects_picture, values_picture
from analysis.lines import curves_picture, loss_of, slices_of, slices_picture
from analysis.statistics import Summary


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
        if slices := slices_of(results):
            drawn.append(slices_picture(results, *slices))
        if loss := loss_of(results):
            drawn.append(curves_picture(results, loss))
    return drawn
