"""A real network namespace with nothing but loopback, as a box has, driven from one thread of its own.

A socket belongs for good to the namespace of the thread that made it, and a child process starts in
that of the thread that started it; so everything here is made in that thread and used anywhere.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from era.egress.broker import BoxSockets
from era.egress.environment import DNS_PORT, LOOPBACK, PROXY_PORT

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def _set_address(sock: socket.socket, name: bytes, request: int, address: str) -> None:
    packed = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))
    fcntl.ioctl(sock, request, struct.pack("16s16s8x", name, packed))


def _enter(addresses: Sequence[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
        for index, address in enumerate(addresses):
            alias = f"lo:{index}".encode()
            _set_address(sock, alias, _SIOCSIFADDR, address)
            _set_address(sock, alias, _SIOCSIFNETMASK, "255.255.255.255")


def can_make_namespaces() -> bool:
    """Whether this machine lets us."""
    return os.geteuid() == 0


class Namespace:
    """One network namespace.  `local` are outside addresses that its loopback answers for: what a
    catch-all local route does for all of them."""

    def __init__(self, *, local: Sequence[str] = ()) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.call(lambda: _enter(local))

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` inside."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        self._thread.shutdown()

    def listener(self, host: str, port: int) -> socket.socket:
        """As the launcher makes them.  Address reuse lets a namespace be used again at once; a port
        that is being listened on cannot be taken by it."""

        def make() -> socket.socket:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(128)
            return sock

        return self.call(make)

    def client(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """An unconnected non-blocking socket of a program in the box."""
        sock = self.call(lambda: socket.socket(socket.AF_INET, kind))
        sock.setblocking(False)
        return sock

    def sockets(self, transparent: Sequence[int] = ()) -> BoxSockets:
        """What the launcher hands to the broker."""

        def udp() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((LOOPBACK, DNS_PORT))
            return sock

        return BoxSockets(
            proxy=self.listener(LOOPBACK, PROXY_PORT),
            dns_tcp=self.listener(LOOPBACK, DNS_PORT),
            dns_udp=self.call(udp),
            transparent=tuple(self.listener("0.0.0.0", port) for port in transparent),
        )

    def start(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """A program in the box."""
        return self.call(
            lambda: subprocess.Popen(
                argv, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
