"""The DNS message format: what is answered, what is malformed, and that garbage never breaks it."""

from __future__ import annotations

import contextlib
import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from era.egress.dns import (
    AAAA,
    MAX_ANSWERS,
    A,
    MalformedError,
    Rcode,
    error_reply,
    parse_query,
    reply,
)
from era.egress.dns_server import Bucket
from era.egress.policy import Address
from tests.egress.dns_client import query, read_reply

LABEL = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, max_size=6).map(".".join).filter(lambda name: len(name) <= 253)


@given(NAME, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_query_is_read_as_it_was_written(name: str, kind: int, identity: int) -> None:
    parsed = parse_query(query(name, kind, identity))
    assert (parsed.name, parsed.kind, parsed.identity) == (name, kind, identity)
    assert parsed.recursion_desired


@given(NAME, st.sampled_from([A, AAAA]), st.lists(st.ip_addresses(), max_size=20))
def test_a_reply_carries_the_addresses_of_its_kind(
    name: str, kind: int, addresses: list[Address]
) -> None:
    data = reply(parse_query(query(name, kind, 7)), Rcode.OK, addresses)
    version = 4 if kind == A else 6
    expected = [each for each in addresses if each.version == version][:MAX_ANSWERS]
    assert read_reply(data) == (7, Rcode.OK, expected)
    assert len(data) <= 512
    assert data[2] & 0x80


@given(st.binary(max_size=600))
@example(b"")
@example(query("a.example", A, 1) + b"\0" * 11)
def test_garbage_is_malformed_or_a_query_and_nothing_else(data: bytes) -> None:
    try:
        parsed = parse_query(data)
    except MalformedError as error:
        identity = error.identity
    else:
        identity = parsed.identity
        reply_size = len(reply(parsed, Rcode.OK))
        assert reply_size <= 512
    assert identity is None or identity == struct.unpack_from("!H", data)[0]


@given(st.data())
def test_a_damaged_query_never_does_more_than_fail(data: st.DataObject) -> None:
    good = bytearray(query("some.name.example", A, 5))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    with contextlib.suppress(MalformedError):
        parse_query(bytes(good[:cut]))


def test_additional_records_are_ignored() -> None:
    plain = query("a.example", A, 1)
    edns = b"\0\0\x29\x10\0\0\0\0\0\0\0"
    data = plain[:10] + b"\0\1" + plain[12:] + edns
    assert parse_query(data).question == parse_query(plain).question


@pytest.mark.parametrize(
    ("data", "rcode"),
    [
        (struct.pack("!HHHHHH", 9, 0x0100, 0, 0, 0, 0), Rcode.FORMAT),
        (struct.pack("!HHHHHH", 9, 0x0100, 2, 0, 0, 0) + b"\0\0\1\0\1" * 2, Rcode.FORMAT),
        (struct.pack("!HHHHHH", 9, 0x0100, 1, 1, 0, 0) + b"\0\0\1\0\1", Rcode.FORMAT),
        (struct.pack("!HHHHHH", 9, 0x2900, 1, 0, 0, 0) + b"\0\0\1\0\1", Rcode.NOT_IMPLEMENTED),
        (struct.pack("!HHHHHH", 9, 0x0100, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", Rcode.FORMAT),
        (struct.pack("!HHHHHH", 9, 0x0100, 1, 0, 0, 0) + b"\0\0\1\0\3", Rcode.REFUSED),
        (struct.pack("!HHHHHH", 9, 0x0100, 1, 0, 0, 0) + b"\1.\0\0\1\0\1", Rcode.FORMAT),
        (struct.pack("!HHHHHH", 9, 0x0100, 1, 0, 0, 0) + b"\1\xff\0\0\1\0\1", Rcode.FORMAT),
    ],
)
def test_what_is_wrong_is_said(data: bytes, rcode: Rcode) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_query(data)
    assert (caught.value.identity, caught.value.rcode) == (9, rcode)
    assert read_reply(error_reply(9, rcode)) == (9, rcode, [])


def test_a_response_is_never_answered() -> None:
    answered = reply(parse_query(query("a.example", A, 1)), Rcode.OK)
    with pytest.raises(MalformedError) as caught:
        parse_query(answered)
    assert caught.value.identity is None


def test_a_name_of_256_bytes_is_malformed() -> None:
    with pytest.raises(MalformedError):
        parse_query(query(".".join(["a" * 63] * 4), A, 1))


def test_the_bucket_allows_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(10, 3, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(100.15), bucket.take(100.15)] == [True, False]
    assert [bucket.take(200.0) for _ in range(4)] == [True, True, True, False]


def test_addresses_of_the_other_kind_give_an_empty_answer() -> None:
    only_four = [ipaddress.ip_address("93.184.216.34")]
    data = reply(parse_query(query("a.example", AAAA, 1)), Rcode.OK, only_four)
    assert read_reply(data) == (1, Rcode.OK, [])
