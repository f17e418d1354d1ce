"""The way out of a box: proxy, transparent connections and name service on sockets made inside it.

A box's network namespace has nothing but its own loopback.  The sockets here were created in that
namespace and belong to it for good, while this process, outside, accepts on them.  So everything a
box says to the world passes through here, and nothing else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Final

import structlog

from era.egress.dial import Dialer, UpstreamProxy
from era.egress.dns_server import DnsServer
from era.egress.limits import DEFAULT_LIMITS, BrokerLimits, Traffic
from era.egress.policy import EgressPolicy
from era.egress.proxy import HttpConnection
from era.egress.resolve import BoxResolver, HostResolver, Resolver
from era.egress.streams import Stream
from era.egress.transparent import TransparentConnection

Handler = Callable[[Stream], Coroutine[None, None, None]]

_log = structlog.get_logger()

_ACCEPT_PAUSE_SECONDS: Final = 0.1
"""After a failed accept (no descriptor free): the connection waits in the queue meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSockets:
    """Sockets made inside a box's network namespace: listening TCP ones, and a bound UDP one.

    `transparent` are those that connections arrive on which were meant for somebody else.
    """

    proxy: socket.socket | None = None
    transparent: tuple[socket.socket, ...] = ()
    dns_tcp: socket.socket | None = None
    dns_udp: socket.socket | None = None

    def close(self) -> None:
        """Close them all; they also hold the network namespace."""
        for sock in (self.proxy, *self.transparent, self.dns_tcp, self.dns_udp):
            if sock is not None:
                sock.close()


class Broker:
    """Serves the boxes of one server process, from its event loop.  One for all boxes."""

    def __init__(
        self,
        *,
        resolver: Resolver | None = None,
        upstream_proxy: UpstreamProxy | None = None,
        limits: BrokerLimits = DEFAULT_LIMITS,
        total_connections: int = 2048,
    ) -> None:
        self._own_resolver: Final = HostResolver() if resolver is None else None
        self._resolver: Final = resolver or self._own_resolver
        self._upstream: Final = upstream_proxy
        self._limits: Final = limits
        # Two descriptors each: this keeps a crowd of boxes from taking all of the process.
        self._total: Final = asyncio.Semaphore(total_connections)

    def close(self) -> None:
        """Give up what the broker holds; no box may be served any more."""
        if self._own_resolver is not None:
            self._own_resolver.close()

    @contextlib.asynccontextmanager
    async def serve(self, policy: EgressPolicy, sockets: BoxSockets) -> AsyncIterator[Traffic]:
        """Serve one box while the context lasts.  Takes `sockets` over: on leaving they are closed,
        and so is every connection of the box, finished or not; no descriptor remains."""
        traffic = Traffic()
        assert self._resolver is not None
        dialer = Dialer(
            policy=policy,
            resolver=BoxResolver(self._resolver, timeout_seconds=self._limits.lookup_seconds),
            upstream=self._upstream,
            connect_seconds=self._limits.connect_seconds,
        )
        box = _Box(dialer, self._limits, traffic, self._total)
        try:
            async with box.serving(sockets):
                yield traffic
        finally:
            sockets.close()


class _Box:
    """The tasks of one box."""

    def __init__(
        self, dialer: Dialer, limits: BrokerLimits, traffic: Traffic, total: asyncio.Semaphore
    ) -> None:
        self._dialer: Final = dialer
        self._limits: Final = limits
        self._traffic: Final = traffic
        self._total: Final = total
        self._places: Final = asyncio.Semaphore(limits.connections)
        self._dns: Final = DnsServer(dialer, limits, traffic)
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, sockets: BoxSockets) -> AsyncIterator[None]:
        try:
            self._open(sockets)
            yield
        finally:
            if sockets.dns_udp is not None:
                await self._dns.close_udp(sockets.dns_udp)
            await self._stop()

    def _open(self, sockets: BoxSockets) -> None:
        for listener, handler in (
            (sockets.proxy, self._http),
            (sockets.dns_tcp, self._dns.run_tcp),
            *((listener, self._transparent) for listener in sockets.transparent),
        ):
            if listener is not None:
                listener.setblocking(False)
                self._start(self._accept(listener, handler))
        if sockets.dns_udp is not None:
            self._dns.open_udp(sockets.dns_udp)

    async def _stop(self) -> None:
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)  # lets the finished tasks leave the set

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("egress connection failed", exc_info=error)

    async def _accept(self, listener: socket.socket, handler: Handler) -> None:
        """Take connections while there is a place; the others wait in the kernel's queue."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            await self._admit(Stream(sock), handler)

    async def _admit(self, client: Stream, handler: Handler) -> None:
        """Start to serve `client` as soon as there is a place for it."""
        try:
            await self._places.acquire()
            try:
                await self._total.acquire()
            except BaseException:
                self._places.release()
                raise
        except BaseException:
            client.close()
            raise
        self._traffic.connections += 1
        # A callback, not a `finally`: a task cancelled before its first step runs no `finally`.
        self._start(handler(client)).add_done_callback(lambda _: self._leave(client))

    def _leave(self, client: Stream) -> None:
        client.close()
        self._places.release()
        self._total.release()

    async def _http(self, client: Stream) -> None:
        await HttpConnection(client, self._dialer, self._limits, self._traffic).run()

    async def _transparent(self, client: Stream) -> None:
        await TransparentConnection(client, self._dialer, self._limits, self._traffic).run()
