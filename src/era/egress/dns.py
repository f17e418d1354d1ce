"""The part of the DNS message format that a box needs: one question in, addresses out.

Pure.  Anything but a plain query is answered with an error code or not at all; a message is at most
512 bytes, so no answer is ever cut.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from era.egress.policy import Address

HEADER_BYTES: Final = 12
MAX_QUERY_BYTES: Final = 4096
MAX_ANSWERS: Final = 8
"""Eight IPv6 answers behind the longest name stay below 512 bytes."""
TTL_SECONDS: Final = 10
A: Final = 1
AAAA: Final = 28
_INTERNET: Final = 1
_HEADER: Final = struct.Struct("!HHHHHH")


class Rcode(IntEnum):
    """How an answer ended."""

    OK = 0
    FORMAT = 1
    FAILED = 2
    NO_NAME = 3
    NOT_IMPLEMENTED = 4
    REFUSED = 5


class MalformedError(ValueError):
    """Not a query that could be answered; `identity` is set when at least an error can be sent."""

    def __init__(self, identity: int | None, rcode: Rcode = Rcode.FORMAT) -> None:
        super().__init__("malformed query")
        self.identity: Final = identity
        self.rcode: Final = rcode


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question.  `name` is as asked, without the last dot; `question` its bytes, to repeat."""

    identity: int
    recursion_desired: bool
    name: str
    kind: int
    question: bytes

    @property
    def ip_version(self) -> int | None:
        """4 or 6, or None when something other than addresses is asked for."""
        return {A: 4, AAAA: 6}.get(self.kind)


def parse_query(data: bytes) -> Query:
    """Read a query.  Additional records (EDNS) are ignored, as a server without them may.

    Raises:
        MalformedError: for everything else.
    """
    if len(data) < HEADER_BYTES:
        raise MalformedError(None)
    identity, flags, questions, answers, authorities, _ = _HEADER.unpack_from(data)
    if flags & 0x8000:
        raise MalformedError(None)  # a response: answering it could go on for ever
    if flags & 0x7800:
        raise MalformedError(identity, Rcode.NOT_IMPLEMENTED)
    if (questions, answers, authorities) != (1, 0, 0):
        raise MalformedError(identity)
    name, end = _name(data, identity)
    if len(data) < end + 4:
        raise MalformedError(identity)
    kind, category = struct.unpack_from("!HH", data, end)
    if category != _INTERNET:
        raise MalformedError(identity, Rcode.REFUSED)
    return Query(
        identity=identity,
        recursion_desired=bool(flags & 0x0100),
        name=name,
        kind=kind,
        question=data[HEADER_BYTES : end + 4],
    )


def _name(data: bytes, identity: int) -> tuple[str, int]:
    """The name after the header and where it ends.  A question has nothing to point back to, so a
    compression pointer is malformed, and the reading can only go forwards."""
    labels: list[str] = []
    at = HEADER_BYTES
    while True:
        if at >= len(data) or at - HEADER_BYTES > 254 or data[at] > 63:
            raise MalformedError(identity)
        size = data[at]
        at += 1
        if size == 0:
            return ".".join(labels), at
        label = data[at : at + size]
        if len(label) < size or b"." in label or not label.isascii():
            raise MalformedError(identity)
        labels.append(label.decode("ascii"))
        at += size


def error_reply(identity: int, rcode: Rcode) -> bytes:
    """An answer to what could not be understood."""
    return _HEADER.pack(identity, 0x8080 | rcode, 0, 0, 0, 0)


def reply(query: Query, rcode: Rcode, addresses: Sequence[Address] = ()) -> bytes:
    """The answer to `query`: of `addresses` those of the version asked for, the first eight."""
    fitting = [each for each in addresses if each.version == query.ip_version][:MAX_ANSWERS]
    flags = 0x8080 | (0x0100 if query.recursion_desired else 0) | rcode
    head = _HEADER.pack(query.identity, flags, 1, len(fitting), 0, 0)
    return head + query.question + b"".join(_record(query.kind, each) for each in fitting)


def _record(kind: int, address: Address) -> bytes:
    """An answer record; its name points to the question's."""
    packed = address.packed
    fixed = struct.pack("!HHHIH", 0xC000 | HEADER_BYTES, kind, _INTERNET, TTL_SECONDS, len(packed))
    return fixed + packed
