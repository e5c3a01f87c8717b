"""The tables of the paper (arXiv 2605.22791) as data: their columns, what of ours belongs there, their printed rows.

results/published.csv holds the printed rows. They are read here and shown by ``analysis.like``; nothing is computed
from them.
"""

import csv
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path

from deltalab.spec.study import Goal

PUBLISHED = Path(__file__).parents[1] / "results" / "published.csv"
ARXIV = "arXiv 2605.22791"
BUDGET = ("1.3B", "100B")
"""Parameters and tokens of every published row."""
FAMILIES = ("recurrent", "hybrid")
SYSTEMS = {
    "mamba2": "Mamba-2",
    "gated_delta_net": "Gated DeltaNet",
    "kda": "KDA",
    "mamba3": "Mamba-3 (SISO)",
    "mamba3_mimo": "Mamba-3 (MIMO)",
    "gated_delta_net_2": "Gated DeltaNet-2",
    "transformer": "Transformer",
}
"""Our variant → the paper's name of it."""
ABLATIONS = {
    "write_only": "Gated DeltaNet-2 [w-only: scalar b, channel w]",
    "erase_only": "Gated DeltaNet-2 [b-only: channel b, scalar w]",
    "gated_delta_net_2": "Gated DeltaNet-2 [b in [0,1]]",
    "gated_delta_net_2_wide": "Gated DeltaNet-2 [expanded: b in [0,2]]",
}
"""The same in Table 5."""


class Like(Enum):
    """Tables that a study can be laid out like."""

    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    table5 = "table5"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        benchmark: as the published rows name it.
        metric: ``ppl``, ``acc`` or ``acc_n``.
        context: ``4K``, or "".
        ours: patterns of our metrics' names (``*`` stands for a haystack); the column is the mean of all of them.
    """

    benchmark: str
    metric: str
    context: str = ""
    ours: tuple[str, ...]

    @property
    def title(self) -> str:
        """``S-NIAH-2 4K ↑``."""
        what = "" if self.metric == "acc" else self.metric
        arrow = "↓" if self.goal is Goal.min else "↑"
        return " ".join(filter(None, (self.benchmark, what, self.context, arrow)))

    @property
    def goal(self) -> Goal:
        return Goal.min if self.metric == "ppl" else Goal.max

    @property
    def scale(self) -> float:
        """Printed for one of ours: the paper prints percent."""
        return 1.0 if self.metric == "ppl" else 100.0

    @property
    def suites(self) -> list[str]:
        """The suites that measure it."""
        return list(dict.fromkeys(pattern.partition("/")[0] for pattern in self.ours))

    def matches(self, name: str) -> bool:
        """Whether one of our metrics belongs to the column."""
        return any(fnmatchcase(name, pattern) for pattern in self.ours)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A table.

    Attributes:
        source: its number, as the published rows say.
        title: what it is about.
        columns: as printed, from left to right.
        systems: our variant → the name of its published row.
    """

    source: str
    title: str
    columns: list[Column]
    systems: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A printed row: family, system and its values as printed, by ``Column.title``."""

    family: str
    system: str
    values: dict[str, str]


def published_rows(layout: Layout, file: Path = PUBLISHED) -> list[Published]:
    """The printed rows of a table, in the paper's order."""
    titles = {(c.benchmark, c.metric, c.context): c.title for c in layout.columns}
    found: dict[tuple[str, str], dict[str, str]] = {}
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            if line["source"] == layout.source:
                title = titles[line["benchmark"], line["metric"], line["context"]]
                found.setdefault((line["family"], line["model"]), {})[title] = line["value"]
    return [Published(family=family, system=model, values=values) for (family, model), values in found.items()]


def _language(benchmark: str, metric: str, task: str, kind: str = "accuracy") -> Column:
    return Column(benchmark=benchmark, metric=metric, ours=(f"table2/{task}/{kind}",))


def _needle(benchmark: str, task: str, thousands: int) -> Column:
    pattern = f"table3/{task}/{1024 * thousands}/*/accuracy"
    return Column(benchmark=benchmark, metric="acc", context=f"{thousands}K", ours=(pattern,))


def _mean(benchmark: str, columns: list[Column], context: str = "") -> Column:
    ours = tuple(pattern for column in columns for pattern in column.ours)
    return Column(benchmark=benchmark, metric="acc", context=context, ours=ours)


PERPLEXITY = [
    _language("WikiText", "ppl", "wikitext", "word_perplexity"),
    _language("LAMBADA", "ppl", "lambada_openai", "perplexity"),
]
COMMONSENSE = [
    _language("LAMBADA", "acc", "lambada_openai"),
    _language("PIQA", "acc", "piqa"),
    _language("HellaSwag", "acc_n", "hellaswag"),
    _language("WinoGrande", "acc", "winogrande"),
    _language("ARC-e", "acc", "arc_easy"),
    _language("ARC-c", "acc", "arc_challenge"),
    _language("OBQA", "acc", "openbookqa"),
    _language("SIQA", "acc", "social_iqa"),
    _language("BoolQ", "acc", "boolq"),
]
COMMONSENSE_MEAN = _mean("CommonsenseAvg", COMMONSENSE)
NEEDLES = [
    *(_needle("S-NIAH-1", "niah_single_1", thousands) for thousands in (1, 2, 4, 8)),
    *(_needle("S-NIAH-2", "niah_single_2", thousands) for thousands in (1, 2, 4, 8)),
    *(_needle("S-NIAH-3", "niah_single_3", thousands) for thousands in (1, 2, 4)),
    *(_needle("MK-NIAH-1", "niah_multikey_1", thousands) for thousands in (1, 2, 4)),
]
RECALL = [
    Column(benchmark=benchmark, metric="acc", context="2K", ours=(f"table4/{benchmark.lower()}/accuracy",))
    for benchmark in ("SWDE", "SQuAD", "FDA", "TriviaQA", "NQ", "DROP")
]
RECALL_MEAN = _mean("RecallAvg", RECALL, "2K")

LAYOUTS = {
    Like.table2: Layout(
        source="Table 2",
        title="language modelling and commonsense",
        columns=[*PERPLEXITY, *COMMONSENSE, COMMONSENSE_MEAN],
        systems=SYSTEMS,
    ),
    Like.table3: Layout(source="Table 3", title="needles in a haystack", columns=NEEDLES, systems=SYSTEMS),
    Like.table4: Layout(
        source="Table 4", title="real retrieval, just read twice", columns=[*RECALL, RECALL_MEAN], systems=SYSTEMS
    ),
    Like.table5: Layout(
        source="Table 5",
        title="which channel-wise gate the gain is owed to",
        columns=[
            *PERPLEXITY,
            COMMONSENSE_MEAN,
            _needle("S-NIAH-2", "niah_single_2", 4),
            _needle("S-NIAH-3", "niah_single_3", 2),
            _needle("MK-NIAH-1", "niah_multikey_1", 4),
            RECALL_MEAN,
        ],
        systems=ABLATIONS,
    ),
}
