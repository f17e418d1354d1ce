"""`LeaseStore` in memory, for a keeper of records that knows its sessions."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from era.errors import InternalError
from era.models import SessionRecord
from era.storage.leases import Activity, Holder, Lease, Node


@dataclass(slots=True)
class Row:
    """One lease."""

    node: Node
    epoch: int
    until: float
    activity: Activity = Activity(running=False, queued=0)

    def holder(self, uid: int) -> Holder:
        now = self.activity
        return Holder(uid=uid, address=self.node.address, running=now.running, queued=now.queued)

    def release(self) -> None:
        self.until = 0.0
        self.activity = Activity(running=False, queued=0)


class MemoryLeases:
    """Keeps `era.storage.leases.LeaseStore` for as long as it lives."""

    def __init__(self) -> None:
        self._leases: dict[int, Row] = {}

    @abstractmethod
    async def get(self, session_id: str) -> SessionRecord: ...

    async def take_lease(self, session_id: str, node: Node, ttl_seconds: float) -> Lease | Holder:
        uid = (await self.get(session_id)).uid
        end = time.time() + ttl_seconds
        row = self._leases.get(uid)
        if row is None:
            self._leases[uid] = Row(node, 1, end)
            return Lease(uid=uid, epoch=1)
        if row.node.name == node.name:
            row.until = end
        elif row.until <= time.time():
            self._leases[uid] = Row(node, row.epoch + 1, end)
        else:
            return row.holder(uid)
        return Lease(uid=uid, epoch=self._leases[uid].epoch)

    async def renew_leases(self, node: Node, ttl_seconds: float) -> Mapping[int, int]:
        await self._only_known()
        mine = {
            uid: row
            for uid, row in self._leases.items()
            if row.node.name == node.name and row.until > 0
        }
        for row in mine.values():
            row.until = time.time() + ttl_seconds
        return {uid: row.epoch for uid, row in mine.items()}

    @abstractmethod
    async def uids(self) -> frozenset[int]: ...

    async def _only_known(self) -> None:
        known = await self.uids()
        self._leases = {uid: row for uid, row in self._leases.items() if uid in known}

    async def release_leases(self, node: Node, uids: Sequence[int]) -> None:
        for uid in uids:
            if (row := self._leases.get(uid)) is not None and row.node.name == node.name:
                row.release()

    async def release_nodes(self, prefix: str) -> None:
        for row in self._leases.values():
            if row.node.name.startswith(prefix):
                row.release()

    async def tell(self, node: Node, activity: Mapping[int, Activity]) -> None:
        for uid, now in activity.items():
            if (row := self._leases.get(uid)) is not None and row.node.name == node.name:
                row.activity = now

    async def holders(self, node: Node, session_id: str | None = None) -> Sequence[Holder]:
        await self._only_known()
        others = [
            row.holder(uid)
            for uid, row in self._leases.items()
            if row.node.name != node.name and row.until > time.time()
        ]
        if session_id is None:
            return [holder for holder in others if holder.running or holder.queued]
        uid = (await self.get(session_id)).uid
        return [holder for holder in others if holder.uid == uid]

    def fence(self, uid: int, epoch: int) -> None:
        row = self._leases.get(uid)
        if row is None or row.epoch != epoch:
            raise InternalError(
                "execution_failed",
                message="another node has taken the session over; nothing was kept",
            )
