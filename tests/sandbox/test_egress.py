"""A box and its ways out, with the real broker and a real server on this host."""

from __future__ import annotations

import http.server
import ipaddress
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.policy import EgressPolicy
from era.errors import UnavailableError
from era.models import Network
from era.sandbox.base import BoxSpec, Exit, Program
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.sandbox.boxes import namespaces_driver

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_args: object) -> None:
        return


@pytest.fixture
def port() -> Iterator[int]:
    """A web server on the host's loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["closed", "open"])
async def driver(
    request: pytest.FixtureRequest, tmp_path: object, anyio_backend: str
) -> AsyncIterator[tuple[NamespacesDriver, bool]]:
    """A driver whose internet policy excludes the host's loopback, or (the mirror) allows it."""
    exceptions = (LOOPBACK,) if request.param == "open" else ()
    broker = Broker()
    policies = {Network.INTERNET: EgressPolicy(network=Network.INTERNET, allow_networks=exceptions)}
    async with namespaces_driver(str(tmp_path), egress=Gateway(broker, policies)) as driver:
        yield driver, bool(exceptions)
    broker.close()


async def run(driver: NamespacesDriver, network: Network, code: str) -> Exit:
    program = Program(argv=("/usr/bin/python3", "-I", "-c", code), env={"PATH": "/usr/bin:/bin"})
    async with driver.box(BoxSpec(network=network)) as box:
        return await box.run(program)


@pytest.mark.anyio
async def test_the_proxy_is_the_way_out_and_holds_the_policy(
    driver: tuple[NamespacesDriver, bool], port: int
) -> None:
    keeper, opened = driver
    code = (
        "import urllib.request\n"
        f"r = urllib.request.Request('http://127.0.0.1:{port}/')\n"
        "h = urllib.request.ProxyHandler({'http': 'http://127.0.0.1:3128'})\n"
        "import os; os.environ.pop('no_proxy', None); os.environ.pop('NO_PROXY', None)\n"
        "print(urllib.request.build_opener(h).open(r).read().decode())"
    )
    ended = await run(keeper, Network.INTERNET, code)
    if opened:
        assert (ended.exit_code, ended.stdout) == (0, b"hello\n")
    else:
        assert ended.exit_code == 1
        assert b"403" in ended.stderr


@pytest.mark.anyio
async def test_around_the_proxy_there_is_nothing(
    driver: tuple[NamespacesDriver, bool], port: int
) -> None:
    code = (
        "import socket\n"
        f"for target in (('127.0.0.1', {port}), ('192.0.2.1', 80)):\n"
        "    try: socket.create_connection(target, 5); print('connected')\n"
        "    except OSError as e: print(type(e).__name__)"
    )
    ended = await run(driver[0], Network.INTERNET, code)
    assert ended.stdout == b"ConnectionRefusedError\nOSError\n"


@pytest.mark.anyio
async def test_an_offline_box_has_no_proxy_at_all(driver: tuple[NamespacesDriver, bool]) -> None:
    code = (
        "import os, socket\n"
        "print(any('proxy' in n.lower() for n in os.environ))\n"
        "try: socket.create_connection(('127.0.0.1', 3128), 5); print('connected')\n"
        "except ConnectionRefusedError: print('refused')"
    )
    ended = await run(driver[0], Network.OFFLINE, code)
    assert ended.stdout == b"False\nrefused\n"


@pytest.mark.anyio
async def test_without_a_broker_such_a_box_is_refused(tmp_path: object, anyio_backend: str) -> None:
    async with namespaces_driver(str(tmp_path)) as driver:
        with pytest.raises(UnavailableError) as caught:
            await run(driver, Network.INTERNET, "print(1)")
    assert caught.value.code == "isolation_unavailable"
