"""Words for what is printed, whoever prints it."""

import re
from collections.abc import Sequence

PLAIN_LEVEL = re.compile(r"(?i)^(true|false|none|null|on|off|yes|no|[-+.\d][-+.\de]*)$")
"""A level that says nothing without its factor's name."""


def many(count: int, thing: str, does: str = "", do: str = "") -> str:
    """``1 trial``, ``2 trials``, ``1,000 trials``; with a verb in both numbers ``1 trial runs``, ``2 trials run``."""
    verb = does if count == 1 else do
    return f"{count:,} {thing}{'s' * (count != 1)}" + (f" {verb}" if verb else "")


def listed(names: Sequence[str]) -> str:
    """``task``, ``task and length``, ``task, data and length``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def without_password(uri: str) -> str:
    """A URI that may be shown."""
    return re.sub(r"(://[^:/@]+):[^@]*@", r"\1:***@", uri)


def level_label(factor: str, level: str) -> str:
    """``kda``, but ``tie=true``."""
    return f"{factor}={level}" if PLAIN_LEVEL.match(str(level)) else str(level)
