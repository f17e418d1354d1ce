"""Bodies that hold far too much: found cheaply, and answered shortly whatever they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from era.errors import TooLargeError

MAX_VALUES: Final = 1_000_000
"""Values in one JSON body, about: an order of magnitude above what its limits in bytes leave room
for, and what can be read without anybody else noticing."""
MAX_WARNINGS: Final = 20
"""Ignored fields that are named, for each object."""
MAX_SHOWN: Final = 80
"""Characters of a client's name in a message."""

_ENCODINGS: Final = ("utf-8", "base64")


def check_values(raw: bytes, most: int = MAX_VALUES) -> None:
    """Refuse a JSON text of more than `most` values without building any of them.

    Whatever is not JSON may pass or not.

    Raises:
        TooLargeError: `body_too_large`.
    """
    if _marks(raw) <= most:
        return
    # Only strings hold backslashes, so that without escapes every quote begins or ends a string.
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * most or _marks(b"".join(plain.split(b'"')[::2])) > most:
        text = f"request body exceeds {most} values"
        raise TooLargeError("body_too_large", most, text, hint="Put the bulk into files.")


def _marks(text: bytes) -> int:
    """What separates or opens values, or closes them if that is more."""
    opened = text.count(b",") + text.count(b"[") + text.count(b"{")
    return max(opened, text.count(b"]") + text.count(b"}"))


def shown(name: str) -> str:
    """A client's name for a message, cut when it is long."""
    return name if len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 3]}..."


def warnings(unknown: Sequence[str], where: str = "") -> tuple[str, ...]:
    """What to say of ignored fields: the first by name, the rest by number."""
    named = tuple(f"unknown field ignored: {where}{shown(n)}" for n in unknown[:MAX_WARNINGS])
    more = len(unknown) - len(named)
    return (*named, f"unknown fields ignored: {more} more") if more else named


def first_fault(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members; of many bad files or arguments only the first: one error is all that is told."""
    found = dict(members)
    args, files = found.get("args"), found.get("files")
    if isinstance(args, list):
        found["args"] = next(([arg] for arg in args if not isinstance(arg, str)), args)
    if isinstance(files, dict):
        found["files"] = next(({n: f} for n, f in files.items() if not _is_file(f)), files)
    return found


def _is_file(value: Any) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, str)
    return isinstance(value.get("content"), str) and value.get("encoding", "utf-8") in _ENCODINGS
