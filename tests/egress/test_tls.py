"""Reading the server name out of a real ClientHello, and refusing what is not plain."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from era.egress.tls import (
    IncompleteError,
    NotAHelloError,
    hello_is_whole,
    looks_like_tls,
    server_name,
)
from tests.egress.servers import client_hello

HELLO = client_hello("good.example")


def with_extension(hello: bytes, kind: int, body: bytes) -> bytes:
    """`hello` with one more extension at the end, every length around it mended."""
    extra = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body
    data = bytearray(hello + extra)
    at = 5 + 4 + 2 + 32
    at += 1 + data[at]
    at += 2 + int.from_bytes(data[at : at + 2], "big")
    at += 1 + data[at]
    for where, size in ((3, 2), (6, 3), (at, 2)):
        grown = int.from_bytes(data[where : where + size], "big") + len(extra)
        data[where : where + size] = grown.to_bytes(size, "big")
    return bytes(data)


def test_the_name_is_found_whatever_follows() -> None:
    assert server_name(HELLO) == "good.example"
    assert server_name(HELLO + b"\x17\x03\x03\x00\x05early") == "good.example"
    assert looks_like_tls(HELLO)


def test_a_hello_without_a_name_has_none() -> None:
    assert server_name(client_hello(None)) is None


def test_every_cut_is_incomplete() -> None:
    for size in range(1, len(HELLO)):
        assert not hello_is_whole(HELLO[:size])
        with pytest.raises(IncompleteError):
            server_name(HELLO[:size])
    assert hello_is_whole(HELLO)


@given(st.integers(1, 40))
def test_a_hello_spread_over_records_is_put_together(size: int) -> None:
    message = HELLO[5:]
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    spread = b"".join(HELLO[:3] + len(part).to_bytes(2, "big") + part for part in parts)
    assert server_name(spread) == "good.example"


@pytest.mark.parametrize(
    "data",
    [
        with_extension(HELLO, 0xFE0D, b"\0" * 40),
        with_extension(HELLO, 0, b"\0\x0b\0\0\x08bad.test"),
        with_extension(client_hello(None), 0, b"\0\x0e\0\0\x04a.bc\0\0\x04d.ef"),
        with_extension(client_hello(None), 0, b"\0\x07\1\0\x04a.bc"),
        with_extension(client_hello(None), 0, b"\0\x07\0\0\x04a\xff.b"),
        HELLO[:5] + b"\2" + HELLO[6:],
        b"\x16\x02" + HELLO[2:],
        b"\x16\x03\x01\x00\x00" + HELLO,
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(60000),
    ],
    ids=[
        "encrypted",
        "twice",
        "two names",
        "other kind",
        "not ascii",
        "server hello",
        "ssl2",
        "empty",
        "huge",
    ],
)
def test_what_hides_or_doubles_the_name_is_refused(data: bytes) -> None:
    assert hello_is_whole(data)
    with pytest.raises(NotAHelloError):
        server_name(data)


def test_the_mirror_an_unknown_extension_is_harmless() -> None:
    assert server_name(with_extension(HELLO, 0xABCD, b"x")) == "good.example"


def test_http_is_not_tls_and_needs_no_more_bytes() -> None:
    assert not looks_like_tls(b"GET / HTTP/1.1")
    assert hello_is_whole(b"G")


@given(st.binary(max_size=300))
def test_garbage_gives_a_name_or_one_of_two_errors(data: bytes) -> None:
    with contextlib.suppress(IncompleteError, NotAHelloError):
        server_name(b"\x16\x03\x01" + data)


@given(st.data())
def test_a_damaged_hello_gives_a_name_or_one_of_two_errors(data: st.DataObject) -> None:
    damaged = bytearray(HELLO)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(IncompleteError, NotAHelloError):
        server_name(bytes(damaged))
