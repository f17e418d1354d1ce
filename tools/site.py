"""Builds the documentation as a site: `python -m tools.site [DIRECTORY]`, `build/site` if none is given.

The pages are those of `docs/` and the ones about the project beside it, in the order of
`docs/index.md`.  Nothing on the site is fetched from elsewhere.  A link that leads nowhere is an error.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
ABOUT: Final = ("ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the project's own directory that are part of the site."""

LINK: Final = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
COLOURS: Final = re.compile(r"\x1b\[[\d;]*m")
LISTED: Final = re.compile(r"^\| \[([^\]]+)\]\(([\w-]+\.md)\)", re.MULTILINE)


class SiteError(Exception):
    """The site could not be built; the text is what the builder said."""


def site_link(words: str, target: str) -> str:
    """A link of a page as it is on the site, where all pages are in one directory.

    Files that are no pages, such as sources, are not on the site: their names are.
    """
    path, mark, fragment = target.partition("#")
    if path and not re.match(r"\w+:", path):
        path = path.removeprefix("../").removeprefix("docs/")
        if not path.endswith((".md", ".svg")) or "/" in path:
            return words
    return f"[{words}]({path}{mark}{fragment})"


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page."""
    for path in (*sorted(DOCS.glob("*.md")), *(ROOT / name for name in ABOUT)):
        yield path.name, LINK.sub(lambda link: site_link(link[1], link[2]), path.read_text())


def navigation() -> list[dict[str, object]]:
    """The pages in the order of the index, then those about the project."""
    listed = LISTED.findall((DOCS / "index.md").read_text())
    about = [{name.removesuffix(".md").capitalize(): name} for name in ABOUT]
    return [
        {"Overview": "index.md"},
        *({title: page} for title, page in listed),
        {"About the project": about},
    ]


def configuration(out: Path) -> str:
    """What the builder is told, as TOML.  A list of objects reads the same in both, but for `:`."""
    nav = json.dumps(navigation()).replace('": ', '" = ')
    return f"""[project]
site_name = "ERA"
site_description = "Runs code you do not trust, and remembers what it did"
site_dir = {json.dumps(str(out))}
nav = {nav}

[project.theme]
font = false
features = ["content.code.copy", "navigation.footer", "navigation.top", "toc.follow"]

[[project.theme.palette]]
media = "(prefers-color-scheme: light)"
scheme = "default"

[[project.theme.palette]]
media = "(prefers-color-scheme: dark)"
scheme = "slate"
"""


def build(out: Path) -> None:
    """Write the site to a directory, in place of what is there.

    Raises:
        SiteError: a link leads nowhere, or the builder is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="era-site-") as folder:
        staged, made = Path(folder), Path(folder) / "site"
        (staged / "docs").mkdir()
        for name, text in pages():
            (staged / "docs" / name).write_text(text)
        for picture in DOCS.glob("*.svg"):
            shutil.copy(picture, staged / "docs")
        (staged / "zensical.toml").write_text(configuration(made))
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=staged, capture_output=True, text=True)
        if done.returncode:
            raise SiteError(COLOURS.sub("", done.stdout + done.stderr))
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(made, out)


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "site"
    try:
        build(place)
    except SiteError as error:
        sys.exit(str(error))
    print(place / "index.html")
