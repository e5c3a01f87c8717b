"""The docs site: links into the repository become pages, and a site that is not whole or not alone is refused.

``make docs`` builds the site itself; here is what its hooks do.
"""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from deltalab.spec import load


def module(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", load.ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


hooks, layouts = module("hooks"), module("layouts")


@pytest.mark.parametrize(
    ("page", "link", "wanted"),
    [
        ("docs/guide", "studies.md#tuning", "studies.md#tuning"),
        ("docs/guide", "../kernels.md", "../kernels.md"),
        ("docs/guide", "#submit", "#submit"),
        ("docs/guide", "https://arxiv.org/abs/2605.22791", "https://arxiv.org/abs/2605.22791"),
        ("docs/guide", "mailto:lab@example.org", "mailto:lab@example.org"),
        ("docs/guide", "../../src/deltalab/spec/study.py", "../reference/spec.md#deltalab.spec.study"),
        ("docs/guide", "../../src/deltalab/kernels/__init__.py", "../reference/kernels.md#deltalab.kernels"),
        ("docs/guide", "../../src/deltalab/errors.py", "../reference/errors.md#deltalab.errors"),
        ("docs", "../analysis/tables.py", "reference/analysis.md#analysis.tables"),
        ("docs/guide", "../../conf/variant", "../reference/choices.md#conf-variant"),
        ("docs", "../conf/model/1.3b.yaml", "reference/choices.md#conf-model-1-3b"),
        ("docs/guide", "../../Dockerfile", "../reference/choices.md#dockerfile"),
        ("docs/guide", "../../CONTRIBUTING.md#tolerances", "../contributing.md#tolerances"),
        ("docs/guide", "../../results/README.md", "../published.md"),
        ("", "docs/guide/tables.md", "guide/tables.md"),
        ("", "docs/adr", "adr/index.md"),
        ("docs/guide", "../../nowhere.txt", "../../nowhere.txt"),
    ],
)
def test_a_link_into_the_repository_becomes_one_to_a_page(page: str, link: str, wanted: str) -> None:
    assert hooks.relinked(link, page, page.removeprefix("docs").lstrip("/")) == wanted


def test_links_in_code_and_text_around_them_stay() -> None:
    text = "See [a](x.md), [b](y.md#z) and `f(x)[0](n)`."
    assert hooks.LINK.findall(text) == ["x.md", "y.md#z", "n"]
    assert hooks.LINK.sub(lambda link: link[0].upper(), text) == "See [a](X.MD), [b](Y.MD#Z) and `f(x)[0](N)`."


def test_every_choice_has_a_place_of_its_own() -> None:
    page = hooks.choices(load.ROOT)
    anchors = re.findall(r"\{ #(\S+) \}", page)
    assert len(anchors) == len(set(anchors))
    files = [file for top in ("conf", "sweeps") for file in (load.ROOT / top).rglob("*.yaml")]
    assert len(files) > 40
    for file in [*files, load.ROOT / "Dockerfile"]:
        assert file.read_text().strip() in page


PAGE = """<!doctype html><html><head>
<link rel="stylesheet" href="a.css"><link rel="canonical" href="https://lab.example/"><script src="a.js"></script>
</head><body><h1 id="top">x</h1>
<a href="https://elsewhere.example">out</a> <a href="b/index.html#there">b</a> <a href="b/">b</a> <a href="#top">up</a>
<img src="data:image/gif;base64,R0lGOD">{more}</body></html>"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A built site of two pages without a fault."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/index.html").write_text('<h1 id="there">b</h1><a href="../index.html">a</a>')
    for name in ("a.css", "a.js"):
        (tmp_path / name).touch()
    (tmp_path / "index.html").write_text(PAGE.format(more=""))
    return tmp_path


def test_a_whole_site_has_no_fault(site: Path) -> None:
    assert list(hooks.faults(site)) == []


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ('<a href="c.html">', "index.html: c.html: no such page"),
        ('<a href="b/index.html#here">', "index.html: b/index.html#here: no such anchor"),
        ('<a href="#bottom">', "index.html: #bottom: no such anchor"),
        ('<img src="c.png">', "index.html: c.png: no such file"),
        (
            '<img src="https://cdn.example/c.png">',
            "index.html: https://cdn.example/c.png: would be fetched from another",
        ),
        ('<script src="//cdn.example/c.js">', "index.html: //cdn.example/c.js: would be fetched from another host"),
        (
            '<link rel="preload stylesheet" href="https://fonts.example/f">',
            "index.html: https://fonts.example/f: would",
        ),
        ('<iframe src="https://video.example/v">', "index.html: https://video.example/v: would be fetched"),
    ],
)
def test_what_leads_nowhere_or_elsewhere_is_named(site: Path, more: str, fault: str) -> None:
    (site / "index.html").write_text(PAGE.format(more=more))
    (said,) = hooks.faults(site)
    assert said.startswith(fault)


@pytest.mark.parametrize("style", ['@import "https://fonts.example/f";', "a { src: url(//fonts.example/f) }"])
def test_a_style_that_would_fetch_is_named(site: Path, style: str) -> None:
    (site / "a.css").write_text(f"b {{ background: url(data:image/gif;base64,R0lG) }}\n{style}")
    (said,) = hooks.faults(site)
    assert said.startswith("a.css: ")
    assert said.endswith("//fonts.example/f: would be fetched from another host")


def test_what_is_laid_out_in_columns_is_shown_as_it_is_written() -> None:
    columns = "DeltalabError      anything\n├── UsageError     the caller"
    section = "Args:\n    x: [B, T],   a tensor."
    text = f"Summary.\n\n{columns}\n\nWords, and more.\n\n    a = b   c\n\n{section}"
    indented = "    DeltalabError      anything\n    ├── UsageError     the caller"
    assert layouts.laid_out(text) == text.replace(columns, indented)
