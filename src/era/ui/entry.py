"""Who is let into the dashboard: whoever has shown an API key, remembered by a cookie that holds none.

A cookie says until when it counts and is sealed with a key that is made from the API key.  So every
server with that key knows it, none has to remember it, and it ends when the key is taken away.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from era.api.keys import Keys
from era.ids import new_token

COOKIE: Final = "era_dashboard"
LASTS_SECONDS: Final = 12 * 3600
_FORM: Final = re.compile(r"([0-9]{1,12})\.([0-9A-Za-z_-]{8,64})\.([0-9a-f]{64})")
_WORK: Final = 1 << 14
"""Makes guessing a key from a cookie that was stolen dear: some 50 ms and 16 MiB a guess."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Whoever is let in.  `token` has to come with whatever changes something; it is empty where
    nothing that a browser sends by itself lets in."""

    token: str = ""
    signed_in: bool = False


class Entry:
    """The rule of the dashboard, for the API keys of the service; without keys all are let in."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self._bearer = Keys(self._keys)

    @property
    def needed(self) -> bool:
        """Whether a key has to be shown."""
        return bool(self._keys)

    @cached_property
    def _seals(self) -> tuple[bytes, ...]:
        return tuple(
            hashlib.scrypt(key.encode(), salt=b"era dashboard", n=_WORK, r=8, p=1)
            for key in self._keys
        )

    def cookie(self, key: str, now_ms: int) -> str | None:
        """The value of a cookie for whoever shows `key`; None when it is no key of the service."""
        given = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = None
        for known, seal in zip(self._keys, self._seals, strict=True):
            if hmac.compare_digest(given, hashlib.sha256(known.encode()).digest()):
                found = seal
        if found is None:
            return None
        said = f"{now_ms // 1000 + LASTS_SECONDS}.{new_token()}"
        return f"{said}.{_sealed(found, 'cookie', said)}"

    def visitor(
        self, authorization: str | None, cookies: Iterable[str], now_ms: int
    ) -> Visitor | None:
        """Who sends these headers; None when nobody is to be let in."""
        if not self._keys or self._bearer.allow(authorization):
            return Visitor()
        # A page of a box has the same origin and could set a cookie of the name beside ours, which
        # must not hide it: any that counts is enough.
        values = [value for text in cookies for value in _values(text)]
        found = (self._token(value, now_ms) for value in values)
        token = next((token for token in found if token is not None), None)
        return None if token is None else Visitor(token=token, signed_in=True)

    def _token(self, value: str, now_ms: int) -> str | None:
        match = _FORM.fullmatch(value)
        if match is None or int(match[1]) * 1000 <= now_ms:
            return None
        said = f"{match[1]}.{match[2]}"
        for seal in self._seals:
            if hmac.compare_digest(_sealed(seal, "cookie", said), match[3]):
                return _sealed(seal, "form", said)
        return None


def _sealed(seal: bytes, purpose: str, said: str) -> str:
    return hmac.new(seal, f"{purpose} {said}".encode(), hashlib.sha256).hexdigest()


def _values(header: str) -> list[str]:
    """The values of every cookie of ours in a header, in their order."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return [value for name, _, value in pairs if name == COOKIE]


def set_cookie(value: str, *, secure: bool) -> str:
    """The header that leaves a cookie with a browser; an empty value takes it away."""
    lasts = LASTS_SECONDS if value else 0
    words = f"{COOKIE}={value}; Max-Age={lasts}; Path=/ui; HttpOnly; SameSite=Strict"
    return words + "; Secure" * secure


class Guesses:
    """How often wrong keys came from where: a client that has guessed often has to wait."""

    def __init__(self, most: int = 10, window_seconds: int = 60, places: int = 10_000) -> None:
        self._most = most
        self._window_ms = window_seconds * 1000
        self._places = places
        self._wrong: dict[str, deque[int]] = {}

    def wait_seconds(self, place: str, now_ms: int) -> int:
        """How long that client has to wait for its next try; 0: it need not."""
        wrong = self._wrong.get(place)
        if wrong is None or len(wrong) < self._most:
            return 0
        return max(0, -(-(wrong[0] + self._window_ms - now_ms) // 1000))

    def was_wrong(self, place: str, now_ms: int) -> None:
        """A wrong key came from there.  Of very many clients the longest known is forgotten."""
        wrong = self._wrong.pop(place, None) or deque(maxlen=self._most)
        wrong.append(now_ms)
        self._wrong[place] = wrong
        if len(self._wrong) > self._places:
            del self._wrong[next(iter(self._wrong))]
