"""The promises of leases: one node at a time serves a session.

A lease has an owner, an end by the database's clock, and an epoch that grows whenever the lease goes
from one owner to another.  A commit names the epoch its run began under, and is refused when that is
no longer the lease's: so a node that stood still while another took over changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One start of one server: `name` is never given twice, `address` is where the others reach it."""

    name: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The session with this uid is the asking node's."""

    uid: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The node at `address` has the session; what it has said of its runs."""

    uid: int
    address: str
    running: bool = False
    queued: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """The runs of a session: whether one is in progress, how many wait."""

    running: bool
    queued: int


class LeaseStore(Protocol):
    """Every method is atomic, over all nodes."""

    async def take_lease(self, session_id: str, node: Node, ttl_seconds: float) -> Lease | Holder:
        """The session's lease, for that long from now; or who has it.  A node that has it already
        keeps its epoch.

        Raises:
            NotFoundError: `session_not_found`.
        """

    async def renew_leases(self, node: Node, ttl_seconds: float) -> Mapping[int, int]:
        """Keep all leases of `node` that were not taken over for that long from now; the epochs by
        uid.  One that is not among them is lost, or its session deleted."""

    async def release_leases(self, node: Node, uids: Sequence[int]) -> None:
        """Let others have these leases at once."""

    async def release_nodes(self, prefix: str) -> None:
        """Let others have all leases of nodes whose names begin so."""

    async def tell(self, node: Node, activity: Mapping[int, Activity]) -> None:
        """Note what goes on in sessions that `node` has."""

    async def holders(self, node: Node, session_id: str | None = None) -> Sequence[Holder]:
        """The other nodes that have the session now; with None, all in which something goes on."""
