"""Name service for a box: addresses only, only of names it may reach, only those it may connect to.

Other record types are refused: under `registries` they would carry bytes out and in, and no program
needs them to connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final

from era.egress.dial import Dialer, RefusedError, UnreachableError
from era.egress.dns import (
    MAX_QUERY_BYTES,
    MalformedError,
    Rcode,
    error_reply,
    parse_query,
    reply,
)
from era.egress.limits import BrokerLimits, Traffic
from era.egress.policy import Address, normalise_host, parse_literal
from era.egress.streams import HeadTooLargeError, Stream
from era.waiting import within

_BATCH: Final = 16
"""Datagrams taken at one wake-up, so that a flood leaves the loop to others in between."""


class Bucket:
    """Allows `burst` at once and `per_second` in the long run."""

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        self._per_second: Final = per_second
        self._burst: Final = burst
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is allowed at `now` (seconds, never going back)."""
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class DnsServer:
    """Answers the queries of one box, over UDP and over TCP."""

    def __init__(self, dialer: Dialer, limits: BrokerLimits, traffic: Traffic) -> None:
        self._dialer: Final = dialer
        self._limits: Final = limits
        self._traffic: Final = traffic
        self._loop: Final = asyncio.get_running_loop()
        self._bucket: Final = Bucket(limits.dns_per_second, limits.dns_burst, self._loop.time())
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    async def answer(self, data: bytes) -> bytes | None:
        """The reply to one message, None when it deserves none."""
        try:
            query = parse_query(data)
        except MalformedError as error:
            return None if error.identity is None else error_reply(error.identity, error.rcode)
        self._traffic.dns_queries += 1
        if not self._bucket.take(self._loop.time()):
            return reply(query, Rcode.FAILED)
        if query.ip_version is None:
            self._traffic.refused += 1
            return reply(query, Rcode.REFUSED)
        return reply(query, *await self._resolve(query.name))

    async def _resolve(self, name: str) -> tuple[Rcode, list[Address]]:
        """A refused name does not exist, as far as the box goes: programs take REFUSED for a
        passing trouble and ask again."""
        try:
            host = normalise_host(name)
            if parse_literal(host) is not None:
                return Rcode.NO_NAME, []
            return Rcode.OK, await self._dialer.lookup(host)
        except RefusedError:
            self._traffic.refused += 1
            return Rcode.NO_NAME, []
        except UnreachableError as error:
            return (Rcode.FAILED if error.temporary else Rcode.NO_NAME), []
        except ValueError:
            return Rcode.NO_NAME, []

    # --- UDP

    def open_udp(self, sock: socket.socket) -> None:
        """Begin to answer on `sock`, which stays the caller's."""
        sock.setblocking(False)
        self._loop.add_reader(sock, self._datagrams, sock)

    async def close_udp(self, sock: socket.socket) -> None:
        """Stop; no task uses `sock` afterwards."""
        self._loop.remove_reader(sock)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _datagrams(self, sock: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                data, peer = sock.recvfrom(MAX_QUERY_BYTES)
            except OSError:
                return  # nothing more, or an error that an earlier answer came back with
            if len(self._tasks) >= self._limits.dns_at_once:
                _send(sock, _too_busy(data), peer)
                continue
            task = self._loop.create_task(self._answer_udp(sock, data, peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_udp(self, sock: socket.socket, data: bytes, peer: Any) -> None:
        _send(sock, await self.answer(data), peer)

    # --- TCP

    async def run_tcp(self, client: Stream) -> None:
        """Serve one TCP connection: messages behind two bytes of length each, one after the other."""
        with contextlib.suppress(OSError, HeadTooLargeError):
            async with within(self._limits.head_seconds):
                while (data := await _message(client)) is not None:
                    answer = await self.answer(data)
                    if answer is None:
                        return
                    await client.write(len(answer).to_bytes(2, "big") + answer)


def _too_busy(data: bytes) -> bytes | None:
    """An answer without any work: a program waits seconds for one that is dropped."""
    try:
        return reply(parse_query(data), Rcode.FAILED)
    except MalformedError:
        return None


def _send(sock: socket.socket, answer: bytes | None, peer: Any) -> None:
    if answer is not None:
        with contextlib.suppress(OSError):  # the asker is gone, or its queue is full
            sock.sendto(answer, peer)


def _whole(seen: bytes) -> bool:
    return len(seen) >= 2 and len(seen) >= 2 + int.from_bytes(seen[:2], "big")


async def _message(client: Stream) -> bytes | None:
    """The next message, None at the end."""
    seen = await client.peek(MAX_QUERY_BYTES, _whole)
    if not _whole(seen):
        return None
    await client.read()  # what `peek` left
    end = 2 + int.from_bytes(seen[:2], "big")
    client.unread(seen[end:])
    return seen[2:end]
