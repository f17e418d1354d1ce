"""Inside a box's network namespace: lead every connection to the broker's sockets.

Programs that know of no proxy (raw sockets of a static binary) open connections to the address they
mean.  A default route over the loopback makes the kernel accept the attempt, and an nftables rule
rewrites its destination to a listener of the broker, which asks the socket for the true one
(SO_ORIGINAL_DST).  Name service goes to the broker's name server whatever server was meant.  All
other datagrams are rejected, so that a program is told at once.

Process 1 of a box, with the launcher's capabilities over the new network namespace.  The messages
are rtnetlink(7) and the batches of nf_tables (`linux/netfilter/nf_tables.h`), made by hand because
only the standard library is here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

_NETLINK_ROUTE: Final = 0
_NETLINK_NETFILTER: Final = 12
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_CREATE: Final = 0x400
_NLM_F_APPEND: Final = 0x800
_NLMSG_ERROR: Final = 2
_NESTED: Final = 0x8000

_RTM_NEWROUTE: Final = 24
_RTA_OIF: Final = 4
_RTA_PREFSRC: Final = 7
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_SCOPE: Final = {socket.AF_INET: 253, socket.AF_INET6: 0}  # RT_SCOPE_LINK, RT_SCOPE_UNIVERSE
_RTN_UNICAST: Final = 1
_LOOPBACK_INDEX: Final = 1
"""`lo` is the first interface of every network namespace."""

_BATCH_BEGIN: Final = 16
_BATCH_END: Final = 17
_NFTABLES: Final = 10
_NEWTABLE: Final = 0
_NEWCHAIN: Final = 3
_NEWRULE: Final = 6
_LOCAL_OUT: Final = 3
_PRIORITY_NAT: Final = -100
_PRIORITY_FILTER: Final = 0
_META_L4PROTO: Final = 16
_NETWORK_HEADER: Final = 1
_TRANSPORT_HEADER: Final = 2
_REGISTER: Final = 1
_EQUAL: Final = 0
_NOT_EQUAL: Final = 1
_REJECT_ICMP: Final = 0
_REJECT_CODE: Final = {socket.AF_INET: 13, socket.AF_INET6: 1}  # administratively prohibited

_TABLE: Final = "era"
_DNS_PORT: Final = 53
_DESTINATION: Final = {
    # Where the destination address lies in the header, and what of it says "loopback".
    socket.AF_INET: (16, b"\x7f"),
    socket.AF_INET6: (24, socket.inet_pton(socket.AF_INET6, "::1")),
}


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _be32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!i", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _message(kind: int, flags: int, serial: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, serial, 0) + body


def _converse(protocol: int, data: bytes, acknowledgements: int) -> None:
    """Send `data`, then read that many acknowledgements; the first error is raised."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(data, (0, 0))
        while acknowledgements:
            answer = sock.recv(65536)
            offset = 0
            while offset < len(answer):
                length, kind = struct.unpack_from("=IH", answer, offset)
                if kind == _NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", answer, offset + 16)
                    if error:
                        raise OSError(-error, os.strerror(-error), "netlink")
                    acknowledgements -= 1
                offset += length + (-length % 4)


def _default_routes() -> None:
    for serial, family in enumerate((socket.AF_INET, socket.AF_INET6), start=1):
        head = struct.pack(
            "=BBBBBBBBI",
            *(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, _SCOPE[family], _RTN_UNICAST, 0),
        )
        body = head + _attribute(_RTA_OIF, struct.pack("=I", _LOOPBACK_INDEX))
        source = "127.0.0.1" if family == socket.AF_INET else "::1"
        body += _attribute(_RTA_PREFSRC, socket.inet_pton(family, source))
        flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
        _converse(_NETLINK_ROUTE, _message(_RTM_NEWROUTE, flags, serial, body), 1)


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *attributes))


def _compare(operation: int, value: bytes) -> bytes:
    data = _nested(3, _attribute(1, value))
    return _expression("cmp", _be32(1, _REGISTER), _be32(2, operation), data)


def _protocol_is(protocol: int) -> bytes:
    load = _expression("meta", _be32(2, _META_L4PROTO), _be32(1, _REGISTER))
    return load + _compare(_EQUAL, bytes([protocol]))


def _payload(base: int, offset: int, length: int) -> bytes:
    where = (_be32(2, base), _be32(3, offset), _be32(4, length))
    return _expression("payload", _be32(1, _REGISTER), *where)


def _port_is(operation: int, port: int) -> bytes:
    return _payload(_TRANSPORT_HEADER, 2, 2) + _compare(operation, struct.pack("!H", port))


def _leaves_the_box(family: int) -> bytes:
    offset, loopback = _DESTINATION[socket.AddressFamily(family)]
    return _payload(_NETWORK_HEADER, offset, len(loopback)) + _compare(_NOT_EQUAL, loopback)


def _redirect_to(port: int) -> bytes:
    data = _nested(2, _attribute(1, struct.pack("!H", port)))
    load = _expression("immediate", _be32(1, _REGISTER), data)
    return load + _expression("redir", _be32(1, _REGISTER))


def _reject(family: int) -> bytes:
    code = _attribute(2, bytes([_REJECT_CODE[socket.AddressFamily(family)]]))
    return _expression("reject", _be32(1, _REJECT_ICMP), code)


class _Batch:
    """An nf_tables transaction: all of it, or nothing."""

    def __init__(self) -> None:
        self._serial = 1
        self._data = self._control(_BATCH_BEGIN)
        self.acknowledgements = 0

    def _control(self, kind: int) -> bytes:
        self._serial += 1
        body = struct.pack("=BB", socket.AF_UNSPEC, 0) + struct.pack("!H", _NFTABLES)
        return _message(kind, _NLM_F_REQUEST, self._serial, body)

    def add(self, family: int, kind: int, *attributes: bytes) -> None:
        """One object of `family`."""
        self._serial += 1
        flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE
        if kind == _NEWRULE:
            flags |= _NLM_F_APPEND
        body = struct.pack("=BB", family, 0) + struct.pack("!H", 0) + b"".join(attributes)
        self._data += _message(_NFTABLES << 8 | kind, flags, self._serial, body)
        self.acknowledgements += 1

    def commit(self) -> None:
        """Carry it out."""
        data = self._data + self._control(_BATCH_END)
        _converse(_NETLINK_NETFILTER, data, self.acknowledgements)


def _chain(batch: _Batch, family: int, name: str, kind: str, priority: int) -> None:
    hook = _nested(4, _be32(1, _LOCAL_OUT), _be32(2, priority))
    batch.add(family, _NEWCHAIN, _text(1, _TABLE), _text(3, name), hook, _text(7, kind))


def _rules(batch: _Batch, family: int, chain: str, rules: Sequence[bytes]) -> None:
    for rule in rules:
        names = (_text(1, _TABLE), _text(2, chain))
        batch.add(family, _NEWRULE, *names, _nested(4, rule))


def lead_to(port: int) -> None:
    """Lead every TCP connection out of the box to `port`, name service to port 53.

    Raises:
        OSError: the kernel has no nf_tables with `redir` and `reject`, or refuses.
    """
    _default_routes()
    batch = _Batch()
    for family in (socket.AF_INET, socket.AF_INET6):
        out = _leaves_the_box(family)
        udp, tcp = _protocol_is(socket.IPPROTO_UDP), _protocol_is(socket.IPPROTO_TCP)
        names = _port_is(_EQUAL, _DNS_PORT) + _redirect_to(_DNS_PORT)
        batch.add(family, _NEWTABLE, _text(1, _TABLE))
        _chain(batch, family, "lead", "nat", _PRIORITY_NAT)
        _rules(
            batch,
            family,
            "lead",
            [out + udp + names, out + tcp + names, out + tcp + _redirect_to(port)],
        )
        _chain(batch, family, "rest", "filter", _PRIORITY_FILTER)
        _rules(batch, family, "rest", [out + _reject(family)])
    batch.commit()
