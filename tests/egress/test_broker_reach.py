"""Where programs in a real namespace get to through the broker, and where they do not."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from era.egress.broker import BoxSockets, Broker
from era.egress.environment import LOOPBACK, PROXY_PORT
from era.egress.policy import EgressPolicy
from era.models import Network
from tests.egress.client import get, resolve, status_of_connect
from tests.egress.conftest import HOST, METADATA, PRIVATE, PUBLIC, World
from tests.egress.servers import Resolver
from tests.egress.serving import INTERNET, excepting, served


def test_a_public_server_is_reached_by_name_and_by_address(world: World) -> None:
    world.origin()

    async def main() -> None:
        async with served(world, INTERNET, {"good.example": [[PUBLIC]]}) as traffic:
            assert await get(world.box, "http://good.example/x") == (
                200,
                "hello from good.example/x",
            )
            assert await get(world.box, f"http://{PUBLIC}/") == (200, f"hello from {PUBLIC}/")
            assert await status_of_connect(world.box, "good.example:80") == 200
        assert traffic.refused == 0
        assert traffic.down_bytes > 0

    world.run(main)


def test_without_a_broker_the_box_reaches_nothing(world: World) -> None:
    world.origin()

    async def main() -> None:
        sock = world.box.client()
        with sock, pytest.raises(OSError, match="unreachable"):
            await asyncio.get_running_loop().sock_connect(sock, (PUBLIC, 80))
        with world.box.client() as sock, pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().sock_connect(sock, (LOOPBACK, PROXY_PORT))

    world.run(main)


@pytest.mark.parametrize("address", ["127.0.0.1", METADATA, PRIVATE])
def test_a_blocked_server_is_refused_and_reached_only_by_exception(
    world: World, address: str
) -> None:
    origin = world.origin(address)
    table = {"inside.example": [[address]]}
    urls = [f"http://{address}/", "http://inside.example/"]

    async def refused() -> None:
        async with served(world, INTERNET, table) as traffic:
            for url in urls:
                status, text = await get(world.box, url)
                assert status == 403
                assert "network policy 'internet'" in text
                assert address in text
            assert await status_of_connect(world.box, f"{address}:80") == 403
            assert await status_of_connect(world.box, "inside.example:80") == 403
        assert traffic.refused == 4

    async def excepted() -> None:
        async with served(world, excepting(f"{address}/32"), table):
            for url in urls:
                assert (await get(world.box, url))[0] == 200
            assert await status_of_connect(world.box, "inside.example:80") == 200

    world.run(refused)
    assert origin.seen == []
    world.run(excepted)
    assert len(origin.seen) == 2


METADATA_FORMS = [
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "025177524776",
    "169.254.43518",
    "169.16689662",
    "169.254.169.254.",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:5db8:d822::5601:5601]",
    "[fd00:ec2::254]",
    "[fe80::a9fe:a9fe]",
    "[::1]",
    "[::]",
    "0",
    "127.1",
    "localhost",
    "localhost.",
]


def test_no_spelling_of_a_blocked_address_gets_through(world: World) -> None:
    metadata = world.origin(METADATA)
    loopback = world.origin("127.0.0.1")
    table = {"localhost": [["127.0.0.1", "::1"]]}

    async def main() -> None:
        async with served(world, INTERNET, table):
            for form in METADATA_FORMS:
                assert await status_of_connect(world.box, f"{form}:80") == 403, form
                assert (await get(world.box, f"http://{form}/"))[0] == 403, form

    world.run(main)
    assert metadata.seen == loopback.seen == []


@pytest.mark.parametrize("form", ["2852039166", "0251.0376.0251.0376", "[::ffff:169.254.169.254]"])
def test_the_mirror_an_exception_opens_the_other_spellings_too(world: World, form: str) -> None:
    world.origin(METADATA)

    async def main() -> None:
        async with served(world, excepting(f"{METADATA}/32")):
            assert await status_of_connect(world.box, f"{form}:80") == 200

    world.run(main)


def test_of_many_addresses_the_blocked_are_left_out_and_the_dead_passed_over(world: World) -> None:
    blocked = world.origin(PRIVATE)
    world.origin()
    table = {"many.example": [[PRIVATE, "93.184.216.99", PUBLIC]]}

    async def main() -> None:
        async with served(world, INTERNET, table):
            assert (await get(world.box, "http://many.example/"))[0] == 200

    world.run(main)
    assert blocked.seen == []


def test_a_name_is_looked_up_once_a_connection_and_judged_by_that_answer(world: World) -> None:
    world.origin()
    private = world.origin(PRIVATE)
    resolver = Resolver({"rebind.example": [[PUBLIC], [PRIVATE]]})

    async def main() -> None:
        async with served(world, INTERNET, resolver=resolver):
            assert (await get(world.box, "http://rebind.example/"))[0] == 200
            assert len(resolver.asked) == 1
            assert (await get(world.box, "http://rebind.example/"))[0] == 403
            assert await status_of_connect(world.box, "rebind.example:80") == 403

    world.run(main)
    assert private.seen == []


def test_the_host_by_its_public_address_is_refused(world: World) -> None:
    host = world.origin(HOST)
    own = frozenset({ipaddress.ip_address(HOST)})
    policy = EgressPolicy(network=Network.INTERNET, own_addresses=lambda: own)

    async def main() -> None:
        async with served(world, policy, {"me.example": [[HOST]]}):
            assert (await get(world.box, f"http://{HOST}/"))[0] == 403
            assert (await get(world.box, "http://me.example/"))[0] == 403
        async with served(world, INTERNET):
            assert (await get(world.box, f"http://{HOST}/"))[0] == 200

    world.run(main)
    assert len(host.seen) == 1


def test_the_services_port_is_refused_even_where_loopback_is_excepted(world: World) -> None:
    service = world.origin("127.0.0.1", 8787)
    world.origin("127.0.0.1", 8788)
    policy = EgressPolicy(
        network=Network.INTERNET,
        allow_networks=(ipaddress.ip_network("127.0.0.0/8"),),
        service_ports=frozenset({8787}),
    )

    async def main() -> None:
        async with served(world, policy):
            assert (await get(world.box, "http://127.0.0.1:8787/"))[0] == 403
            assert (await get(world.box, "http://127.0.0.1:8788/"))[0] == 200

    world.run(main)
    assert service.seen == []


def test_offline_refuses_everything(world: World) -> None:
    world.origin()

    async def main() -> None:
        async with served(world, EgressPolicy(network=Network.OFFLINE), {"a.example": [[PUBLIC]]}):
            assert (await get(world.box, "http://a.example/"))[0] == 403
            assert (await resolve(world.box, "a.example"))[0] == 3

    world.run(main)


@pytest.mark.anyio
async def test_the_real_hosts_loopback_and_its_real_resolver(world: World) -> None:
    """Outside a made-up world: this process's own network and the C library's resolver."""
    served_by: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served_by.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://localhost:{server.sockets[0].getsockname()[1]}/"
    async with server:
        for policy, status in ((INTERNET, 403), (excepting("127.0.0.0/8"), 200)):
            broker = Broker()
            sockets: BoxSockets = world.box.sockets()
            async with broker.serve(policy, sockets):
                assert (await get(world.box, url))[0] == status
                name_server = await resolve(world.box, "localhost")
                assert name_server == ((3, []) if status == 403 else (0, ["127.0.0.1"]))
            broker.close()
    assert len(served_by) == 1
