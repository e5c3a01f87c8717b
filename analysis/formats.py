"""A table as text: for the terminal (Rich), Markdown and LaTeX. ``report`` makes the HTML, ``raw`` the CSV."""

import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from analysis.tables import Column, Item, Table

SUPERSCRIPT = str.maketrans("abcdefghijklmnoprstuvwxyz", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ")
BEYOND_LATIN = 0x0180
UNBOUNDED = 10_000
"""Columns of a terminal on which every table fits."""
RULED = box.Box("    \n    \n ── \n    \n ── \n ── \n    \n    \n")
"""``box.SIMPLE_HEAD`` with a rule between sections where that has an empty line."""
TONES = {"": "", "better": "green", "worse": "red"}
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "−": r"$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "₀": r"$_0$",
    "–": "--",
    "…": r"\dots{}",
    "²": "$^2$",
    "√": r"$\surd$",
    "σ": r"$\sigma$",
    "χ": r"$\chi$",
    "η": r"$\eta$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "[": "{[}",  # after a line's end it would be taken for an argument
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def to_rich(table: Table, console: Console) -> list[RichTable]:
    """The table for a terminal; one that is wider than the terminal goes on in a further table with the same rows."""
    who = [column for column in table.columns if column.part == "cell"]
    unbounded = console.options.update(width=UNBOUNDED)
    parts: list[list[Column]] = [who]
    for block in _blocks(table):
        wider = _rich(table, parts[-1] + block)
        if parts[-1] != who and console.measure(wider, options=unbounded).maximum > console.width:
            parts.append(who)
        parts[-1] = parts[-1] + block
    return [_rich(table, part) for part in parts]


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table, its footnotes and remarks below."""
    heads = [markdown_escape(column.title) for column in table.columns]
    body = [[_markdown_item(item) for item in row] for row in table.rows]
    for place in reversed(table.rules):
        body.insert(place, [""] * len(heads))  # Markdown has no rule between rows
    widths = [max(3, *(len(line[place]) for line in [heads, *body])) for place in range(len(heads))]
    rule = ["-" * (w - 1) + ":" if column.right else "-" * w for column, w in zip(table.columns, widths, strict=True)]
    lines = [_markdown_line(line, widths, table.columns) for line in [heads, rule, *body]]
    lines += [""] if table.notes or table.remarks else []
    lines += [f"<sup>{mark}</sup> {markdown_escape(text)}  " for mark, text in table.notes]
    lines += [""] if table.notes and table.remarks else []
    lines += [markdown_escape(" ".join(_sentence(remark) for remark in table.remarks))] if table.remarks else []
    lines += ["", f"<sub>{markdown_escape(table.provenance)}</sub>"] if table.provenance else []
    return "\n".join(lines) + "\n"


def to_latex(table: Table, label: str) -> str:
    """A table environment for booktabs, ready to paste; every text is escaped.

    Args:
        label: what follows ``tab:`` in its label.
    """
    columns = "".join("r" if column.right else "l" for column in table.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        f"% {_one_line(table.provenance)}",
        "\\begin{table}",
        "\\centering",
        "\\small",
        f"\\caption{{{latex_escape(table.title)}}}",
        f"\\label{{tab:{re.sub(r'[^A-Za-z0-9:-]', '-', label)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(latex_escape(column.title) for column in table.columns) + r" \\",
        "\\midrule",
        *(
            ("\\midrule\n" if place in table.rules else "") + " & ".join(map(_latex_item, row)) + r" \\"
            for place, row in enumerate(table.rows)
        ),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    below = [f"\\textsuperscript{{{mark}}}~{latex_escape(_sentence(text))}" for mark, text in table.notes]
    below += [latex_escape(_sentence(remark)) for remark in table.remarks]
    if below:
        lines += ["", "\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", *below, "\\end{minipage}"]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def to_latex_file(tables: Sequence[Table], label: str) -> str:
    """Several tables, their labels numbered from the second on."""
    return "\n".join(to_latex(table, f"{label}-{n}" if n else label) for n, table in enumerate(tables))


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is, in one line; a character that its fonts lack as its number in Unicode."""
    return "".join(LATEX.get(character) or _printed(character) for character in _one_line(text))


def _printed(character: str) -> str:
    """Latin letters as they are, which pdflatex knows without a package."""
    return character if character.isprintable() and ord(character) < BEYOND_LATIN else f"U+{ord(character):04X}"


def superscript(marks: tuple[str, ...]) -> str:
    """Footnote marks in Unicode superscript letters."""
    return ",".join(marks).translate(SUPERSCRIPT)


def _blocks(table: Table) -> list[list[Column]]:
    """Columns that stay together: the sizes, each metric, the difference with its p."""
    metrics = [[column] for column in table.columns if column.part == "metric"]
    size, difference = ([c for c in table.columns if c.part == part] for part in ("size", "difference"))
    return [block for block in (size, *metrics, difference) if block]


def _rich(table: Table, shown: list[Column]) -> RichTable:
    lines = RULED if table.rules else box.SIMPLE_HEAD
    rich = RichTable(header_style="bold", border_style="bright_black", pad_edge=False, box=lines)
    for column in shown:
        rich.add_column(Text(column.title), justify="right" if column.right else "left", overflow="fold")
    places = [table.columns.index(column) for column in shown]
    hang = [
        max((len(superscript(row[place].marks)) for row in table.rows), default=0)
        for place in range(len(table.columns))
    ]
    for turn, row in enumerate(table.rows):
        baseline = turn == 0 and not table.rules and any(item.text == "baseline" for item in row)
        last = baseline or turn + 1 in table.rules
        rich.add_row(*(_rich_item(row[place], hang[place]) for place in places), end_section=last)
    return rich


def _rich_item(item: Item, hang: int) -> Text:
    text = Text(item.text, style=" ".join(filter(None, ("bold" if item.bold else "", TONES[item.tone]))))
    return text.append(superscript(item.marks).ljust(hang), style="not bold yellow")


def _markdown_item(item: Item) -> str:
    text = f"**{markdown_escape(item.text)}**" if item.bold else markdown_escape(item.text)
    return text + (f"<sup>{','.join(item.marks)}</sup>" if item.marks else "")


def _markdown_line(texts: list[str], widths: list[int], columns: list[Column]) -> str:
    padded = [
        text.rjust(width) if column.right else text.ljust(width)
        for text, width, column in zip(texts, widths, columns, strict=True)
    ]
    return f"| {' | '.join(padded)} |"


def markdown_escape(text: str) -> str:
    """Markdown takes as markup neither HTML, nor a table's bars, nor emphasis."""
    text = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|]|\](?=[(\[:]))", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _latex_item(item: Item) -> str:
    text = latex_escape(item.text)
    text = f"\\textbf{{{text}}}" if item.bold else text
    return text + (f"\\textsuperscript{{{','.join(item.marks)}}}" if item.marks else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text.endswith(".") else f"{text[:1].upper()}{text[1:]}."


def _one_line(text: str) -> str:
    return " ".join(text.split())
