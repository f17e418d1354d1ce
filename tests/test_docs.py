"""Everything has its place in the documentation, and what is generated there is fresh."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from era.api.app import OPERATIONS
from era.config import VARIABLES
from era.errors import CODES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "generate.py"))


def text(name: str) -> str:
    return (DOCS / name).read_text()


def missing(wanted: list[str], page: str) -> list[str]:
    """Which of `wanted` no heading or first cell of a table row of the page names."""
    named = {match.strip("` ") for match in HEADING.findall(page)}
    named |= set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    return [name for name in wanted if name not in named]


def test_generated_parts_are_fresh(generator: dict[str, Any]) -> None:
    stale = [path.name for path, fresh in generator["pages"]() if path.read_text() != fresh]
    assert stale == [], "run scripts/docs"


def test_a_stale_part_would_be_noticed(
    generator: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(generator["PARTS"], "errors", lambda: "another table")
    assert [path.name for path, fresh in generator["pages"]() if path.read_text() != fresh] == [
        "errors.md"
    ]


def test_every_setting_is_documented() -> None:
    assert missing(list(VARIABLES), text("configuration.md")) == []


def test_every_error_code_is_documented() -> None:
    assert missing(list(CODES), text("errors.md")) == []


def test_every_route_is_documented() -> None:
    routes = [f"{o.method} {readable(o.path)}" for o in OPERATIONS]
    assert missing(routes, text("api.md")) == []


def readable(path: str) -> str:
    return (
        re.sub(r"{(\w+):\w+}", r"{\1}", path)
        .replace("{session_id}", "{id}")
        .replace("{vm_id}", "{id}")
    )


def test_every_command_is_documented(generator: dict[str, Any]) -> None:
    commands = [f"era {name}" for name in generator["command_names"]()]
    assert {"era serve", "era doctor"} <= set(commands)
    assert missing(commands, text("cli.md")) == []


def test_what_is_not_documented_is_found() -> None:
    assert missing(["ERA_NO_SUCH_THING"], text("configuration.md")) == ["ERA_NO_SUCH_THING"]
    assert missing(["DELETE /health"], text("api.md")) == ["DELETE /health"]


def test_every_page_is_in_the_index() -> None:
    index = text("index.md")
    assert [path.name for path in DOCS.glob("[!i]*.md") if f"({path.name})" not in index] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    prose = CODE_BLOCK.sub("", page.read_text())
    broken = [link for link in LINK.findall(prose) if not leads_somewhere(page, link)]
    assert broken == []


def leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith(("http://", "https://")):
        return True
    file, _, fragment = link.partition("#")
    target = page.parent / file if file else page
    if not target.exists():
        return False
    return not fragment or fragment in {anchor(h) for h in HEADING.findall(target.read_text())}


def anchor(heading: str) -> str:
    """The fragment that renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_a_broken_link_is_found() -> None:
    assert not leads_somewhere(DOCS / "index.md", "nowhere.md")
    assert not leads_somewhere(DOCS / "index.md", "errors.md#no-such-heading")
    assert leads_somewhere(DOCS / "index.md", "errors.md#codes")
