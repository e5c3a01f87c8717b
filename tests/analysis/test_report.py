"""The report's files: one self-contained page, the same in Markdown, and pictures."""

import io
import re
import warnings
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from analysis.collate import collate
from analysis.plan_table import plan_table
from analysis.report import Report, brief, make_report, to_html, to_markdown, write_report
from analysis.statistics import summarise
from analysis.terminal import show
from deltalab.spec.study import Design, Exclusion, Goal
from deltalab.track.journal import State
from tests.analysis.studies import ACCURACY, LOSS, Levels, Made, Outcome, constant, falling, make_study
from tests.analysis.test_palette import contrast

EVIL = "<script>alert('why?')</script> & \"co\" for $5 or \\frac{$ \U0001f600"
SLICES = {"eval/accuracy/1-32": Goal.max, "eval/accuracy/33-64": Goal.max}


def build(made: Made) -> Report:
    results = collate(made.runs, made.name)
    return make_report(results, summarise(results))


def eventful(levels: Levels, seed: int) -> Outcome:
    """A bit of everything: a diverged, a failed and a running trial, slices and curves."""
    good = 0.8 if levels["variant"] == "wide" else 0.6
    curve = falling(0.7, 1 - good)
    values = {ACCURACY: good + seed / 50, LOSS: 1 - good, "eval/accuracy/1-32": 0.9, "eval/accuracy/33-64": good - 0.1}
    if levels["pattern"] == "hybrid" and seed == 1:
        return Outcome(state=State.diverged, curve=curve, details={"error": "loss 61 is past its bound"})
    if levels["variant"] == EVIL and seed == 2:
        return Outcome(state=State.failed, curve=curve, details={"error": "<b>out of memory</b>"})
    if levels["variant"] == "wide" and seed == 0:
        return Outcome(state=State.running, curve=curve)
    return Outcome(values=values, curve=curve)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    factors = {"variant": ["plain", "wide", EVIL], "pattern": ["recurrent", "hybrid"]}
    return make_study(tmp_path_factory.mktemp("runs"), factors, eventful, question=EVIL, name="everything")


@pytest.fixture(scope="module")
def report(made: Made) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return build(made)


class Page(HTMLParser):
    """Collects tags, addresses and text."""

    VOID = ("meta", "link", "img", "br", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_well_formed_and_asks_for_nothing_from_outside(report: Report):
    text = to_html(report)
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert page.open == []
    assert page.tags.count("script") == 1
    assert page.tags.count("img") == len(report.pictures) == 6
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_links_lead_somewhere(report: Report):
    text = to_html(report)
    targets = [address[1:] for address in Page(text).addresses if address.startswith("#")]
    assert targets
    assert all(f'id="{target}"' in text for target in targets)


def test_names_are_escaped_everywhere(report: Report):
    text = to_html(report)
    assert "<script>alert" not in text
    assert "<b>out" not in text
    assert "&lt;script&gt;alert" in text
    page = Page(text)
    assert any(EVIL in data for data in page.text)
    markdown = to_markdown(report)
    assert "<script>" not in markdown
    assert "<b>" not in markdown


def test_the_page_says_what_a_reader_asks(report: Report):
    text = " ".join(" ".join(Page(to_html(report)).text).split())
    for said in (
        "variant=plain, pattern=recurrent",
        "full factorial, 6 cells",
        "loss 61 is past its bound",
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        "variant × pattern",
        "while 2 trials are not at their end",
        "python launch.py -m study=everything",
        "python -m analysis.compare everything",
        "commit 0123456789",
        "abacus, 2 cores",
        "seed 1 diverged",
    ):
        assert said in text
    for row in report.table.rows:
        assert all(item.text in text for item in row)


def test_the_table_can_be_sorted_by_numbers(report: Report):
    text = to_html(report)
    assert 'data-sort="57636"' in text
    assert text.count("<table") == text.count('class="sortable"')


def test_tables_are_told_by_who_cannot_see_them(report: Report):
    text = to_html(report)
    assert text.count("<caption>") == text.count("<table")
    assert text.count('<th scope="col"') == text.count("<th scope=") - text.count('<th scope="row"')
    assert text.count('<th scope="row"') == text.count("<tr") - text.count("<thead>")
    levels = [int(tag[1]) for tag in Page(text).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "no level of heading is left out"
    assert 'aria-label="Sections"' in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_the_paper(report: Report, scheme: str):
    light, dark = re.findall(r":root \{(.*?)\}", to_html(report), re.DOTALL)
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    for text in ("ink", "soft", "accent", "good", "bad", "mark"):
        assert contrast(colors[text], colors["paper"]) >= 4.5
        assert contrast(colors[text], colors["plate"]) >= 4.5


def test_the_plan_has_every_cell_and_why_one_is_not_run(tmp_path: Path):
    factors = {"gate": {"a": {"variant.tie": False}, "b": {"train.lr": 0.01}}, "norm": ["x", "y"]}
    exclude = [Exclusion(when={"gate": "b", "norm": "y"}, reason="it cannot be")]
    made = make_study(tmp_path, factors, lambda *_: Outcome(state=None), exclude=exclude, seeds=2)
    table = plan_table(collate(tmp_path, made.name))
    rows = {tuple(item.text for item in row[:2]): row for row in table.rows}
    assert len(rows) == 4
    assert rows["a", "x"][2].text == "variant.tie=false"
    assert rows["b", "x"][2].text == "train.lr=0.01"
    assert rows["a", "x"][-1].text == "seeds 0, 1"
    assert rows["b", "y"][-1].text == "none"
    assert rows["b", "y"][0].marks == ("a",)
    assert table.notes == [("a", "not run: it cannot be")]


def test_every_file_is_written_and_stale_pictures_go(made: Made, report: Report):
    results = report.results
    stale, layout = made.report / "figures" / "old.png", made.report / "rates.md"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"")
    layout.write_text("of a factor that is gone")
    paths = write_report(report, summarise(results), made.report)
    assert not stale.exists()
    assert not layout.exists()
    names = {str(path.relative_to(made.report)) for path in paths}
    pictures = {f"figures/{p.name}.{ending}" for p in report.pictures for ending in ("png", "svg")}
    tables = {"table.md", "table.tex", "table.csv", "table.json", "effects.csv", "trials.csv"}
    tables |= {"cross.md", "cross.tex"}
    assert names == {"report.html", "report.md"} | tables | pictures
    assert {str(p.relative_to(made.report)) for p in made.report.rglob("*") if p.is_file()} == names
    assert all(path.stat().st_size for path in paths)


def test_pictures(report: Report):
    assert [p.name for p in report.pictures] == ["values", "differences", "effects", "interactions", "slices", "curves"]
    for picture in report.pictures:
        assert picture.png.startswith(b"\x89PNG")
        width = int.from_bytes(picture.png[16:20], "big")
        assert width >= 9 * 150
        assert picture.svg.lstrip().startswith("<?xml")
        assert picture.caption


def test_pictures_are_the_same_every_time(made: Made, report: Report):
    again = build(made).pictures
    assert [p.svg for p in again] == [p.svg for p in report.pictures]
    assert [p.png for p in again] == [p.png for p in report.pictures]


def test_markdown_links_pictures_beside_it(made: Made, report: Report):
    text = to_markdown(report)
    for picture in report.pictures:
        assert f"](figures/{picture.name}.png)" in text


@pytest.mark.parametrize(
    ("values", "seeds", "said"),
    [
        (
            {("a",): [0.5, 0.6], ("b",): [None, None]},
            2,
            "2 of 4 values of eval/accuracy are there. No cell can be tested",
        ),
        ({("a",): [0.5], ("b",): [0.6]}, 1, "No cell can be tested"),
        ({("a",): [None], ("b",): [None]}, 1, "No trial has a value of eval/accuracy yet."),
        ({("a",): [0.5, 0.6, 0.7], ("b",): [0.4, 0.6, 0.9]}, 3, "That is no evidence that they are equal."),
        ({("a",): [0.5, 0.6, 0.7], ("b",): [0.7, 0.81, 0.9]}, 3, "1 of 1 tested cells differ"),
        (
            {("a",): [0.5, 0.5], ("b",): [0.6, 0.6]},
            2,
            "No cell can be tested against the baseline in eval/accuracy: that takes two seeds or more whose "
            "differences are not all the same. Untested, as the difference is the same in every paired seed: ",
        ),
        # In floating point none of these differences is 0 or the same to the last bit.
        ({("a",): [0.1 + 0.2, 0.6], ("b",): [0.3, 0.6]}, 2, "Equal to the baseline in every paired seed: "),
    ],
)
def test_the_brief_says_no_more_than_the_numbers(tmp_path: Path, values: dict, seeds: int, said: str):
    made = make_study(tmp_path, {"variant": ["a", "b"]}, constant(values), seeds=seeds)
    results = collate(tmp_path, made.name)
    assert said in brief(results, summarise(results))


@pytest.mark.parametrize(
    ("tested", "said"), [([0.7, 0.81, 0.9], "1 of 1 tested cells differ"), ([0.4, 0.6, 0.9], "None of 1 tested cells")]
)
def test_the_brief_names_differences_without_variance_separately(tmp_path: Path, tested: list[float], said: str):
    values = {
        ("a",): [0.5, 0.6, 0.7],
        ("tested",): tested,
        ("above",): [0.6, 0.7, 0.8],
        ("below",): [0.3, 0.4, 0.5],
        ("same",): [0.5, 0.6, 0.7],
        ("alone",): [0.9, None, None],
    }
    made = make_study(tmp_path, {"variant": [name for (name,) in values]}, constant(values))
    results = collate(tmp_path, made.name)
    text = brief(results, summarise(results))
    there, rest = text.split("Untested, as the difference is the same in every paired seed: ")
    assert said in there
    other, equal = rest.split(" Equal to the baseline in every paired seed: ")
    assert re.fullmatch(r"above \(\+0\.10*\), below \(−0\.20*\)\.", other)
    assert equal == "same."
    assert "above" not in there
    assert "alone" not in text


@pytest.mark.parametrize(
    "factors",
    [
        {"variant": ["kda"]},
        {"variant": [f"v{n}" for n in range(10)]},
        {"variant": ["kda", "gdn"], "tie": ["true", "false"], "range": ["1", "2"]},
    ],
    ids=["one cell", "more levels than colours", "three factors"],
)
@pytest.mark.parametrize("begun", [False, True])
def test_studies_of_other_shapes(tmp_path: Path, factors: dict[str, list[str]], begun: bool):
    def outcome(levels: Levels, seed: int) -> Outcome:
        if not begun:
            return Outcome(state=None)
        return Outcome(values={ACCURACY: 0.5 + seed / 10, LOSS: len(levels["variant"])}, curve=falling(1, 0.001))

    made = make_study(tmp_path, factors, outcome, seeds=2, design=Design.one_at_a_time)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = build(made)
        Page(to_html(report))
    assert bool(report.pictures) is begun
    assert (report.effects is None) is (len(factors) == 1)


@pytest.mark.parametrize("terminal", [True, False])
def test_bold_is_explained_where_bold_is_seen(made: Made, terminal: bool) -> None:
    results = collate(made.runs, made.name)
    summaries = summarise(results)
    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    show(console, make_report(results, summaries), summaries)
    assert ("Bold: the best mean" in console.file.getvalue()) is terminal  # type: ignore[attr-defined]
