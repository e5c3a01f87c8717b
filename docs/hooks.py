"""What mkdocs is told beside mkdocs.yml: pages made from the repository's own files, links into it, and a last look.

Pages in docs/ are read on a code host too, and link to files as they lie there. Here such a link becomes one to the
reference (``src/deltalab/spec/study.py`` → ``reference/spec.html#deltalab.spec.study``), to a page made from the file,
or to a choice in ``reference/choices.md``. The built pages are then read as a browser would: whatever they would fetch
from another host, and every link or anchor that leads nowhere, fails the build.
"""

import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MADE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "readme.md": "README.md",
    "published.md": "results/README.md",
}
"""Page → the file outside docs/ that it shows."""
CHOICES = "reference/choices.md"
FOLDERS, FILES = ("conf", "sweeps"), ("Dockerfile",)
"""What is shown there: every file of these folders, and files of the root."""
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Element → the attribute whose address a browser fetches by itself."""
FETCHING = {"icon", "stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest", "modulepreload"}
"""Values of a link element's rel that make it fetch."""

FETCHED_BY_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from files of the repository."""
    for page, name in MADE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    files.append(File.generated(config, CHOICES, content=choices(ROOT)))
    files.append(File.generated(config, "adr/index.md", content=_contents(ROOT / "docs" / "adr", "Decisions")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to pages."""
    source = page.file.src_uri
    folder = posixpath.dirname(MADE.get(source, posixpath.join("docs", source)))
    return LINK.sub(lambda link: relinked(link[1], folder, posixpath.dirname(source)), markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that is not whole or not alone.

    Raises:
        PluginError: a page fetches from another host, or links to what is not there.
    """
    if wrong := list(faults(Path(config.site_dir))):
        raise PluginError("\n".join([f"{len(wrong)} links of the built site are wrong:", *wrong]))


def relinked(link: str, folder: str, page_folder: str) -> str:
    """A link as the site needs it.

    Args:
        link: as it is written.
        folder: the folder of the repository that it is written for, "" for its root.
        page_folder: the folder of the page below docs/.
    """
    path, _, anchor = link.partition("#")
    if not path or urlsplit(link).scheme:
        return link
    target = posixpath.normpath(posixpath.join(folder, path))
    wanted = f"#{anchor}" if anchor else ""
    if target in MADE.values():
        page = next(page for page, name in MADE.items() if name == target)
    elif target.startswith("docs/"):
        page = target.removeprefix("docs/")
        page = f"{page}/index.md" if (ROOT / target).is_dir() else page
    elif target.startswith(("src/deltalab/", "analysis/")) and target.endswith(".py"):
        module = target.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        part = module.split(".")[1] if module.startswith("deltalab.") else "analysis"
        page = f"reference/{part if (ROOT / f'docs/reference/{part}.md').exists() else 'errors'}.md"
        wanted = f"#{module}"
    elif target.split("/")[0] in FOLDERS + FILES:
        page, wanted = CHOICES, f"#{_anchor(target)}"
    else:
        return link  # mkdocs says that it leads nowhere
    return posixpath.relpath(page, page_folder or ".") + wanted


def choices(root: Path) -> str:
    """A page with every file of ``FOLDERS``, folder by folder, and ``FILES``."""
    lines = ["# Every choice", "", "The files behind `python launch.py GROUP=CHOICE` and `study=NAME`.", ""]
    for top in FOLDERS:
        for folder in sorted({file.parent for file in (root / top).rglob("*.yaml")}):
            name = folder.relative_to(root).as_posix()
            lines += [f"## `{name}/` {{ #{_anchor(name)} }}", ""]
            for file in sorted(folder.glob("*.yaml")):
                lines += [f"### {file.stem} {{ #{_anchor(file.relative_to(root).as_posix())} }}", "", *_shown(file)]
    for name in FILES:
        lines += [f"## {name} {{ #{_anchor(name)} }}", "", *_shown(root / name)]
    return "\n".join(lines)


def _shown(file: Path) -> list[str]:
    return [f"```{file.suffix.lstrip('.') or file.name.lower()}", file.read_text().rstrip(), "```", ""]


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a built site, a line each: ``PAGE: ADDRESS: why``."""
    pages = {file.resolve(): _Links.of(file) for file in sorted(site.rglob("*.html"))}
    for file, found in pages.items():
        name = file.relative_to(site.resolve()).as_posix()
        for address in found.fetched:
            if urlsplit(address).scheme not in ("", "data") or address.startswith("//"):
                yield f"{name}: {address}: would be fetched from another host"
            elif not urlsplit(address).scheme and not _target(file, address, site).exists():
                yield f"{name}: {address}: no such file"
        for address in found.links:
            if urlsplit(address).scheme or address.startswith("//"):
                continue
            target = _target(file, address, site)
            if not target.exists():
                yield f"{name}: {address}: no such page"
            elif (anchor := unquote(urlsplit(address).fragment)) and anchor not in pages[target].anchors:
                yield f"{name}: {address}: no such anchor"

    for file in sorted(site.rglob("*.css")):
        for address in FETCHED_BY_STYLE.findall(file.read_text()):
            yield f"{file.relative_to(site).as_posix()}: {address}: would be fetched from another host"


class _Links(HTMLParser):
    """What a page fetches, links to and can be linked at."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {"", "__skip"}

    @staticmethod
    def of(file: Path) -> "_Links":
        found = _Links()
        found.feed(file.read_text())
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and FETCHING & {*given.get("rel", "").split()}:
            self.fetched.append(given["href"])
        elif given.get(FETCHED.get(tag, "")):
            self.fetched.append(given[FETCHED[tag]])


def _target(page: Path, address: str, site: Path) -> Path:
    path = unquote(urlsplit(address).path)
    target = (site / path.lstrip("/") if path.startswith("/") else page.parent / path) if path else page
    return (target / "index.html" if target.is_dir() else target).resolve()


def _anchor(path: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", path.removesuffix(".yaml").lower()).strip("-")


def _contents(folder: Path, title: str) -> str:
    """A page that lists a folder's pages by their headings."""
    pages = {file.name: file.read_text().partition("\n")[0].lstrip("# ") for file in sorted(folder.glob("*.md"))}
    return "\n".join([f"# {title}", "", *(f"- [{heading}]({name})" for name, heading in pages.items()), ""])
