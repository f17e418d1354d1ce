"""The documentation builds as a site that needs nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tools import site


class Links(HTMLParser):
    """What a page leads to, and what a browser loads for it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.leads: list[str] = []
        self.loads: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                (self.leads if tag == "a" else self.loads).append(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "out"
    site.build(out)
    return out


def page(out: Path, name: str) -> Path:
    """Where a page is on the site."""
    stem = name.removesuffix(".md")
    return out / "index.html" if stem == "index" else out / stem / "index.html"


def test_every_page_is_there(built: Path) -> None:
    for name, text in site.pages():
        heading = text.partition("\n")[0].removeprefix("# ")
        assert heading.partition(" ")[0] in page(built, name).read_text(), name


def test_every_page_is_in_the_navigation(built: Path) -> None:
    front = page(built, "index.md").read_text()
    names = [name for name, _ in site.pages() if name != "index.md"]
    assert [name for name in names if f'href="{name.removesuffix(".md")}/"' not in front] == []


def is_there(out: Path, html: Path, link: str) -> bool:
    """Whether a link leads to a file of the site, or away from it."""
    path = unquote(urldefrag(link)[0])
    if not path or re.match(r"\w+:", path):
        return True
    target = out / path[1:] if path.startswith("/") else html.parent / path
    return target.is_file() or (target / "index.html").is_file()


def test_links_lead_somewhere_and_nothing_is_fetched(built: Path) -> None:
    for name, _ in site.pages():
        html = page(built, name)
        links = Links(html.read_text())
        assert len(links.leads) > 10
        missing = [each for each in links.leads + links.loads if not is_there(built, html, each)]
        assert missing == [], name
        assert [each for each in links.loads if re.match(r"https?:|//", each)] == [], name
    assert not is_there(built, page(built, "api.md"), "../nothing/")


def test_a_broken_link_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Front\n\n[gone](gone.md)\n")
    monkeypatch.setattr(site, "DOCS", docs)
    with pytest.raises(site.SiteError, match=r"\[gone\]\(gone\.md\)"):
        site.build(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("api.md", "[it](api.md)"),
        ("performance.svg", "[it](performance.svg)"),
        ("../SECURITY.md#a", "[it](SECURITY.md#a)"),
        ("docs/isolation.md", "[it](isolation.md)"),
        ("https://x.example/docs/y.md", "[it](https://x.example/docs/y.md)"),
        ("#here", "[it](#here)"),
        ("../deploy/era.service", "it"),
        ("examples", "it"),
    ],
)
def test_what_becomes_of_links(link: str, becomes: str) -> None:
    assert site.site_link("it", link) == becomes
