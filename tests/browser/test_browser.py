"""A finished study as a person sees it: its report, and MLflow's dashboard from the printed link to the report."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deltalab.spec import load
from deltalab.study import ledger
from deltalab.track.book import read_book
from deltalab.track.palette import HUES
from tests.dispatch.launching import INLINE, Desk
from tests.servers.servers import free_port, until

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from tests.browser.browser import Reader, picture, reading, unavailable  # noqa: E402, which imports it

pytestmark = pytest.mark.browser
STUDY = """
question: Which variants of the gated delta rule learn parity, alone and with sliding-window attention?
baseline: {variant: gated_delta_net_2, pattern: recurrent}
factors:
  variant: [gated_delta_net_2, kda, delta_net]
  pattern:
    recurrent: {variant.pattern: [mixer]}
    hybrid: {variant.pattern: [mixer, swa]}
seeds: [0, 1]
overrides: {train: smoke, train.steps: 60, train.log_every: 2, eval.every: 20, eval.sequences: 8, model.mlp_width: 16}
match: parameters
metrics: {eval/accuracy: max, eval/loss: min}
"""
CELLS, TRIALS = 6, 12


@dataclass(frozen=True)
class Finished:
    """A study that ran, its report, and the dashboard that is served."""

    desk: Desk
    links: dict[str, str]

    @property
    def report(self) -> str:
        return (ledger.study_dir(self.desk.runs, "ask") / "report" / "report.html").as_uri()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    if reason := unavailable():
        pytest.skip(reason)
    desk = Desk(tmp_path_factory.mktemp("desk"))
    done = desk.launch("-m", f"study={desk.study(STUDY)}", *INLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    compare = [sys.executable, "-m", "analysis.compare", "ask"]
    written = subprocess.run(
        compare, cwd=load.ROOT, env=desk.env, capture_output=True, text=True, timeout=300, check=False
    )
    assert written.returncode == 0, written.stderr
    assert "artifacts/report/report.html" in written.stdout
    port = str(free_port())
    server = desk.start_deltalab("dashboard", "--port", port, to="said.txt")
    said = desk.folder / "said.txt"
    until(lambda: "Uvicorn running" in said.read_text() or listens(int(port)), "the dashboard")
    links = dict(re.findall(r"^ask (\w+): (http\S+)$", said.read_text(), re.MULTILINE))
    yield Finished(desk=desk, links=links)
    desk.end(server, signal.SIGTERM)
    desk.clear()


def listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A browser that has nothing to complain of and asks nobody else when the test is over."""
    with reading() as reader:
        yield reader
        assert reader.complaints == []
        assert reader.strangers == []


def column(page, table: str, title: str) -> list[str]:
    """What a table's column says, from the top."""
    heads = page.locator(f"#{table} thead th").all_inner_texts()
    place = next(at for at, head in enumerate(heads, start=1) if head.startswith(title))
    return page.locator(f"#{table} tbody tr:visible td:nth-child({place})").all_inner_texts()


def test_the_report_is_read_sorted_and_filtered(finished: Finished, reader: Reader) -> None:
    page = reader.open(finished.report)
    assert page.title().startswith("ask: Which variants")
    picture(page, "report")
    head = page.locator("#table thead th", has_text="accuracy").first
    title = head.inner_text().split(" ↕")[0]

    def values() -> list[float]:
        return [float(text.split(" ")[0]) for text in column(page, "table", title)]

    assert len(values()) == CELLS
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(values())
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    assert {address.split(":")[0] for address in reader.asked} <= {"file", "data"}


def test_rows_of_the_report_are_filtered(finished: Finished, reader: Reader) -> None:
    page = reader.open(finished.report)
    rows = page.locator("#table tbody tr:visible")
    comparison = page.locator("section#comparison")
    field, said = comparison.get_by_role("searchbox"), comparison.get_by_role("status")
    field.fill("Hybrid kda")
    assert rows.count() == 1
    assert {"hybrid", "kda"} <= set(rows.inner_text().split())
    assert said.inner_text() == f"1 of {CELLS}"
    picture(page, "report-filtered")
    page.locator("#table thead th button").first.click()
    assert rows.count() == 1
    field.fill("")
    assert rows.count() == CELLS
    assert said.inner_text() == ""


@pytest.mark.parametrize(("name", "dark", "width"), [("report-dark", True, 1280), ("report-phone", False, 390)])
def test_the_report_fits_dark_and_narrow_screens(finished: Finished, name: str, dark: bool, width: int) -> None:
    with reading(dark=dark, width=width) as reader:
        page = reader.open(finished.report)
        picture(page, name, whole=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red, green, blue = map(int, re.findall(r"\d+", paper)[:3])
        assert (red + green + blue < 3 * 64) is dark
        assert reader.complaints == []


def test_the_printed_link_lands_on_the_curves_by_cell(finished: Finished, reader: Reader) -> None:
    page = reader.open(finished.links["curves"])
    page.get_by_text(f"{TRIALS} matching runs").wait_for()
    drawn = page.locator(".js-plotly-plot").first.locator(".scatterlayer path.js-line")
    drawn.nth(TRIALS - 1).wait_for(state="attached")
    page.get_by_text("kda hybrid s1", exact=True).wait_for()
    strokes = drawn.evaluate_all("lines => lines.map(line => getComputedStyle(line).stroke)")
    counts = {color: strokes.count(color) for color in strokes}
    assert len(counts) == CELLS  # no two cells are of one colour, all seeds of a cell are (MLflow draws a line twice)
    assert set(counts.values()) == {len(strokes) // CELLS}
    assert rgb(HUES[0]) in counts
    page.wait_for_timeout(1500)  # the other charts
    picture(page, "mlflow-curves")


def rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"


def test_the_dashboard_is_sorted_filtered_and_leads_to_the_report(finished: Finished, reader: Reader) -> None:
    page = reader.open(finished.links["curves"])
    page.get_by_text(f"{TRIALS} matching runs").wait_for()
    page.get_by_role("button", name="Curves by cell").click()
    picture(page, "mlflow-views")
    page.get_by_test_id("saved-views-item-means").click()
    page.get_by_text("Group by: cell").wait_for()
    page.wait_for_timeout(2500)
    picture(page, "mlflow-means")
    table = finished.links["curves"].replace(
        "viewStateShareKey=curves&compareRunsMode=CHART", "viewStateShareKey=table"
    )
    page = reader.open(table)
    page.get_by_text("Sort: eval/accuracy").wait_for()
    shown = page.locator("[role=gridcell][col-id*='eval/accuracy']")
    shown.nth(TRIALS - 1).wait_for()
    values = [float(text.strip("…")) for text in shown.all_inner_texts()]
    assert values == sorted(values, reverse=True)
    picture(page, "mlflow-table")
    search = page.get_by_placeholder(re.compile("metrics.rmse"))
    search.fill("tags.`level.pattern` = 'hybrid' and tags.`deltalab.kind` = 'trial'")
    search.press("Enter")
    page.get_by_text(f"{TRIALS // 2} matching runs").wait_for()
    page.get_by_role("link", name="kda hybrid s1").click()
    page.get_by_text("Parent run", exact=True).wait_for()
    page.get_by_text("train/loss", exact=True).first.wait_for()
    picture(page, "mlflow-trial")
    with reader.context.expect_page() as opened:
        page.get_by_role("link", name="Report", exact=True).click()
    page = opened.value
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Comparison").wait_for()
    report.locator("#table thead th button").first.click()
    assert report.locator("#table tbody tr").count() == CELLS
    picture(page, "mlflow-report")


def test_the_study_s_run_has_its_results(finished: Finished, reader: Reader) -> None:
    book = read_book(finished.desk.runs / "studies" / "ask")
    assert book is not None
    page = reader.open(finished.links["report"].split("/artifacts/")[0] + "?workflowType=machine_learning")
    page.get_by_text("eval/accuracy/kda hybrid").first.wait_for()
    picture(page, "mlflow-study")
    page.get_by_role("tab", name="Model metrics").click()
    page.locator(".js-plotly-plot").first.wait_for()
    page.wait_for_timeout(1500)
    picture(page, "mlflow-study-metrics")
