"""Pages from templates, and what makes a text of somebody else's harmless in them.

Every value is escaped by the templates.  Characters that would be invisible, or would turn the text
around them, are shown as what they are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from era import __version__
from era.durations import timestamp
from era.ids import new_token
from era.languages.table import LANGUAGES
from era.wire import number

_HERE: Final = os.path.dirname(os.path.abspath(__file__))
STATIC: Final[Mapping[str, str]] = {
    "dashboard.css": "text/css; charset=utf-8",
    "dashboard.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files that pages load, all of them the package's own."""

_PICTURES: Final = {c: chr(0x2400 + c) for c in range(32) if chr(c) not in "\t\n"}
_UNSEEN: Final = (*range(0x80, 0xA0), 0x61C, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F),
                  *range(0x2060, 0x2070), 0xFEFF)  # fmt: skip
_SHOWN: Final[Mapping[int, str]] = {
    **_PICTURES,
    0x7F: "\u2421",
    **{c: f"\u27e8U+{c:04X}\u27e9" for c in _UNSEEN},
}
_JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^"{}\[\]:,\s]+', re.DOTALL)


def visible(text: str) -> str:
    """A text in which nothing is hidden: control characters and marks of direction are shown."""
    return text.replace("\r\n", "\n").translate(_SHOWN)


def size(count: int) -> str:
    """A number of bytes for people."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            break
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"


def when(unix_ms: int | None) -> str:
    """A moment for people, in UTC; a dash for never."""
    if not unix_ms:
        return "\u2013"
    return timestamp(unix_ms)[:19].replace("T", " ") + " UTC"


def indented(text: str) -> str:
    """Compact JSON text over several lines; no digit and no escape of it is changed."""
    out: list[str] = []
    depth, before = 0, ""
    for piece in _JSON_TOKEN.findall(text):
        if piece in "}]":
            depth -= 1
            out.append("" if before in ("{", "[") else "\n" + "  " * depth)
        elif before in ("{", "[", ","):
            out.append("\n" + "  " * depth)
        out.append(": " if piece == ":" else piece)
        depth += piece in "{["
        before = piece
    return "".join(out)


def path_of(text: str) -> str:
    """A session id or file path as part of an address; slashes stay."""
    return quote(text, safe="/")


@cache
def static_file(name: str) -> bytes:
    """One of the package's own files."""
    assert name in STATIC
    with open(os.path.join(_HERE, "static", name), "rb") as file:
        return file.read()


@cache
def _mark(name: str) -> str:
    """What changes in the address of a file when the file does."""
    return hashlib.sha256(static_file(name)).hexdigest()[:12]


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(os.path.join(_HERE, "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "visible": visible,
        "size": size,
        "when": when,
        "iso": timestamp,
        "indented": indented,
        "path": path_of,
        "number": number,
    }
    made.globals |= {"version": __version__, "languages": LANGUAGES, "mark": _mark}
    return made


_TEMPLATES: Final = _environment()


def page(name: str, values: Mapping[str, Any], status: int = 200) -> Response:
    """A page of a template.  Nothing but the package's own style and script takes effect in it."""
    nonce = new_token()
    text = _TEMPLATES.get_template(name).render(**values, nonce=nonce)
    headers = {
        **PRIVATE,
        "Content-Security-Policy": "; ".join(
            (
                "default-src 'none'",
                f"style-src 'nonce-{nonce}'",
                f"script-src 'nonce-{nonce}'",
                "img-src 'self'",
                "connect-src 'self'",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
            )
        ),
        "X-Frame-Options": "DENY",
    }
    body = text.encode("utf-8", "replace")
    return Response(body, status, headers, "text/html; charset=utf-8")


PRIVATE: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer of the dashboard: kept by nobody, and out of reach of other pages."""
