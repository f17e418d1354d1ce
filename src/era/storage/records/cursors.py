"""Cursors of lists, and ranges of text in byte order.

A cursor is the key of the last item given, with a check sum: a list continues behind it whatever
was created or deleted meanwhile, and a text that we did not give is refused.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import crc32
from typing import Final

from era.errors import InputError, invalid_field

LAST: Final = "\U0010ffff" * 300
"""Behind every path (1024 bytes at most) and every id."""


def encode(kind: str, key: str) -> str:
    """A cursor behind `key` in a list of `kind`, a word of lower-case letters."""
    body = f"{kind}:{key}".encode()
    return urlsafe_b64encode(crc32(body).to_bytes(4, "big") + body).decode().rstrip("=")


def decode(kind: str, cursor: str) -> str:
    """The key in a cursor that `encode` made for the same kind.

    Raises:
        InputError: `invalid_field` for any other text.
    """
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        found, _, key = raw[4:].decode().partition(":")
    except ValueError as error:
        raise _refused() from error
    if found != kind or encode(kind, key) != cursor:
        raise _refused()
    return key


def _refused() -> InputError:
    return invalid_field("cursor", "a next_cursor of this list")


def prefix_range(prefix: str) -> tuple[str, str] | None:
    """`[low, high)` in byte order of the texts that begin with `prefix`; None: there are none."""
    if not is_text(prefix):
        return None
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return prefix, LAST
    after = ord(kept[-1]) + 1
    # Surrogates are no characters: what follows U+D7FF is U+E000.
    return prefix, kept[:-1] + chr(0xE000 if after == 0xD800 else after)


def is_text(text: str) -> bool:
    """Whether a database takes `text` as such: characters, none of them NUL."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
