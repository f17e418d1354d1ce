"""Generates the synchronous SDK from the asynchronous one: `python -m tools.blocking`.

`src/era/client/aio` is written by hand; `src/era/client/blocking` is what comes of it when `async`
and `await` are taken out and a few names are exchanged.  A test compares the two.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CLIENT: Final = Path(__file__).parents[1] / "src" / "era" / "client"
HAND: Final = CLIENT / "aio"
GENERATED: Final = CLIENT / "blocking"

NAMES: Final = {
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aclosing": "closing",
    "aio": "blocking",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
}
"""Beside these, `AsyncX` becomes `X` and `x_async` becomes `x`; `httpx2.AsyncClient` is one of them."""

HEAD: Final = "# Generated from ../aio by `scripts/sdk`; change that one.\n"


def blocking_name(name: str) -> str:
    """What a name of the asynchronous SDK is called in the synchronous one."""
    return NAMES.get(name) or name.removeprefix("Async").removesuffix("_async") or name


def blocking(source: str) -> str:
    """The synchronous form of a module, not yet formatted."""
    out, end, swallow = [], (1, 0), False
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if not swallow:
            out.append(between(lines, end, token.start))
        end, swallow = token.end, False
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            swallow = True
        elif token.type == tokenize.NAME:
            out.append(blocking_name(token.string))
        elif token.type == tokenize.STRING:
            out.append(blocking_text(token.string))
        else:
            out.append(token.string)
    return "".join(out)


def between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text between two places of a source: blanks, and joined lines."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    middle = "".join(lines[start[0] : end[0] - 1])
    last = lines[end[0] - 1][: end[1]] if end[0] <= len(lines) else ""
    return lines[start[0] - 1][start[1] :] + middle + last


def blocking_text(text: str) -> str:
    """A docstring: its examples are code too."""
    text = re.sub(r"\b(?:async|await) ", "", text)
    text = text.replace("The asynchronous SDK, written by hand", "The synchronous SDK, generated")
    return re.sub(r"\bAsync(?=[A-Z])", "", text)


def formatted(source: str, name: str) -> str:
    """The source as the linter wants it: imports in order, lines filled anew."""
    for command in (["check", "--fix", "--select", "I,F401"], ["format"]):
        run = ["ruff", *command, "--quiet", "--stdin-filename", str(GENERATED / name), "-"]
        ruff = [sys.executable, "-m", *run]
        done = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True)
        source = done.stdout
    return source


def modules() -> Iterator[tuple[Path, str]]:
    """Each generated module, and what it should hold."""
    for path in sorted(HAND.glob("*.py")):
        source = formatted(HEAD + blocking(path.read_text()), path.name)
        yield GENERATED / path.name, source


if __name__ == "__main__":
    GENERATED.mkdir(exist_ok=True)
    for module, text in modules():
        module.write_text(text)
