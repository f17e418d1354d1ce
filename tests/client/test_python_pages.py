"""What the pages on Python show is what happens."""

from __future__ import annotations

import contextlib
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import DEFAULT_URL
from tests.e2e.conftest import watched
from tests.e2e.harness import WatchedServer
from tests.e2e.test_examples import Shown, matches, shown_in

pytestmark = [pytest.mark.xdist_group("sdk"), pytest.mark.timeout(600)]

ADDRESS = "127.0.0.4"
"""Of the site that a guide reads; the server is told that boxes may reach it."""
PAGES = {
    "/1": '<a class="book" href="/b/1">The first book</a> <a class="book" href="/b/2">Next</a>',
    "/2": '<a class="book" href="/b/3">The last book</a>',
}


@pytest.fixture(scope="module")
def server() -> Iterator[WatchedServer]:
    """A server of whose boxes those with internet reach the site."""
    settings = {"ERA_PYTHON_PACKAGES": "none", "ERA_ALLOW_NETWORKS": f"{ADDRESS}/32"}
    with watched(settings) as running:
        yield running


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A site for the scraper; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = PAGES[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer((ADDRESS, 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://{ADDRESS}:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def printed(code: str, names: dict[str, Any]) -> str:
    """What one block prints, after those before it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, names)
    return out.getvalue()


def wrong(block: Shown, output: str) -> bool:
    return block.output is not None and not matches(block.output, output)


@pytest.mark.parametrize("page", ["docs/python.md", "docs/guides.md"])
def test_what_the_page_shows_is_what_happens(
    page: str, server: WatchedServer, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = shown_in(page)
    assert len(blocks) >= 8
    found = []
    for block in blocks:
        code = block.commands.replace(DEFAULT_URL, server.url)
        output = printed(code.replace("https://books.example", site), names)
        if wrong(block, output):
            found.append(f"{block.commands}\nshows {block.output}\nprints {output}")
    names["era"].close()
    assert found == []
