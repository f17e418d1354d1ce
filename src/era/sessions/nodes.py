"""Which node serves a session: this one, for as long as it holds the lease.

A lease is taken with the first request and kept while anything of the session goes on, and a little
longer, so that requests in a row cost nothing.  It is renewed in the background.  A run names the
epoch it began under in its commit, and the store refuses a commit under a lease that another node
has taken since; so nothing here has to be exact about time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from era.errors import UnavailableError
from era.storage.leases import Activity, Holder, LeaseStore, Node

LINGER_SECONDS: Final = 3.0
"""How long a lease is kept when nothing of its session goes on."""
TELL_SECONDS: Final = 0.25
"""What goes on here is told to the others this often, when it has changed."""

_log = structlog.get_logger("era.nodes")


class Nodes(Protocol):
    """What the sessions of this server have to know of other servers."""

    ttl_seconds: float | None
    """How long a node that has died keeps its sessions; None: there is one node."""

    async def start(self) -> None:
        """Give back what an earlier life of this server held, and begin to renew."""

    async def close(self) -> None:
        """Let others have what this node holds."""

    def place(self, session_id: str) -> AbstractAsyncContextManager[str | None]:
        """Gives the address of the other node that has the session; or None, and this node has it
        while the context lasts.  Raises NotFoundError."""

    def hold(self, session_id: str) -> AbstractAsyncContextManager[int | None]:
        """Gives the epoch under which this node has the session, while the context lasts.

        Raises:
            NotFoundError: `session_not_found`.
            UnavailableError: `session_busy`, when another node has it.
        """

    async def elsewhere(self, session_id: str | None = None) -> Mapping[int, Holder]:
        """Other nodes that have the session, by its uid; without one, all in which something goes
        on."""


class OneNode:
    """The only server on its stores: every session is its own."""

    ttl_seconds: float | None = None

    async def start(self) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """Nothing is to be done."""

    def place(self, session_id: str) -> AbstractAsyncContextManager[str | None]:
        """See `Nodes.place`."""
        return nullcontext()

    def hold(self, session_id: str) -> AbstractAsyncContextManager[int | None]:
        """See `Nodes.hold`."""
        return nullcontext()

    async def elsewhere(self, session_id: str | None = None) -> Mapping[int, Holder]:
        """See `Nodes.elsewhere`."""
        return {}


@dataclass(slots=True, kw_only=True)
class _Held:
    """A session that this node has; `until` and `idle_since` by the monotonic clock."""

    session_id: str
    uid: int
    epoch: int
    until: float
    taken_at: float
    idle_since: float
    users: int = 0
    told: Activity = Activity(running=False, queued=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """This server as one of several on the same stores."""

    store: LeaseStore
    node: Node
    ttl_seconds: float

    @property
    def prefix(self) -> str:
        """Names of this server in all its lives begin so."""
        return self.node.name.partition("/")[0] + "/"


class SharedNodes:
    """One of several servers.  `lost` is called with the id and uid of a session whose lease another
    node has taken, or that was deleted elsewhere; `activity` tells what goes on in a session."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        lost: Callable[[str, int], None],
        activity: Callable[[int], Activity],
    ) -> None:
        self.ttl_seconds: float | None = cluster.ttl_seconds
        self._ttl: Final = cluster.ttl_seconds
        self._store: Final = cluster.store
        self._node: Final = cluster.node
        self._prefix: Final = cluster.prefix
        self._lost: Final = lost
        self._activity: Final = activity
        self._held: Final[dict[str, _Held]] = {}
        self._changing: Final[dict[str, asyncio.Lock]] = {}
        """Held while the lease of a session is taken or given back."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """See `Nodes.start`."""
        await self._store.release_nodes(self._prefix)
        self._tasks = [
            asyncio.create_task(self._every(self._ttl / 4, self._renew)),
            asyncio.create_task(self._every(min(TELL_SECONDS, self._ttl / 4), self._tell)),
        ]

    async def close(self) -> None:
        """See `Nodes.close`."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._held.clear()
        await self._store.release_nodes(self._prefix)

    # -- for requests --

    @asynccontextmanager
    async def place(self, session_id: str) -> AsyncIterator[str | None]:
        """See `Nodes.place`."""
        found = await self._take(session_id)
        if isinstance(found, Holder):
            yield found.address
            return
        with _Use(found):
            yield None

    @asynccontextmanager
    async def hold(self, session_id: str) -> AsyncIterator[int | None]:
        """See `Nodes.hold`."""
        found = await self._take(session_id)
        if isinstance(found, Holder):
            raise UnavailableError("session_busy", retry_after_seconds=1)
        with _Use(found):
            yield found.epoch

    async def elsewhere(self, session_id: str | None = None) -> Mapping[int, Holder]:
        """See `Nodes.elsewhere`."""
        return {each.uid: each for each in await self._store.holders(self._node, session_id)}

    async def _take(self, session_id: str) -> _Held | Holder:
        """The session as this node has it, or who else does."""
        found = self._held.get(session_id)
        if found is not None and time.monotonic() < found.until:
            return found
        async with self._changing.setdefault(session_id, asyncio.Lock()):
            found = self._held.get(session_id)
            if found is not None and time.monotonic() < found.until:
                return found
            began = time.monotonic()
            taken = await self._store.take_lease(session_id, self._node, self._ttl)
            if isinstance(taken, Holder):
                return taken
            if found is None or (found.uid, found.epoch) != (taken.uid, taken.epoch):
                if found is not None:
                    self._lose(found)
                found = self._held[session_id] = _Held(
                    session_id=session_id,
                    uid=taken.uid,
                    epoch=taken.epoch,
                    until=began + self._ttl,
                    taken_at=began,
                    idle_since=began,
                )
            found.until = began + self._ttl
            return found

    # -- in the background --

    async def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - the store may be away for a while
                _log.error("leases cannot be kept", exc_info=error)

    async def _renew(self) -> None:
        """Keep what is in use; give back what is not; notice what was lost."""
        began = time.monotonic()
        for held in list(self._held.values()):
            if not held.users and began - held.idle_since > LINGER_SECONDS:
                await self._give_back(held)
        renewed = await self._store.renew_leases(self._node, self._ttl)
        for held in list(self._held.values()):
            if renewed.get(held.uid) == held.epoch:
                held.until = max(held.until, began + self._ttl)
            elif held.taken_at < began:
                self._lose(held)

    async def _give_back(self, held: _Held) -> None:
        async with self._changing.setdefault(held.session_id, asyncio.Lock()):
            if held.users or self._held.get(held.session_id) is not held:
                return
            del self._held[held.session_id]
            await self._store.release_leases(self._node, [held.uid])
        lock = self._changing[held.session_id]
        if held.session_id not in self._held and not lock.locked():
            del self._changing[held.session_id]

    def _lose(self, held: _Held) -> None:
        if self._held.get(held.session_id) is held:
            del self._held[held.session_id]
        self._lost(held.session_id, held.uid)

    async def _tell(self) -> None:
        """Let the others know what goes on in the sessions that this node has."""
        now = {held.uid: (held, self._activity(held.uid)) for held in self._held.values()}
        changed = {uid: (held, on) for uid, (held, on) in now.items() if on != held.told}
        await self._store.tell(self._node, {uid: on for uid, (_, on) in changed.items()})
        for held, on in changed.values():
            held.told = on


class _Use:
    """Something goes on in a session while this context lasts."""

    def __init__(self, held: _Held) -> None:
        self._held = held

    def __enter__(self) -> None:
        self._held.users += 1

    def __exit__(self, *_: object) -> None:
        self._held.users -= 1
        self._held.idle_since = time.monotonic()
