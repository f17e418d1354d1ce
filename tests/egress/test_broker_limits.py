"""Floods, slow readers, deaths in the middle: the broker stays bounded and keeps nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys

import pytest

from era.egress.broker import Broker
from era.egress.environment import DNS_PORT
from era.egress.limits import BrokerLimits
from tests.egress.client import connected, get, resolve, status_of_connect, tunnel
from tests.egress.conftest import PUBLIC, World
from tests.egress.servers import OriginServer, Resolver
from tests.egress.serving import INTERNET, served

MIB = 1 << 20
BOUND = 48 * MIB
"""More than the kernel's own buffers of two connections can hold, far less than `endless` sends."""

ENDLESS = f"GET http://{PUBLIC}/endless HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def open_files() -> set[str]:
    """What this process has open, but for the listing itself."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


async def still(origin: OriginServer) -> int:
    """Bytes that `origin` has sent, once that number no longer grows."""
    before = -1
    while origin.sent != before:
        before = origin.sent
        await asyncio.sleep(0.3)
    return before


@pytest.mark.parametrize("way", ["request", "tunnel"])
def test_a_reader_that_stalls_stalls_the_sender(world: World, way: str) -> None:
    origin = world.origin()

    async def main() -> None:
        async with served(world, INTERNET) as traffic:
            opening = (
                connected(world.box) if way == "request" else tunnel(world.box, f"{PUBLIC}:80")
            )
            async with opening as (reader, writer):
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(ENDLESS if way == "request" else b"GET /endless HTTP/1.0\r\n\r\n")
                while not origin.sent:
                    await asyncio.sleep(0.01)
                assert await still(origin) < BOUND
                assert traffic.down_bytes < BOUND
                # The mirror: with a reader the same answer goes on far beyond that.
                reader._transport.resume_reading()  # type: ignore[attr-defined]
                received = 0
                while received < 2 * BOUND:
                    received += len(await reader.read(MIB))
        assert origin.endless_over.wait(30)

    world.run(main)


def test_a_hundred_tunnels_at_once(world: World) -> None:
    world.origin()

    async def one(number: int) -> bool:
        async with tunnel(world.box, f"{PUBLIC}:80") as (reader, writer):
            writer.write(f"GET /{number} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
            return (await reader.read()).endswith(f"/{number}".encode())

    async def main() -> None:
        async with served(world, INTERNET) as traffic:
            assert all(await asyncio.gather(*(one(number) for number in range(100))))
            assert traffic.connections == 100

    world.run(main)


def test_more_connections_than_allowed_wait_for_their_turn(world: World) -> None:
    world.origin()

    async def main() -> None:
        async with (
            served(world, INTERNET, limits=BrokerLimits(connections=2)) as traffic,
            tunnel(world.box, f"{PUBLIC}:80"),
        ):
            async with tunnel(world.box, f"{PUBLIC}:80"):
                third = asyncio.create_task(status_of_connect(world.box, f"{PUBLIC}:80"))
                await asyncio.sleep(0.2)
                assert not third.done()
                assert traffic.connections == 2
            assert await third == 200

    world.run(main)


def test_one_box_that_takes_all_places_leaves_the_other_its_own(world: World) -> None:
    world.origin()
    other, sockets = world.redirecting_box(ports=())

    async def main() -> None:
        broker = Broker(resolver=Resolver({}), limits=BrokerLimits(connections=1))
        async with (
            broker.serve(INTERNET, world.box.sockets()),
            broker.serve(INTERNET, sockets),
            tunnel(world.box, f"{PUBLIC}:80"),
        ):
            assert await status_of_connect(other, f"{PUBLIC}:80") == 200

    world.run(main)


def test_slow_names_of_one_box_do_not_hold_up_its_known_ones_for_ever(world: World) -> None:
    world.origin()
    known = Resolver({"good.example": [[PUBLIC]]})

    async def resolver(host: str) -> object:
        if host.startswith("slow"):
            await asyncio.sleep(0.5)
        return await known(host)

    async def main() -> None:
        async with served(world, INTERNET, resolver=resolver):
            slow = [
                asyncio.create_task(status_of_connect(world.box, f"slow{n}.example:80"))
                for n in range(8)
            ]
            assert await status_of_connect(world.box, "good.example:80") == 200
            assert set(await asyncio.gather(*slow)) == {502}

    world.run(main)


@pytest.mark.parametrize("rounds", [20])
def test_leaving_in_the_middle_of_everything_leaves_no_descriptor(
    world: World, rounds: int
) -> None:
    origin = world.origin()
    silent = world.outside.call(lambda: socket.create_server((PUBLIC, 81)))

    async def one_box() -> None:
        async with (
            served(world, INTERNET, {"a.example": [[PUBLIC]]}) as traffic,
            connected(world.box) as (_, endless),
            connected(world.box) as (_, waiting),
            connected(world.box) as (_, unfinished),
            tunnel(world.box, "a.example:80") as (_, inside),
            connected(world.box, port=DNS_PORT) as (_, dns),
        ):
            endless.write(ENDLESS)
            waiting.write(f"GET http://{PUBLIC}:81/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            unfinished.write(b"GET http://half")
            inside.write(b"GET /endless HTTP/1.0\r\n\r\n")
            dns.write(b"\0")
            assert (await resolve(world.box, "a.example"))[0] == 0
            while traffic.connections < 5 or traffic.down_bytes < MIB:
                await asyncio.sleep(0.01)

    async def main() -> None:
        await one_box()
        await asyncio.sleep(0.2)
        before = len(open_files())
        for _ in range(rounds):
            await one_box()
        # What is left to end is the origin's side, in its own threads.
        for _ in range(100):
            if len(open_files()) <= before:
                break
            await asyncio.sleep(0.05)
        assert len(open_files()) <= before

    with silent:
        world.run(main)
    assert origin.sent > 0


def test_a_program_that_is_killed_takes_its_connection_with_it(world: World) -> None:
    origin = world.origin()
    code = (
        "import socket, sys, time\n"
        "s = socket.create_connection(('127.0.0.1', 3128))\n"
        f"s.sendall({ENDLESS!r})\n"
        "while s.recv(65536): pass\n"
    )

    async def main() -> None:
        async with served(world, INTERNET) as traffic:
            process = world.box.start([sys.executable, "-I", "-c", code], {})
            while traffic.down_bytes < MIB:
                await asyncio.sleep(0.01)
            process.kill()
            await asyncio.to_thread(process.communicate)
            assert await asyncio.to_thread(origin.endless_over.wait, 30)

    world.run(main)


def test_a_box_is_served_again_after_it_was_left(world: World) -> None:
    world.origin()

    async def main() -> None:
        for _ in range(3):
            async with served(world, INTERNET):
                assert (await get(world.box, f"http://{PUBLIC}/"))[0] == 200
            with pytest.raises(ConnectionRefusedError):
                await get(world.box, f"http://{PUBLIC}/")

    world.run(main)
