"""Connections of programs that know of no proxy, redirected to the broker by the box's own kernel.

The address that the program meant is asked of the accepted socket.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import Final

from era.egress import tls
from era.egress.dial import Dialer, RefusedError, UnreachableError
from era.egress.limits import BrokerLimits, Traffic
from era.egress.policy import WEB_PORTS, Address
from era.egress.proxy import HttpConnection
from era.egress.sniff import Sniffer
from era.egress.streams import Stream, relay
from era.models import Network

_SO_ORIGINAL_DST: Final = 80
_IP6T_SO_ORIGINAL_DST: Final = 80
_SOCKADDR_IN6: Final = 28
_LINGER_SECONDS: Final = 2.0


def original_destination(sock: socket.socket) -> tuple[Address, int]:
    """Where the program meant to connect.

    A redirecting rule keeps the true destination with the connection (SO_ORIGINAL_DST).  Where the
    connection arrived without being rewritten (TPROXY, or a route that makes every address local)
    there is no such record, and the socket's own name is the destination.

    Raises:
        OSError: the connection is already gone.
    """
    try:
        if sock.family == socket.AF_INET:
            raw = sock.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
            port, packed = struct.unpack("!2xH4s8x", raw)
        else:
            raw = sock.getsockopt(socket.IPPROTO_IPV6, _IP6T_SO_ORIGINAL_DST, _SOCKADDR_IN6)
            port, packed = struct.unpack("!2xH4x16s4x", raw)
        return _plain(ipaddress.ip_address(packed)), port
    except OSError:
        host, port = sock.getsockname()[:2]
        return _plain(ipaddress.ip_address(host.partition("%")[0])), port


def _plain(address: Address) -> Address:
    """An IPv4 address that came through an IPv6 socket, as itself."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class TransparentConnection:
    """One redirected connection, from accept to its end.  A refusal can only be a closed socket."""

    def __init__(
        self, client: Stream, dialer: Dialer, limits: BrokerLimits, traffic: Traffic
    ) -> None:
        self._client: Final = client
        self._dialer: Final = dialer
        self._limits: Final = limits
        self._traffic: Final = traffic

    async def run(self) -> None:
        """Serve it."""
        try:
            address, port = original_destination(self._client.sock)
            if address.is_loopback or address.is_unspecified:
                # The box's own loopback: nobody was redirected, this port itself was called.
                raise RefusedError("not a redirected connection")
            if self._dialer.policy.network is Network.INTERNET:
                await self._relay(str(address), port)
            else:
                await self._registries(address, port)
        except RefusedError:
            self._traffic.refused += 1
        except (OSError, UnreachableError):
            pass  # closing is all that can be said

    async def _registries(self, address: Address, port: int) -> None:
        """Only the web's own ports, and only for an allowed name that really has this address."""
        if port not in WEB_PORTS:
            raise RefusedError("only ports 80 and 443")
        sniffer = Sniffer(self._dialer.policy, self._limits)
        first = await sniffer.first_bytes(self._client)
        if not tls.looks_like_tls(first):
            await HttpConnection(
                self._client,
                self._dialer,
                self._limits,
                self._traffic,
                origin_port=port,
                only=address,
            ).run()
            return
        try:
            name = await self._checked_name(sniffer.tls_name(first), address, port)
        except RefusedError:
            await self._client.write(tls.ACCESS_DENIED)
            await self._client.linger(_LINGER_SECONDS)
            raise
        await self._relay(name, port)

    async def _checked_name(self, name: str | None, address: Address, port: int) -> str:
        if name is None or address not in await self._dialer.addresses(name, port):
            raise RefusedError("the server name is not allowed, or not at this address")
        return name

    async def _relay(self, host: str, port: int) -> None:
        server = await self._dialer.tunnel(host, port)
        with contextlib.closing(server):
            await relay(
                self._client,
                server,
                idle_seconds=self._limits.idle_seconds,
                count=self._traffic.count,
            )
