"""The data file after a run: what a program left in `.session_data.json`, and what it counts as."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from era import jsontext
from era.models import JsonText
from era.relpath import DATA_FILE
from era.workspace import beneath

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOutcome:
    """What became of the data: `data` is the new value; both are None when it is unchanged.

    `error` is `invalid_json`, `null`, `too_large`, `missing` or `unreadable`; the old data stays.
    """

    data: JsonText | None = None
    error: str | None = None


def read(dir_fd: int, injected: bytes, limit_bytes: int) -> DataOutcome:
    """Read the data file in the open workspace directory; the program may have left anything there.

    `injected` is what the file held before the run.  `limit_bytes` bounds the compact UTF-8 form,
    inclusive.  A file longer than `file_bound` is `too_large` without being read, whatever is in
    it.  Never waits, follows no link, and raises nothing.
    """
    try:
        raw = _content(dir_fd, max(file_bound(limit_bytes), len(injected)))
    except FileNotFoundError:
        return DataOutcome(error="missing")
    except OSError:
        return DataOutcome(error=_missing_or_unreadable(dir_fd))
    if raw is None:
        return DataOutcome(error="too_large")
    if raw == injected:
        return DataOutcome()
    return parse(raw, limit_bytes)


def file_bound(limit_bytes: int) -> int:
    """How long a data file may be: escapes for each character make the compact form six times
    longer, and white space, which the limit does not count, needs room too."""
    return 6 * limit_bytes + (8 << 20)


def parse(raw: bytes, limit_bytes: int) -> DataOutcome:
    """What the bytes of a changed data file count as."""
    # Each value beyond the first costs a byte of the compact form at least: a comma or a bracket.
    # (Members of the same name are counted each.)  So what is parsed is bounded before it is.
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > limit_bytes:
        return DataOutcome(error="too_large")
    try:
        value = jsontext.loads(raw)
    except jsontext.JsonTextError:
        return DataOutcome(error="invalid_json")
    if value is None:
        return DataOutcome(error="null")
    text = jsontext.dumps(value)
    if len(text.encode()) > limit_bytes:
        return DataOutcome(error="too_large")
    return DataOutcome(data=text)


def _content(dir_fd: int, bound: int) -> bytes | None:
    """The bytes of the file; None when there are more than `bound`."""
    fd = beneath.open_regular(dir_fd, DATA_FILE)
    try:
        if os.fstat(fd).st_size > bound:
            return None
        parts = []
        while chunk := os.read(fd, _CHUNK):
            parts.append(chunk)
        return b"".join(parts)
    finally:
        os.close(fd)


def _missing_or_unreadable(dir_fd: int) -> str:
    """A whiteout is how the overlay file system says that a file was deleted."""
    try:
        found = beneath.lstat(dir_fd, DATA_FILE)
    except OSError:
        return "unreadable"
    return "missing" if found is None or beneath.is_whiteout(found) else "unreadable"
