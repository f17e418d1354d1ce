"""Looking names up on the host, in a bounded number of threads, with a small cache.

The cache serves boxes that connect many times and keeps the addresses that a box was told by DNS
equal to those its transparent connections are compared with.  Whoever uses an answer checks it each
time; nothing here decides what is allowed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from era.egress.policy import Address
from era.waiting import within

Resolver = Callable[[str], Awaitable[tuple[Address, ...]]]
"""Gives the addresses of a normalised host name, the best first.

Raises OSError when the name is unknown, the look-up fails or (TimeoutError) takes too long."""

THREADS: Final = 64
"""Look-ups at once for all boxes together."""
BOX_LOOKUPS: Final = 4
"""Look-ups at once for one box, so that names served on purpose slowly do not hold up the others."""
CACHE_SECONDS: Final = 15.0
CACHE_ENTRIES: Final = 1024


def _look_up(host: str) -> tuple[Address, ...]:
    """The addresses in the order of the C library, each once.  Runs in a thread."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found)
    return tuple(ipaddress.ip_address(text) for text in texts)


class HostResolver:
    """The host's own resolver.  Keep one for all boxes; `close` gives the threads up."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="egress-resolve")
        self._cache: OrderedDict[str, tuple[float, tuple[Address, ...]]] = OrderedDict()

    async def __call__(self, host: str) -> tuple[Address, ...]:
        """See `Resolver`."""
        now = asyncio.get_running_loop().time()
        kept = self._cache.get(host)
        if kept is not None and kept[0] > now:
            return kept[1]
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host)
        self._keep(host, now + CACHE_SECONDS, found)
        return found

    def _keep(self, host: str, until: float, found: tuple[Address, ...]) -> None:
        self._cache[host] = (until, found)
        self._cache.move_to_end(host)
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)

    def close(self) -> None:
        """Take no further look-ups; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class BoxResolver:
    """A `Resolver` for one box: a time limit, and a bound on look-ups at once.

    A look-up given up on keeps its place until it really ends: its thread is still taken.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        at_once: int = BOX_LOOKUPS,
        timeout_seconds: float,
    ) -> None:
        self._resolver: Final = resolver
        self._places: Final = asyncio.Semaphore(at_once)
        self._timeout: Final = timeout_seconds
        self._tasks: Final[set[asyncio.Task[tuple[Address, ...]]]] = set()

    async def __call__(self, host: str) -> tuple[Address, ...]:
        """See `Resolver`."""
        async with within(self._timeout):
            await self._places.acquire()
            task = asyncio.ensure_future(self._look_up(host))
            self._tasks.add(task)
            task.add_done_callback(self._done)
            return await asyncio.shield(task)

    async def _look_up(self, host: str) -> tuple[Address, ...]:
        return await self._resolver(host)

    def _done(self, task: asyncio.Task[tuple[Address, ...]]) -> None:
        self._places.release()
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen here, in case nobody waits for it any more
