"""HTTP through the broker: framing, statuses, timeouts."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from era.egress.limits import BrokerLimits
from tests.egress.client import ask, connected, get, parse, status_of_connect, tunnel
from tests.egress.conftest import PUBLIC, World
from tests.egress.serving import INTERNET, raw_server, served


def test_bodies_pass_both_ways_in_either_framing(world: World) -> None:
    world.origin()
    body = os.urandom(300_000).hex().encode()
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (body[at : at + 9999] for at in range(0, len(body), 9999))
    )
    post = f"POST http://{PUBLIC}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()

    async def main() -> None:
        async with served(world, INTERNET):
            sized = post + b"Content-Length: %d\r\n\r\n" % len(body) + body
            assert parse(await ask(world.box, sized)) == (200, body.decode())
            chunked = post + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
            assert parse(await ask(world.box, chunked)) == (200, body.decode())

    world.run(main)


def test_a_chunked_answer_arrives_without_the_hop_by_hop_headers(world: World) -> None:
    world.origin()

    async def main() -> None:
        async with served(world, INTERNET):
            url = f"http://{PUBLIC}/chunked"
            modern = await ask(
                world.box, f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            assert modern.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
            assert b"x-hop" not in modern.lower()
            old = await ask(world.box, f"GET {url} HTTP/1.0\r\n\r\n".encode())
            assert old.endswith(b"\r\n\r\nonetwo")

    world.run(main)


def test_a_cut_answer_is_seen_to_be_cut(world: World) -> None:
    world.origin()

    async def main() -> None:
        async with served(world, INTERNET):
            answer = await ask(
                world.box, f"GET http://{PUBLIC}/cut HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            assert b"content-length: 100" in answer.lower()
            assert answer.endswith(b"\r\n\r\nhalf")

    world.run(main)


def test_requests_follow_one_another_on_one_connection(world: World) -> None:
    world.origin()

    def head(method: str, path: str, more: str = "") -> bytes:
        return f"{method} http://{PUBLIC}{path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()

    async def main() -> None:
        async with served(world, INTERNET) as traffic:
            pipelined = (
                head("GET", "/1") + head("HEAD", "/2") + head("GET", "/3", "Connection: close\r\n")
            )
            answers = await ask(world.box, pipelined)
            assert answers.count(b"HTTP/1.1 200 ") == 3
            assert [path in answers for path in (b"/1", b"/2", b"/3")] == [True, False, True]
        assert traffic.connections == 1

    world.run(main)


def test_a_client_that_waits_for_100_gets_it_from_the_server(world: World) -> None:
    world.origin()

    async def main() -> None:
        async with served(world, INTERNET), connected(world.box) as (reader, writer):
            writer.write(
                f"POST http://{PUBLIC}/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                "Content-Length: 4\r\nConnection: close\r\n\r\n".encode()
            )
            assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b"body")
            assert parse(await reader.read()) == (200, "body")

    world.run(main)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET https://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"CONNECT a.example HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a.example:0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a.example:99999 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT u@a.example:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT [::1:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"HEAD http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n", 403),
        (b"GET http://unknown.example/ HTTP/1.1\r\nHost: x\r\n\r\n", 502),
        (b"CONNECT unknown.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", 502),
        (b"CONNECT 93.184.216.34:9 HTTP/1.1\r\nHost: x\r\n\r\n", 502),
        (b"CONNECT 93.184.216.77:9 HTTP/1.1\r\nHost: x\r\n\r\n", 502),
        (b"nonsense\r\n\r\n", 400),
        (b"\x05\x01\x00", 400),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", 400),
        (
            b"GET http://a.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (b"GET http://a.example/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40000, 431),
    ],
)
def test_each_refusal_has_its_status(world: World, data: bytes, status: int) -> None:
    async def main() -> None:
        async with served(world, INTERNET), connected(world.box) as (reader, writer):
            writer.write(data)
            writer.write_eof()
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer

    world.run(main)


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 101 Switch\r\n\r\n"])
def test_a_server_that_answers_nonsense_is_a_bad_gateway(world: World, answer: bytes) -> None:
    async def main() -> None:
        async with raw_server(answer), served(world, INTERNET):
            post = f"POST http://{PUBLIC}:81/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
            assert parse(await ask(world.box, post.encode()))[0] == 502

    world.run(main)


def test_a_server_that_does_not_answer_is_a_timeout(world: World) -> None:
    limits = BrokerLimits(idle_seconds=0.2)

    async def main() -> None:
        async with raw_server(None), served(world, INTERNET, limits=limits):
            assert (await get(world.box, f"http://{PUBLIC}:81/"))[0] == 504

    world.run(main)


def test_a_name_that_is_not_resolved_in_time_is_a_timeout(world: World) -> None:
    async def never(host: str) -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        limits = BrokerLimits(lookup_seconds=0.2)
        async with served(world, INTERNET, resolver=never, limits=limits):
            answers = await asyncio.gather(
                *(status_of_connect(world.box, f"n{n}.example:80") for n in range(6))
            )
            assert set(answers) == {504}

    world.run(main)


def test_a_silent_client_and_an_idle_tunnel_are_closed(world: World) -> None:
    limits = BrokerLimits(head_seconds=0.2, idle_seconds=0.2)
    world.origin()

    async def main() -> None:
        async with served(world, INTERNET, limits=limits):
            async with connected(world.box) as (reader, writer):
                writer.write(b"GET http://slow")
                assert await reader.read() == b""
            async with tunnel(world.box, f"{PUBLIC}:80") as (reader, writer):
                assert await reader.read() == b""

    world.run(main)


def test_an_early_answer_arrives_though_the_body_is_not_taken(world: World) -> None:
    early = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

    async def main() -> None:
        async with (
            raw_server(early),
            served(world, INTERNET),
            connected(world.box) as (reader, writer),
        ):
            writer.write(
                f"POST http://{PUBLIC}:81/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".encode()
            )
            writer.write(b"x" * 1000)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413 ")
            assert await reader.readexactly(2) == b"no"

    world.run(main)
