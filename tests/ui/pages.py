"""Pages as a browser understands them: what is a tag and what is text."""

from __future__ import annotations

from html.parser import HTMLParser

import httpx2

KEY = "a-key-of-the-tests-0123456789"


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def token(self) -> str:
        """What its script sends with every call."""
        return self.of("body")[0]["data-token"]

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def links(self) -> list[str]:
        return [attributes["href"] for attributes in self.of("a") if "href" in attributes]


def read(answer: httpx2.Response, status: int = 200) -> Page:
    """The page of an answer."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def active(page: Page) -> list[object]:
    """Whatever of a page could do something that is not the page's own doing."""
    scripts = [a for a in page.of("script") if not a.get("src", "").startswith("/ui/static/")]
    handlers = [(tag, name) for tag, a in page.tags for name in a if name.startswith("on")]
    leads = [
        value
        for _, a in page.tags
        for name, value in a.items()
        if name in ("href", "src", "action") and not value.startswith(("/ui", "#"))
    ]
    strange = [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "base", "svg")]
    images = [a for a in page.of("img") if not a["src"].startswith("/ui/static/")]
    return [*scripts, *handlers, *leads, *strange, *images]
