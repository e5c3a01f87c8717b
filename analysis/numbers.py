"""Numbers as a reader wants them: as many digits as the seeds support, the same in a whole column."""

import math
from collections.abc import Iterable

from analysis.statistics import Estimate

MISSING = "–"
MINUS = "−"
MOST_DIGITS = 6


def decimals(estimates: Iterable[Estimate]) -> int:
    """Decimal places for a column: what the typical standard error supports, at least three digits of the values.

    A standard error is worth two digits when it starts with 1 or 2, else one. Without any (one seed): four significant
    digits of the largest value.
    """
    known = [e for e in estimates if e.n]
    errors = sorted(e.sd / math.sqrt(e.n) for e in known if e.sd > 0)
    top = max((abs(e.mean) for e in known if e.mean), default=1.0)
    leading = math.floor(math.log10(top))
    if not errors:
        return _clamp(3 - leading)
    worth = -math.floor(math.log10(errors[len(errors) // 2] / 3))
    return _clamp(min(max(worth, 2 - leading), MOST_DIGITS - 1 - leading))


def number(value: float, places: int, signed: bool = False) -> str:
    """``1,234.5``, ``−0.050``, signed ``+0.333``; a dash where there is none."""
    if math.isnan(value):
        return MISSING
    text = f"{value:{'+' if signed else ''},.{places}f}"
    if value < 0 and not any(digit in text for digit in "123456789"):
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", MINUS)


def half_width(value: float, places: int) -> str:
    """Half of an interval's width; one that is not zero never reads as zero."""
    text = number(value, places)
    if value > 0 and not any(digit in text for digit in "123456789"):
        return f"<{10**-places:.{places}f}"
    return text


def mean_and_half(of: Estimate, places: int) -> str:
    """``0.564 ± 0.044``, of one seed ``0.564``, of several equal ones ``1.000 ± 0``."""
    if of.n < 2:
        return number(of.mean, places)
    return f"{number(of.mean, places)} ± {'0' if of.exact else half_width(of.half, places)}"


def with_interval(of: Estimate, places: int) -> str:
    """``+0.333 [−0.125, +0.790]``, of one seed ``+0.333``."""
    mean = number(of.mean, places, signed=True)
    if of.n < 2:
        return mean
    return f"{mean} [{number(of.low, places, signed=True)}, {number(of.high, places, signed=True)}]"


def p_value(p: float) -> str:
    """``0.034``, ``<0.001``."""
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def count(value: int) -> str:
    """``57,714``, ``370.2M``, ``1.32B``."""
    for size, unit, places in ((1e9, "B", 2), (1e6, "M", 1)):
        if value >= size:
            return f"{value / size:.{places}f}{unit}"
    return f"{value:,}"


def duration(seconds: float) -> str:
    """``42 s``, ``3.5 min``, ``7.2 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _clamp(places: int) -> int:
    return max(0, min(places, MOST_DIGITS))
