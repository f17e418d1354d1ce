"""Many sessions answer under one origin: what of an answer would speak for all of it is kept to the
part that is the session's, or left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from era.api.peer import Headers, end_to_end, kept

_NEVER: Final = frozenset(
    b"date x-request-id x-era-live clear-site-data service-worker-allowed"
    b" strict-transport-security public-key-pins alt-svc cross-origin-opener-policy".split()
)
"""What this server says itself, and what holds for the whole origin; the last of them would bring a
page together with windows that shut themselves off from pages such as it."""


def answer_headers(headers: Iterable[tuple[bytes, bytes]], prefix: bytes) -> Headers:
    """What a client gets of the headers of an answer; `prefix` is the path of the session's port."""
    return [
        (name, own_cookie(value, prefix) if name == b"set-cookie" else value)
        for name, value in kept(end_to_end(headers), _NEVER)
    ]


def own_cookie(cookie: bytes, prefix: bytes) -> bytes:
    """A cookie that browsers send back below `prefix` only."""
    first, *attributes = cookie.split(b";")
    others, path = [], b"/"
    for attribute in attributes:
        name, _, value = attribute.partition(b"=")
        if name.strip().lower() == b"path":
            path = value.strip() if value.strip().startswith(b"/") else b"/"
        elif name.strip().lower() != b"domain":
            others.append(attribute)
    return b";".join([first, *others, b" Path=" + prefix + path])
