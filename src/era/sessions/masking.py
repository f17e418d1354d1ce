"""Secrets made unreadable in what programs write.

Output comes in pieces and is looked at seldom, so it is kept as it came and masked when it is shown.
Secrets and output are both strangers': what one look costs grows with neither faster than linearly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import quote

from era.languages.mirrors import credentials

MASK: Final = b"***"
SHORTEST: Final = 4
"""Characters of a variable's value that counts as a secret.  Shorter ones ("1", "on", "dev") would make
any output unreadable, and where the masks stand would tell them anyway."""
_LINE: Final = 8
"""Characters of a line of such a value that is masked by itself."""
_MOST_LINES: Final = 256
_PIECE_BYTES: Final = 4096
"""A longer secret is looked for in pieces of this length."""
_TRIES: Final = 64
"""Places at which a secret may have begun that are looked at; one more counts as a begun secret."""


def of_variables(variables: Mapping[str, str]) -> tuple[str, ...]:
    """What is secret of variables: the values, the credentials of URLs among them, their longest lines,
    and how all that stands in a URL."""
    values = {value.strip() for value in variables.values()}
    lines = {line.strip() for value in values for line in value.splitlines()}
    lines = {line for line in lines - values if len(line) >= _LINE}
    longest = sorted(lines, key=lambda line: (-len(line), line))[:_MOST_LINES]
    parts = {part for value in values for part in credentials(value)}
    found = {secret for secret in values | parts if len(secret) >= SHORTEST}.union(longest)
    return tuple(sorted(found | {quote(secret, safe="") for secret in found}))


class Masker:
    """Makes `secrets` unreadable."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        whole = {secret.encode(errors="surrogateescape") for secret in secrets if secret}
        self._secrets: Final = sorted({piece for secret in whole for piece in _pieces(secret)})
        self.longest: Final = max(map(len, self._secrets), default=0)
        """Bytes that have to be known before what is shown, so that no half of a secret is."""

    def shown(self, data: bytes, most: int, *, growing: bool = False) -> bytes:
        """The last `most` bytes of `data`, masked.  With `growing` the rest of a secret that it may
        end within is still to come, and that secret is left out."""
        begun = self._begun(data)
        spans = [*self._found(data)]
        end = begun if growing else len(data)
        if not growing and len(data) - begun >= SHORTEST:
            spans.append((begun, len(data)))
        shown, at = bytearray(), max(len(data) - most, 0)
        masked_to = -1
        for first, last in sorted(spans):
            if last <= at or first >= end:
                continue
            shown += data[at:first]
            if first >= at or masked_to < at:
                shown += MASK
            at = masked_to = last
        return bytes(shown + data[at:end])

    def text(self, text: str) -> str:
        """All of a text, masked where a secret is whole."""
        data = text.encode(errors="replace")
        hidden = any(secret in data for secret in self._secrets)
        return self.shown(data, len(data)).decode("utf-8", "replace") if hidden else text

    def _found(self, data: bytes) -> Iterator[tuple[int, int]]:
        for secret in self._secrets:
            at = data.find(secret)
            while at >= 0:
                yield at, at + len(secret)
                at = data.find(secret, at + len(secret))

    def _begun(self, data: bytes) -> int:
        """Where a secret begins that `data` ends within; the end without one."""
        return min((_begins(secret, data) for secret in self._secrets), default=len(data))


def _pieces(secret: bytes) -> Iterator[bytes]:
    """The secret, or pieces that cover it, all of one length."""
    if len(secret) <= _PIECE_BYTES:
        yield secret
        return
    for at in range(0, len(secret), _PIECE_BYTES):
        at = min(at, len(secret) - _PIECE_BYTES)
        yield secret[at : at + _PIECE_BYTES]


def _begins(secret: bytes, data: bytes) -> int:
    head = secret[:SHORTEST]
    at = data.find(head, max(len(data) - len(secret) + 1, 0))
    for _ in range(_TRIES):
        if at < 0:
            break
        if secret.startswith(data[at:]):
            return at
        at = data.find(head, at + 1)
    if at >= 0:
        return at
    sizes = range(min(len(head), len(secret) - 1), 0, -1)
    return next((len(data) - size for size in sizes if data.endswith(head[:size])), len(data))
