"""The operator's own proxy between the broker and the world."""

from __future__ import annotations

import socket

from era.egress.broker import BoxSockets
from era.egress.dial import UpstreamProxy
from tests.egress.client import get, status_of_connect, tunnel
from tests.egress.conftest import METADATA, OTHER, PRIVATE, PUBLIC, World
from tests.egress.servers import Resolver
from tests.egress.serving import INTERNET, raw_server, registries, served


def test_everything_goes_through_the_operators_proxy(world: World) -> None:
    world.origin()
    table = {"good.example": [[PUBLIC]]}

    async def main() -> None:
        # A broker of our own is as real a proxy as any; it listens outside.
        listening = world_listener()
        resolver = Resolver(table)
        upstream = UpstreamProxy.parse(f"http://{OTHER}:3128")
        async with served(world, INTERNET, sockets=listening, resolver=resolver) as theirs:
            async with served(world, INTERNET, upstream_proxy=upstream):
                assert (await get(world.box, "http://good.example/x"))[0] == 200
                assert await status_of_connect(world.box, "good.example:80") == 200
                assert await status_of_connect(world.box, "unknown.example:80") == 502
            assert theirs.connections == 3
            assert resolver.asked == ["good.example", "good.example", "unknown.example"]

    def world_listener() -> BoxSockets:
        return BoxSockets(proxy=socket.create_server((OTHER, 3128)))

    world.run(main)


def test_through_the_operators_proxy_the_policy_still_holds(world: World) -> None:
    async def main() -> None:
        upstream = UpstreamProxy.parse(f"http://{PUBLIC}:81")
        table = {"inside.example": [[PUBLIC, PRIVATE]], "good.example": [[PUBLIC]]}
        async with raw_server(b"HTTP/1.1 200 OK\r\n\r\n") as heads:
            async with served(world, INTERNET, table, upstream_proxy=upstream):
                assert await status_of_connect(world.box, f"{METADATA}:80") == 403
                assert await status_of_connect(world.box, "[::ffff:10.0.0.5]:80") == 403
                # One blocked address is enough: the proxy may choose it.
                assert await status_of_connect(world.box, "inside.example:80") == 403
            async with served(world, registries("good.example"), table, upstream_proxy=upstream):
                assert await status_of_connect(world.box, "evil.example:443") == 403
            assert heads == []
            async with served(world, INTERNET, table, upstream_proxy=upstream):
                assert await status_of_connect(world.box, "good.example:80") == 200
            assert len(heads) == 1

    world.run(main)


def test_the_operators_proxy_gets_its_credentials_and_the_box_never_sees_them(world: World) -> None:
    async def main() -> None:
        upstream = UpstreamProxy.parse(f"http://user:secret@{PUBLIC}:81")
        async with (
            raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as heads,
            served(world, INTERNET, upstream_proxy=upstream),
        ):
            async with tunnel(world.box, "a.example:443") as (reader, writer):
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
            answer = await get(world.box, "http://a.example/y", "Proxy-Authorization: mine\r\n")
            assert answer[0] == 200
        assert all(b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in head for head in heads)
        assert heads[0].startswith(b"CONNECT a.example:443 ")
        assert heads[1].startswith(b"GET http://a.example/y ")
        assert b"mine" not in heads[1]

    world.run(main)


def test_a_proxy_that_refuses_is_a_bad_gateway(world: World) -> None:
    async def main() -> None:
        upstream = UpstreamProxy.parse(f"http://{PUBLIC}:81")
        async with (
            raw_server(b"HTTP/1.1 407 Authenticate\r\n\r\n"),
            served(world, INTERNET, upstream_proxy=upstream),
        ):
            assert await status_of_connect(world.box, "a.example:443") == 502
        async with served(world, INTERNET, upstream_proxy=upstream):
            assert await status_of_connect(world.box, "a.example:443") == 502

    world.run(main)
