"""The box's name service: addresses it may connect to, and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from era.egress.environment import DNS_PORT, LOOPBACK
from era.egress.limits import BrokerLimits
from tests.egress.client import ask, connected, resolve
from tests.egress.conftest import PUBLIC, World
from tests.egress.dns_client import query, read_reply
from tests.egress.servers import Resolver
from tests.egress.serving import INTERNET, excepting, registries, served


def test_only_addresses_a_box_may_connect_to_are_told(world: World) -> None:
    table = {
        "mixed.example": [["10.0.0.1", PUBLIC, "2606:4700::1", "::1"]],
        "inside.example": [["10.0.0.1", "fd00::1"]],
        "six.example": [["2606:4700::1"]],
    }

    async def main() -> None:
        async with served(world, INTERNET, table) as traffic:
            assert await resolve(world.box, "mixed.example") == (0, [PUBLIC])
            assert await resolve(world.box, "MIXED.example", 28) == (0, ["2606:4700::1"])
            assert await resolve(world.box, "inside.example") == (3, [])
            assert await resolve(world.box, "six.example") == (0, [])
            assert await resolve(world.box, "unknown.example") == (3, [])
            assert traffic.refused == 1
        async with served(world, excepting("10.0.0.0/8"), table):
            assert await resolve(world.box, "inside.example") == (0, ["10.0.0.1"])

    world.run(main)


def test_under_registries_no_other_name_is_even_looked_up(world: World) -> None:
    resolver = Resolver({"good.example": [[PUBLIC]], "secret.evil.example": [[PUBLIC]]})

    async def main() -> None:
        async with served(world, registries("good.example"), resolver=resolver):
            assert await resolve(world.box, "secret.evil.example") == (3, [])
            assert await resolve(world.box, "good.example.evil.example") == (3, [])
            assert await resolve(world.box, "good.example") == (0, [PUBLIC])
        assert resolver.asked == ["good.example"]

    world.run(main)


@pytest.mark.parametrize("kind", [2, 5, 12, 15, 16, 33, 65, 255])
def test_other_records_are_refused_unasked(world: World, kind: int) -> None:
    resolver = Resolver({"good.example": [[PUBLIC]]})

    async def main() -> None:
        async with served(world, INTERNET, resolver=resolver):
            assert await resolve(world.box, "good.example", kind) == (5, [])
        assert resolver.asked == []

    world.run(main)


def test_names_over_tcp(world: World) -> None:
    def framed(data: bytes) -> bytes:
        return len(data).to_bytes(2, "big") + data

    async def main() -> None:
        async with served(world, INTERNET, {"a.example": [[PUBLIC]]}):
            both = framed(query("a.example", 1, 1)) + framed(query("b.example", 1, 2))
            async with connected(world.box, port=DNS_PORT) as (reader, writer):
                for part in (both[:5], both[5:]):
                    writer.write(part)
                    await writer.drain()
                for expected in ((1, 0, [PUBLIC]), (2, 3, [])):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    identity, code, found = read_reply(await reader.readexactly(size))
                    assert (identity, code, [str(each) for each in found]) == expected
            assert await ask(world.box, framed(b"junk"), port=DNS_PORT) == b""
            assert await ask(world.box, b"\xff\xff" + bytes(5000), port=DNS_PORT) == b""

    world.run(main)


def test_a_flood_of_questions_is_answered_but_not_worked_on(world: World) -> None:
    resolver = Resolver({"a.example": [[PUBLIC]]})
    limits = BrokerLimits(dns_burst=5, dns_per_second=0.001)

    async def main() -> None:
        async with served(world, INTERNET, resolver=resolver, limits=limits):
            codes = [(await resolve(world.box, "a.example"))[0] for _ in range(20)]
            assert codes == [0] * 5 + [2] * 15
        assert len(resolver.asked) == 5

    world.run(main)


def test_questions_beyond_those_in_hand_are_answered_at_once(world: World) -> None:
    release = asyncio.Event()
    inner = Resolver({"slow.example": [[PUBLIC]]})

    async def resolver(host: str) -> object:
        await release.wait()
        return await inner(host)

    async def main() -> None:
        limits = BrokerLimits(dns_at_once=2)
        async with served(world, INTERNET, resolver=resolver, limits=limits) as traffic:
            waiting = [asyncio.create_task(resolve(world.box, "slow.example")) for _ in range(2)]
            while traffic.dns_queries < 2:
                await asyncio.sleep(0.01)
            assert await resolve(world.box, "slow.example") == (2, [])
            release.set()
            assert await asyncio.gather(*waiting) == [(0, [PUBLIC])] * 2

    world.run(main)


def test_garbage_datagrams_are_survived(world: World) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with served(world, INTERNET, {"a.example": [[PUBLIC]]}):
            with world.box.client(socket.SOCK_DGRAM) as sock:
                await loop.sock_connect(sock, (LOOPBACK, DNS_PORT))
                for data in (b"", b"x", os.urandom(11), b"\xff" * 600, bytes(12)):
                    await loop.sock_sendall(sock, data)
            assert await resolve(world.box, "a.example") == (0, [PUBLIC])

    world.run(main)
