"""The asking side of DNS, written apart from the server's code so that the two can disagree."""

from __future__ import annotations

import ipaddress
import struct

from era.egress.policy import Address


def query(name: str, kind: int, identity: int) -> bytes:
    """One question with recursion desired."""
    labels = [label.encode() for label in name.split(".")] if name else []
    wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return struct.pack("!HHHHHH", identity, 0x0100, 1, 0, 0, 0) + wire + struct.pack("!HH", kind, 1)


def read_reply(data: bytes) -> tuple[int, int, list[Address]]:
    """Identity, code and addresses of a response."""
    identity, flags, questions, answers, _, _ = struct.unpack_from("!HHHHHH", data)
    assert flags & 0x8000
    at = 12
    for _ in range(questions):
        while data[at]:
            at += data[at] + 1
        at += 5
    found: list[Address] = []
    for _ in range(answers):
        pointer, _, _, _, size = struct.unpack_from("!HHHIH", data, at)
        assert pointer == 0xC00C
        found.append(ipaddress.ip_address(data[at + 12 : at + 12 + size]))
        at += 12 + size
    assert at == len(data)
    return identity, flags & 0xF, found
