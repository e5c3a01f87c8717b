"""Tables of measured rows, for a terminal and for a document: what benchmarks of one shape of table share."""

from collections.abc import Collection, Iterable, Sequence

from rich.markup import escape
from rich.table import Table


def terminal_table(
    title: str, headings: Sequence[str], words: Collection[str], rows: Iterable[tuple[Sequence[str], bool]]
) -> Table:
    """A table with figures to the right.

    Args:
        title: above it.
        headings: of its columns; the one called "note" may wrap.
        words: headings of columns that are read as words, to the left.
        rows: cells of each, and whether it failed.
    """
    table = Table(title=title, title_justify="left")
    for heading in headings:
        side = "left" if heading in words else "right"
        table.add_column(heading, justify=side, no_wrap=heading != "note", overflow="fold")
    for texts, failed in rows:
        table.add_row(*map(escape, texts), style="red" if failed else "")
    return table


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The same for a document."""
    lines = (headings, ["---"] * len(headings), *rows)
    return "\n".join(f"| {' | '.join(text.replace('|', '∣') for text in texts)} |" for texts in lines)
