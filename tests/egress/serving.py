"""Serving a world's box, and the policies that tests use."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from era.egress.broker import BoxSockets, Broker
from era.egress.limits import Traffic
from era.egress.policy import EgressPolicy, HostRule
from era.models import Network
from tests.egress.conftest import PUBLIC, World
from tests.egress.servers import Resolver

INTERNET = EgressPolicy(network=Network.INTERNET)


def registries(*rules: str, **more: Any) -> EgressPolicy:
    return EgressPolicy(
        network=Network.REGISTRIES,
        allowed_hosts=tuple(HostRule.parse(rule) for rule in rules),
        **more,
    )


def excepting(*networks: str) -> EgressPolicy:
    return EgressPolicy(
        network=Network.INTERNET,
        allow_networks=tuple(ipaddress.ip_network(each) for each in networks),
    )


@asynccontextmanager
async def served(
    world: World,
    policy: EgressPolicy,
    table: dict[str, list[list[str]]] | None = None,
    *,
    sockets: BoxSockets | None = None,
    resolver: Any = None,
    **options: Any,
) -> AsyncIterator[Traffic]:
    """The world's box (or `sockets`) served under `policy`."""
    broker = Broker(resolver=resolver or Resolver(table or {}), **options)
    try:
        async with broker.serve(policy, sockets or world.box.sockets()) as traffic:
            yield traffic
    finally:
        broker.close()


@asynccontextmanager
async def raw_server(answer: bytes | None) -> AsyncIterator[list[bytes]]:
    """A server at PUBLIC:81 that reads a head and sends `answer`; None: it never answers."""
    heads: list[bytes] = []
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await over.wait()
        else:
            writer.write(answer)
            writer.write(await reader.read(1 << 16))
        writer.close()

    server = await asyncio.start_server(serve, PUBLIC, 81)
    try:
        yield heads
    finally:
        over.set()
        server.close()
        await server.wait_closed()
