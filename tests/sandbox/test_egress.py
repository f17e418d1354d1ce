"""A box and its ways out, with the real broker and a real server on this host."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.host_addresses import HostAddresses
from era.egress.policy import EgressPolicy
from era.errors import UnavailableError
from era.models import Network
from era.sandbox.base import BoxSpec, Exit, Program
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.sandbox.attack import ROOT
from tests.sandbox.boxes import namespaces_driver

EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"),)


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
    exceptions = EVERYTHING if request.param == "open" else ()
    broker = Broker()
    policy = EgressPolicy(
        network=Network.INTERNET, allow_networks=exceptions, own_addresses=HostAddresses()
    )
    policies = {Network.INTERNET: policy}
    gateway = Gateway(broker, policies)
    async with namespaces_driver(str(tmp_path), on_disk=ROOT, egress=gateway) as driver:
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


RAW_REQUEST = """
import socket
def get(address, port):
    try:
        with socket.create_connection((address, port), 5) as s:
            s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return b"".join(iter(lambda: s.recv(4096), b"")).rpartition(b"\\r\\n")[2].decode()
    except OSError as e:
        return type(e).__name__
"""
"""A program that knows of no proxy."""


@pytest.fixture
def public_port(port: int) -> Iterator[tuple[str, int]]:
    """The same server on an address that is not loopback: the host's own, as others see it."""
    address = "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: asks the routing table for our address
        address = probe.getsockname()[0]
    server = http.server.ThreadingHTTPServer((address, 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield address, server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.anyio
async def test_a_program_that_knows_no_proxy_is_led_to_the_broker(
    driver: tuple[NamespacesDriver, bool], public_port: tuple[str, int]
) -> None:
    """The connection leaves through the broker, which refuses the host's own address (or not)."""
    keeper, opened = driver
    ended = await run(keeper, Network.INTERNET, f"{RAW_REQUEST}print(get(*{public_port}))")
    answer = ended.stdout.decode().strip()
    assert ended.stderr == b""
    if opened:
        assert answer == "hello"
    else:
        assert answer in ("", "ConnectionResetError")


@pytest.mark.anyio
async def test_other_datagrams_are_refused_at_once(driver: tuple[NamespacesDriver, bool]) -> None:
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(30)\n"
        "try: s.sendto(b'x', ('192.0.2.1', 443)); s.recv(1); print('answered')\n"
        "except OSError as e: print(type(e).__name__)"
    )
    ended = await run(driver[0], Network.INTERNET, code)
    assert ended.stdout in (b"PermissionError\n", b"ConnectionRefusedError\n")


@pytest.mark.anyio
async def test_the_boxes_own_loopback_is_its_own(
    driver: tuple[NamespacesDriver, bool], port: int
) -> None:
    code = f"{RAW_REQUEST}print(get('127.0.0.1', {port}))"
    ended = await run(driver[0], Network.INTERNET, code)
    assert ended.stdout == b"ConnectionRefusedError\n"


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
    async with namespaces_driver(str(tmp_path), on_disk=ROOT) as driver:
        with pytest.raises(UnavailableError) as caught:
            await run(driver, Network.INTERNET, "print(1)")
    assert caught.value.code == "isolation_unavailable"
