"""What docs/python.md shows is what happens."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import pytest

from api import DEFAULT_URL
from tests.e2e.harness import WatchedServer
from tests.e2e.test_examples import Shown, matches, shown_in

pytestmark = [pytest.mark.xdist_group("sdk"), pytest.mark.timeout(600)]


def printed(block: Shown, url: str, names: dict[str, Any]) -> str:
    """What one block prints, after those before it."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block.commands.replace(DEFAULT_URL, url), names)
    return out.getvalue()


def test_what_the_page_shows_is_what_happens(server: WatchedServer) -> None:
    blocks = shown_in("docs/python.md")
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    wrong = [
        f"{block.commands}\nshows {block.output}\nprints {output}"
        for block in blocks
        if not matches(block.output or "", output := printed(block, server.url, names))
    ]
    names["era"].close()
    assert wrong == []
