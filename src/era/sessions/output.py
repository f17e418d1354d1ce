"""What the steps of a setup write: its last 64 KiB, and its last line."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from era.sessions.masking import Masker

OUTPUT_BYTES: Final = 64 << 10
"""Kept of what the steps write, of each stream."""
_LINE_CHARACTERS: Final = 200
_LINE_BYTES: Final = 4 * _LINE_CHARACTERS
_STREAMS: Final = ("stdout", "stderr")
_ESCAPES: Final = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*(?:[@-~]|$)|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)|[ -/]*(?:[0-~]|$))"
)
"""Escape sequences of terminals: of control, strings (titles, links), and short ones."""
_NPM_LOG: Final = re.compile(
    rb"^npm (?:error|ERR!) A complete log of this run can be found in:.*\n?(?:npm ERR! {2,}/.*\n?)?",
    re.MULTILINE,
)
"""What npm says of its log, a file that is gone with the box; older ones name it on another line."""
_TURNING: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
"""Characters that turn the direction of writing around."""


class Tail:
    """The last of what the steps of a setup wrote, `secrets` made unreadable.

    It is kept as it comes, and with it as much before as the longest secret has.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._masker = Masker(secrets)
        self._kept = {name: bytearray() for name in _STREAMS}
        self._recent = dict.fromkeys(_STREAMS, b"")
        self._latest = "stdout"
        self._line, self._line_is_old = "", False

    def feed(self, stream: str, chunk: bytes) -> None:
        """Take the next bytes of a stream."""
        before = self._masker.longest + 1  # and to know that something was cut off
        kept = self._kept[stream]
        kept += chunk
        if len(kept) > 2 * (OUTPUT_BYTES + before):
            del kept[: -(OUTPUT_BYTES + before)]
        # A line may come in pieces, cut anywhere.
        self._recent[stream] = (self._recent[stream] + chunk)[-(_LINE_BYTES + before) :]
        if chunk.strip():
            self._latest = stream
        self._line_is_old = True

    @property
    def last_line(self) -> str:
        """The last line of the step, in plain text."""
        if self._line_is_old:
            shown = self._masker.shown(self._recent[self._latest], _LINE_BYTES, growing=True)
            # Once more: what a secret was cut by may have been taken out.
            plain = _ESCAPES.sub(b"", _NPM_LOG.sub(b"", shown))
            plain = self._masker.shown(plain, _LINE_BYTES)
            self._line = _last_line(plain.decode("utf-8", "replace")) or self._line
            self._line_is_old = False
        return self._line

    def texts(self) -> tuple[str, str]:
        """Both streams as text."""
        out, err = (self._text(bytes(self._kept[name])) for name in _STREAMS)
        return out, err

    def _text(self, data: bytes) -> str:
        shown = _NPM_LOG.sub(b"", self._masker.shown(data, OUTPUT_BYTES))[-OUTPUT_BYTES:]
        if len(data) > OUTPUT_BYTES:
            shown = shown.lstrip(_INSIDE)
        return shown.decode("utf-8", "replace")

    def begin(self) -> None:
        """Another step begins: what those before it wrote is no line of its own."""
        self._recent = dict.fromkeys(_STREAMS, b"")
        self._line, self._line_is_old = "", False

    def clear(self) -> None:
        """Forget everything."""
        for kept in self._kept.values():
            kept.clear()
        self.begin()

    def copy(self) -> Tail:
        """The same so far, going its own way from now on."""
        other = Tail()
        other._masker = self._masker
        for name, kept in self._kept.items():
            other._kept[name] += kept
        return other


_INSIDE: Final = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that no character begins with."""


def _last_line(text: str) -> str:
    lines = (plain(line).strip() for line in reversed(text.splitlines()))
    return next((line for line in lines if line), "")[:_LINE_CHARACTERS]


def plain(text: str) -> str:
    """A line without what a terminal would obey; characters of any script stay."""
    return "".join(char for char in text.replace("\t", " ") if not _is_control(char))


def _is_control(char: str) -> bool:
    return char in _TURNING or unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")
