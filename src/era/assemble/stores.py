"""Which keepers the settings name."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

from era.assemble.statedir import StartError, StateDir
from era.config import Settings
from era.errors import EraError
from era.ids import new_token
from era.sessions.nodes import Cluster
from era.sessions.seal import Seal
from era.storage.base import Blobs
from era.storage.blobs.local import LocalBlobs
from era.storage.leases import Node
from era.storage.records.keeper import DatabaseRecords
from era.storage.worker.blobs import LocalBytes, WorkerBlobs
from era.storage.worker.client import StateClient
from era.storage.worker.records import WorkerRecords


class Claim(Protocol):
    """`ObjectBlobs.claim`."""

    def __call__(self, identity: str, *, fresh: bool) -> Awaitable[bool]:
        """Whether the store is the one that belongs to `identity`."""


_IDENTITY: Final = "blobs"
"""The fact by which a database and the store of its files know each other."""
_KEY: Final = "key"
"""The fact by which servers know that they have the same key for secrets."""
_ANY: Final = (ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::"))  # noqa: S104 - compared


async def open_records(settings: Settings, state: StateDir) -> DatabaseRecords:
    """The records, in PostgreSQL or in the state directory.

    Raises:
        StartError: PostgreSQL cannot be used.
        EraError: the file cannot.
    """
    if settings.state_driver == "worker":
        return await asyncio.to_thread(_worker_records, settings, state)
    if not settings.database_url:
        from era.storage.records.sqlite import SqliteRecords

        return await asyncio.to_thread(SqliteRecords, state.of("era.db"))
    from era.storage.records.postgres import STALL_SECONDS, PostgresRecords

    try:
        # No longer than a lease; but a busy host may well stand still for a few seconds.
        stall = min(STALL_SECONDS, max(5.0, settings.lease_seconds))
        return await asyncio.to_thread(PostgresRecords, settings.database_url, stall_seconds=stall)
    except EraError as error:
        hint = "Check ERA_DATABASE_URL, and that the server answers."
        raise _unusable("the database", error, hint) from error


async def open_blobs(settings: Settings, state: StateDir, records: DatabaseRecords) -> Blobs:
    """The bytes, in an object store or in the state directory.

    Raises:
        StartError: the store cannot be used, or is not the one that holds the database's files.
        EraError: the directory cannot.
    """
    if isinstance(records, WorkerRecords):
        return _worker_blobs(settings, state, records)
    if not settings.blobs_url:
        if await records.known_fact(_IDENTITY) is not None:
            raise StartError(
                "the files of this database are in an object store",
                "Set ERA_BLOBS_URL to it.",
            )
        return await asyncio.to_thread(LocalBlobs, state.of("blobs"))
    from era.storage.blobs.objects import ObjectBlobs, open_store

    try:
        store = open_store(settings.blobs_url)
        cache = state.of("cache")
        blobs = ObjectBlobs(store, records, cache, cache_bytes=settings.blob_cache_bytes)
        belongs = await _belongs(blobs.claim, records)
    except EraError as error:
        hint = "Check ERA_BLOBS_URL, and the variables with the store's keys and endpoint."
        raise _unusable("the object store", error, hint) from error
    if not belongs:
        await blobs.close()
        raise StartError(
            "the files of this database are in another place",
            "Set ERA_BLOBS_URL to the store that was used with this database before.",
        )
    return blobs


def _worker_records(settings: Settings, state: StateDir) -> WorkerRecords:
    client = StateClient(settings.state_url, settings.state_token)
    content = LocalBytes(state.of("blobs"))
    try:
        return WorkerRecords(state.of("era.db"), client, content)
    except EraError as error:
        hint = "Check ERA_STATE_URL and ERA_STATE_TOKEN, and that the Worker answers."
        raise _unusable("the Worker's state", error, hint) from error


def _worker_blobs(settings: Settings, state: StateDir, records: WorkerRecords) -> Blobs:
    client = StateClient(settings.state_url, settings.state_token)
    return WorkerBlobs(LocalBlobs(state.of("blobs"), durable=False), client, records.where)


async def _belongs(claim: Claim, records: DatabaseRecords) -> bool:
    """Whether the store is the database's own; a new database takes whatever it is given."""
    known = await records.known_fact(_IDENTITY)
    if known is not None:
        return await claim(known, fresh=False)
    if await records.holds_files():
        return False
    identity = new_token()
    await claim(identity, fresh=True)
    return await claim(await records.fact(_IDENTITY, identity), fresh=False)


async def cluster(
    settings: Settings, state: StateDir, records: DatabaseRecords, seal: Seal, port: int
) -> Cluster | None:
    """This server as one of several, when its database can be shared.

    Raises:
        StartError: it has another key for secrets than the others.
    """
    if not settings.database_url:
        return None
    mark = seal.digest({"purpose": "servers of one database have one key"})
    if await records.fact(_KEY, mark) != mark:
        raise StartError(
            "this server has another key for secrets than the others on its database",
            "Give all of them the same ERA_SECRET_KEY; the first one's is in its state directory,"
            " in secret.key, if it was not set.",
        )
    host = settings.host
    if ip_address_or_none(host) in _ANY:
        host = await asyncio.to_thread(_own_address, settings.database_url)
    address = settings.node_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    identity = await asyncio.to_thread(_identity, state.of("node.id"))
    node = Node(name=f"{identity}/{new_token()}", address=address)
    return Cluster(store=records, node=node, ttl_seconds=settings.lease_seconds)


def ip_address_or_none(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `text` writes; None for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _own_address(database_url: str) -> str:
    """The address of this machine on its way to the database: the others are likely to be there."""
    where = urlsplit(database_url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((where.hostname or "127.0.0.1", where.port or 5432))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _identity(path: str) -> str:
    """What this server is called in all its lives."""
    with suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(new_token())
            file.flush()
            os.fsync(fd)
    with open(path, encoding="ascii") as file:
        return file.read().strip() or new_token()


def _unusable(what: str, error: EraError, hint: str) -> StartError:
    return StartError(f"{what} cannot be used: {error.text}", str(error.extra.get("hint") or hint))
