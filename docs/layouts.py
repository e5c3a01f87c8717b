"""What griffe is told: a paragraph of a docstring that is laid out in columns is shown as it is written.

Equations and lists of files stand there without an indent, ``name      what it is``; Markdown would run them together.
"""

import re

import griffe

COLUMNS = re.compile(r"^\S.*\S {3,}\S|^[├└│]", re.MULTILINE)
"""A line that has columns, or belongs to a drawn tree."""


class Layouts(griffe.Extension):
    """Indents such paragraphs, which makes them code."""

    def on_instance(self, *, obj: griffe.Object, **given: object) -> None:
        """See ``griffe.Extension``; called for everything that is read from the source."""
        if obj.docstring is not None:
            obj.docstring.value = laid_out(obj.docstring.value)


def laid_out(text: str) -> str:
    """A docstring with its paragraphs in columns indented by four; sections (``Args:``) and indented ones stay."""
    parts = re.split(r"(\n\s*\n)", text)
    return "".join(re.sub("^", "    ", part, flags=re.MULTILINE) if _in_columns(part) else part for part in parts)


def _in_columns(part: str) -> bool:
    return not part.startswith((" ", "\n")) and COLUMNS.search(part) is not None
