"""Headless Chromium as a reader of the report and of MLflow's dashboard: what it asks for and complains of is kept."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, sync_playwright

from deltalab.spec import load

PICTURES = load.ROOT / "build" / "screenshots"
"""Kept by the run: what a person would have seen."""
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever would leave this machine fails
)
OWN = ("127.0.0.1", "")
"""Hosts of this machine; files, blobs and data have none."""
NO_ACCOUNTS = "/ajax-api/2.0/mlflow/users/current"
"""MLflow's page asks who is there, which a server without accounts answers with 404, and the browser tells of."""
HARMLESS = "ResizeObserver loop completed with undelivered notifications"
"""MLflow's page passes this notice of the browser on as an error: a size changed while sizes were told."""
ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""MLflow opens its assistant beside the first page a browser ever sees of it on 127.0.0.1, and not again."""
MILLISECONDS = 60_000
"""Patience with a machine that does much else."""


def chromium() -> str | None:
    """The system's browser."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def unavailable() -> str:
    """Why there is no browser, or ""; with BROWSER_INSTALL root installs Debian's."""
    if chromium() is None and os.environ.get("BROWSER_INSTALL") and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
            subprocess.run(["apt-get", "-qq", *command], check=True, env=quiet, stdout=subprocess.DEVNULL)
    return "" if chromium() else "no Chromium is installed; make test-browser installs it (Debian, root)"


@dataclass
class Reader:
    """A browser and what happened in it.

    Attributes:
        context: of its pages.
        asked: addresses that were asked for.
        complaints: errors on the console and uncaught ones.
    """

    context: BrowserContext
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, address: str) -> Page:
        """A new page."""
        page = self.context.new_page()
        page.goto(address, timeout=MILLISECONDS)
        return page

    def watch(self, page: Page) -> None:
        """Look after a page, whoever opened it."""
        page.set_default_timeout(MILLISECONDS)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._complain(said.text, said.location) if said.type == "error" else None)

    def _complain(self, text: str, location: object) -> None:
        if NO_ACCOUNTS in str(location) or HARMLESS in text:
            return
        self.complaints.append(f"{text} {location}")

    @property
    def strangers(self) -> list[str]:
        """Addresses off this machine that were asked for."""
        return [address for address in self.asked if (urlsplit(address).hostname or "") not in OWN]


@contextlib.contextmanager
def reading(dark: bool = False, width: int = 1600, height: int = 1000) -> Iterator[Reader]:
    """A browser with a fresh profile."""
    program = chromium()
    assert program
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program,
            args=list(FLAGS),
            headless=True,
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
        )
        context.add_init_script(f"try {{ {ASSISTANT} }} catch {{}}")
        reader = Reader(context)
        context.on("page", reader.watch)
        yield reader
        context.close()


def picture(page: Page, name: str, whole: bool = False) -> None:
    """Keep what the page shows as build/screenshots/NAME.png."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)
