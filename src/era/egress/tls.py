"""The server name in a TLS ClientHello, read without any TLS library and without answering."""

from __future__ import annotations

from typing import Final

HELLO_BYTES: Final = 64 << 10
"""A ClientHello with post-quantum key shares has about 2 KiB; more than this is not one."""

ACCESS_DENIED: Final = b"\x15\x03\x03\x00\x02\x02\x31"
"""The fatal alert that tells a client that its greeting was understood and is refused."""

_HANDSHAKE: Final = 0x16
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ENCRYPTED_HELLO: Final = 0xFE0D


class IncompleteError(Exception):
    """More bytes are needed."""


class NotAHelloError(ValueError):
    """These bytes are not a ClientHello, or one that hides or doubles the server name."""


class _Reader:
    """Takes lengths-and-bytes off the front; running out raises what it was told to raise."""

    def __init__(self, data: bytes, short: type[Exception]) -> None:
        self._data = data
        self._at = 0
        self._short = short

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise self._short
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))

    @property
    def more(self) -> bool:
        return self._at < len(self._data)


def looks_like_tls(data: bytes) -> bool:
    """Whether the first byte begins a TLS handshake record; HTTP never begins so."""
    return data[:1] == bytes([_HANDSHAKE])


def _handshake(data: bytes) -> bytes:
    """The first handshake message, put together from as many records as it is spread over."""
    records = _Reader(data, IncompleteError)
    message = b""
    while True:
        if records.number(1) != _HANDSHAKE or records.number(1) != 3:
            raise NotAHelloError
        records.take(1)
        fragment = records.vector(2)
        if not fragment:
            raise NotAHelloError
        message += fragment
        if len(message) >= 4:
            size = 4 + int.from_bytes(message[1:4], "big")
            if message[0] != _CLIENT_HELLO or size > HELLO_BYTES:
                raise NotAHelloError
            if len(message) >= size:
                return message[4:size]


def _extensions(hello: bytes) -> dict[int, bytes]:
    reader = _Reader(hello, NotAHelloError)
    reader.take(2 + 32)
    reader.vector(1)
    reader.vector(2)
    reader.vector(1)
    if not reader.more:
        return {}
    found: dict[int, bytes] = {}
    listed = _Reader(reader.vector(2), NotAHelloError)
    while listed.more:
        kind = listed.number(2)
        if kind in found:
            raise NotAHelloError
        found[kind] = listed.vector(2)
    return found


def server_name(data: bytes) -> str | None:
    """The server name asked for by the ClientHello at the front of `data`; None when it has none.

    Raises:
        IncompleteError: `data` ends within the hello.
        NotAHelloError: it is none, or names are doubled, or an encrypted hello hides the real name.
    """
    extensions = _extensions(_handshake(data))
    if _ENCRYPTED_HELLO in extensions:
        raise NotAHelloError
    if _SERVER_NAME not in extensions:
        return None
    names = _Reader(_Reader(extensions[_SERVER_NAME], NotAHelloError).vector(2), NotAHelloError)
    if names.number(1) != 0:
        raise NotAHelloError
    name = names.vector(2)
    if names.more or not name.isascii():
        raise NotAHelloError
    return name.decode("ascii")


def hello_is_whole(data: bytes) -> bool:
    """Whether nothing more is needed to decide what `data` begins with."""
    if not looks_like_tls(data):
        return True
    try:
        server_name(data)
    except IncompleteError:
        return False
    except NotAHelloError:
        return True
    return True
