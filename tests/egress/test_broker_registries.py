"""The `registries` policy and redirected connections, against real programs and real TLS."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

import pytest

from era.egress.broker import BoxSockets
from era.egress.environment import LOOPBACK, TRANSPARENT_PORT, proxy_environment
from era.egress.policy import EgressPolicy
from era.sandbox.namespaces.child import redirect
from tests.egress.client import ask, connected, get, parse, status_of_connect, tunnel
from tests.egress.conftest import OTHER, PRIVATE, PUBLIC, World
from tests.egress.netns import Namespace
from tests.egress.servers import certificate, client_hello
from tests.egress.serving import INTERNET, excepting, registries, served


def test_registries_reaches_its_hosts_and_no_other_name_for_them(world: World) -> None:
    origin = world.origin()
    table = {"good.example": [[PUBLIC]], "evil.example": [[PUBLIC]], "sub.wild.example": [[PUBLIC]]}

    async def main() -> None:
        async with served(world, registries("good.example", "*.wild.example"), table):
            for url in ("http://GOOD.example./", "http://sub.wild.example/"):
                assert (await get(world.box, url))[0] == 200
            for url in (f"http://{PUBLIC}/", "http://evil.example/", "http://wild.example/"):
                status, text = await get(world.box, url)
                assert status == 403
                assert "network policy 'registries'" in text
            assert await status_of_connect(world.box, "good.example:22") == 403

    world.run(main)
    assert len(origin.seen) == 2


def test_the_host_header_that_leaves_is_the_one_that_was_checked(world: World) -> None:
    origin = world.origin()

    async def main() -> None:
        async with served(world, registries("good.example"), {"good.example": [[PUBLIC]]}):
            head = b"GET http://good.example/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
            assert parse(await ask(world.box, head))[0] == 200

    world.run(main)
    assert origin.seen[0][1]["Host"] == "good.example"


FOLLOW = """
import urllib.request, urllib.error, sys
try:
    print(urllib.request.urlopen(sys.argv[1]).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


async def python(box: Namespace, code: str, *args: str, **env: str) -> str:
    """Output of a Python program in the box."""
    process = box.start([sys.executable, "-I", "-c", code, *args], {**proxy_environment(), **env})
    out, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_a_redirect_to_a_host_that_is_not_allowed_ends_there(world: World) -> None:
    world.origin()
    other = world.origin(OTHER)
    table = {"good.example": [[PUBLIC]], "evil.example": [[OTHER]]}
    url = "http://good.example/redirect?http://evil.example/taken"

    async def main() -> None:
        async with served(world, registries("good.example"), table):
            answer = await python(world.box, FOLLOW, url)
            assert answer.startswith("403 blocked by network policy 'registries': evil.example")
        assert other.seen == []
        async with served(world, INTERNET, table):
            assert await python(world.box, FOLLOW, url) == "200\n"

    world.run(main)
    assert [path for path, _ in other.seen] == ["/taken"]


@pytest.fixture(scope="module")
def pair() -> tuple[ssl.SSLContext, str]:
    return certificate("good.example", "evil.example")


@pytest.mark.parametrize(
    "policy", [INTERNET, registries("good.example")], ids=["internet", "registries"]
)
def test_https_passes_untouched(
    world: World, policy: EgressPolicy, pair: tuple[ssl.SSLContext, str], tmp_path: Path
) -> None:
    world.origin(port=443, context=pair[0])
    trusted = tmp_path / "ca.pem"
    trusted.write_text(pair[1])

    async def main() -> None:
        async with served(world, policy, {"good.example": [[PUBLIC]]}):
            answer = await python(
                world.box, FOLLOW, "https://good.example/", SSL_CERT_FILE=str(trusted)
            )
            assert answer == "200\n"

    world.run(main)


async def _hello_through(box: Namespace, target: str, hello: bytes) -> bytes:
    """The first record's head that comes back for `hello` in a tunnel to `target`."""
    async with tunnel(box, target) as (reader, writer):
        writer.write(hello)
        return (await reader.read(1 << 16))[:7]


ALERT = b"\x15\x03\x03\x00\x02\x02\x31"


@pytest.mark.parametrize("name", ["evil.example", None])
def test_a_tunnel_to_an_allowed_host_cannot_ask_for_another(
    world: World, pair: tuple[ssl.SSLContext, str], name: str | None
) -> None:
    world.origin(port=443, context=pair[0])
    table = {"good.example": [[PUBLIC]]}

    async def main() -> None:
        async with served(world, registries("good.example"), table) as traffic:
            good = client_hello("good.example")
            assert await _hello_through(world.box, "good.example:443", client_hello(name)) == ALERT
            assert traffic.refused == 1
            assert (await _hello_through(world.box, "good.example:443", good))[:1] == b"\x16"
        async with served(world, INTERNET, table):
            spoofed = await _hello_through(world.box, "good.example:443", client_hello(name))
            assert spoofed[:1] == b"\x16"

    world.run(main)


def test_plain_http_inside_a_registries_tunnel_is_judged_request_by_request(world: World) -> None:
    origin = world.origin()
    table = {"good.example": [[PUBLIC]], "evil.example": [[PUBLIC]]}
    good = b"GET /1 HTTP/1.1\r\nHost: good.example\r\n\r\n"
    evil = b"GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n"

    async def main() -> None:
        async with (
            served(world, registries("good.example"), table),
            tunnel(world.box, "good.example:80") as (reader, writer),
        ):
            writer.write(good + evil)
            answers = await reader.read()
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 403 " in answers
        last = evil.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        async with (
            served(world, INTERNET, table),
            tunnel(world.box, "good.example:80") as (reader, writer),
        ):
            writer.write(good + last)
            assert b" 403 " not in await reader.read()

    world.run(main)
    assert [path for path, _ in origin.seen] == ["/1", "/1", "/2"]


def test_a_redirected_connection_reaches_the_address_it_meant(world: World) -> None:
    world.origin()
    private = world.origin(PRIVATE)
    get_ = b"GET / HTTP/1.0\r\nHost: whatever.example\r\n\r\n"

    async def main() -> None:
        box, sockets = world.redirecting_box(PUBLIC, PRIVATE, ports=(80,))
        async with served(world, INTERNET, sockets=sockets) as traffic:
            assert b" 200 " in await ask(box, get_, PUBLIC, 80)
            assert await ask(box, get_, PRIVATE, 80) == b""
            assert await ask(box, get_, LOOPBACK, 80) == b""
            assert traffic.refused == 2

    world.run(main)
    assert private.seen == []


def test_the_kernels_own_redirection_tells_where_a_connection_was_going(world: World) -> None:
    """As in a real box: whatever the port, with the true destination asked of the socket."""
    world.origin(port=5432)
    private = world.origin(PRIVATE, port=5432)
    box = world.box
    try:
        box.call(lambda: redirect.lead_to(TRANSPARENT_PORT))
    except OSError:
        pytest.skip("this kernel cannot redirect connections")
    sockets = BoxSockets(transparent=(box.listener(LOOPBACK, TRANSPARENT_PORT),))
    get_ = b"GET / HTTP/1.0\r\nHost: whatever.example\r\n\r\n"

    async def main() -> None:
        async with served(world, INTERNET, sockets=sockets) as traffic:
            assert b" 200 " in await ask(box, get_, PUBLIC, 5432)
            assert await ask(box, get_, PRIVATE, 5432) == b""
            assert await ask(box, get_, LOOPBACK, TRANSPARENT_PORT) == b""
            assert traffic.refused == 2

    world.run(main)
    assert private.seen == []


def test_the_boxs_own_loopback_is_never_the_hosts(world: World) -> None:
    loopback = world.origin("127.0.0.1")

    async def main() -> None:
        box, sockets = world.redirecting_box(PUBLIC, ports=(80,))
        async with served(world, excepting("127.0.0.0/8"), sockets=sockets):
            assert await ask(box, b"GET / HTTP/1.0\r\n\r\n", LOOPBACK, 80) == b""
            assert (await get(box, "http://127.0.0.1/"))[0] == 200

    world.run(main)
    assert len(loopback.seen) == 1


def test_registries_judges_redirected_http_by_host_and_address(world: World) -> None:
    origin = world.origin()
    other = world.origin(OTHER)
    table = {"good.example": [[PUBLIC]], "evil.example": [[OTHER]]}

    def head(host: str) -> bytes:
        return f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()

    async def main() -> None:
        box, sockets = world.redirecting_box(PUBLIC, OTHER, ports=(80, 8080))
        async with served(world, registries("good.example"), table, sockets=sockets):
            assert b" 200 " in await ask(box, head("good.example"), PUBLIC, 80)
            assert b" 403 " in await ask(box, head("evil.example"), OTHER, 80)
            assert b" 403 " in await ask(box, head("good.example"), OTHER, 80)
            assert b" 400 " in await ask(box, head("good.example:81"), PUBLIC, 80)
            assert b" 400 " in await ask(box, b"GET / HTTP/1.0\r\n\r\n", PUBLIC, 80)
            connect = b"CONNECT good.example:80 HTTP/1.1\r\nHost: good.example\r\n\r\n"
            assert b" 400 " in await ask(box, connect, PUBLIC, 80)
            assert await ask(box, head("good.example"), PUBLIC, 8080) == b""

    world.run(main)
    assert len(origin.seen) == 1
    assert other.seen == []


def test_registries_judges_redirected_tls_by_server_name_and_address(
    world: World, pair: tuple[ssl.SSLContext, str]
) -> None:
    world.origin(port=443, context=pair[0])
    world.origin(OTHER, port=443, context=pair[0])
    table = {"good.example": [[PUBLIC]], "evil.example": [[OTHER]]}

    async def first(box: Namespace, address: str, name: str | None) -> bytes:
        async with connected(box, address, 443) as (reader, writer):
            writer.write(client_hello(name))
            return (await reader.read(1 << 16))[:7]

    async def main() -> None:
        box, sockets = world.redirecting_box(PUBLIC, OTHER, ports=(443,))
        async with served(world, registries("good.example"), table, sockets=sockets):
            assert (await first(box, PUBLIC, "good.example"))[:1] == b"\x16"
            assert await first(box, PUBLIC, "evil.example") == ALERT
            assert await first(box, OTHER, "good.example") == ALERT
            assert await first(box, PUBLIC, None) == ALERT

    world.run(main)
