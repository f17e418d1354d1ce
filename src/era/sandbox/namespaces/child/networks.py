"""Network namespaces of boxes, made once and used by one box after the other.

To make one and to take it apart is the dearest step of a box.  A box that may reach nothing leaves its
network as it was, unless a program in it sent something over the loopback or left a socket: then the
kernel's counters and lists, which the next box could read, are not those of a new one, and it goes.

Launcher process, with its capabilities.
"""

from __future__ import annotations

import os
import re
import socket

from era.sandbox.namespaces.child import syscalls as sys

_TELLING = (
    *("dev", "snmp", "snmp6", "netstat", "sockstat", "sockstat6", "unix"),
    *("ip6_flowlabel", "rt6_stats"),
)
"""What tells of a network's past: packets, errors, sockets that live on (proc_net(5)); labels of flows,
which outlive their socket and carry an address of the program's choice (net/ipv6/ip6_flowlabel.c), and
routes that a socket without packets had looked up.  Nothing else can be changed there, since no process
of a box has a right over the namespace."""
_OF_THE_HOST = re.compile(rb" (?:orphan|alloc|mem) \d+")
"""What `sockstat` counts for all networks together."""
_KEEP = 32


class Networks:
    """Namespaces ready for boxes.  This process is at home in one of its own."""

    def __init__(self) -> None:
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._free: list[int] = []
        self._as_new: list[bytes] | None = None

    def take(self) -> int | None:
        """The descriptor of one that is as new, or None."""
        return self._free.pop() if self._free else None

    def give_back(self, network: int) -> None:
        """The box that had it is dead."""
        if len(self._free) < _KEEP and self._is_as_new(network):
            self._free.append(network)
        else:
            os.close(network)

    def _is_as_new(self, network: int) -> bool:
        try:
            sys.setns(network, sys.CLONE_NEWNET)
            try:
                return _past() == self._expected()
            finally:
                self._come_home()
        except OSError:
            return False

    def _expected(self) -> list[bytes]:
        """What a network tells that nobody has used; looked up once, in one that is made for it."""
        if self._as_new is None:
            sys.unshare(sys.CLONE_NEWNET)
            loopback_up()
            self._as_new = _past()
        return self._as_new

    def _come_home(self) -> None:
        try:
            sys.setns(self._home, sys.CLONE_NEWNET)
        except OSError:
            os._exit(1)  # a launcher that cannot come back ends, with every box


def loopback_up() -> None:
    """Bring up `lo` where this process is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sys.loopback_up(sock.fileno())


def _past() -> list[bytes]:
    found = []
    for name in _TELLING:
        try:
            fd = os.open(f"/proc/self/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # a kernel without IPv6
            continue
        try:
            found.append(_OF_THE_HOST.sub(b"", os.read(fd, 1 << 16)))
        finally:
            os.close(fd)
    return found
