"""A network namespace serves the next box only where nothing of the last one can be seen in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.policy import EgressPolicy
from era.models import Network
from era.sandbox.base import BoxSpec
from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import BoxTools, output_of, python
from tests.sandbox.attack import ROOT
from tests.sandbox.boxes import namespaces_driver
from tests.sandbox.census import settled

SEEN: Final = r"""
import re, socket
names = ("dev", "snmp", "snmp6", "netstat", "sockstat", "sockstat6", "unix", "tcp", "udp",
         "ip6_flowlabel", "rt6_stats", "ipv6_route", "igmp", "igmp6", "mcfilter", "mcfilter6")
SO_NETNS_COOKIE = 71
with socket.socket() as sock:  # a number that no other network will ever have
    print(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))
for name in names:
    try:
        text = open(f"/proc/self/net/{name}").read()
        print(name, re.sub(r" (orphan|alloc|mem) \d+", "", text))  # counted for the whole host
    except FileNotFoundError:
        pass
"""
NOTHING_SENT: Final = {
    "nothing": "pass",
    "a socket that is closed": "import socket; socket.socket().close()",
    "a listener that nobody calls": "import socket\ns = socket.socket()\n"
    "s.bind(('127.0.0.1', 0)); s.listen()",
    "files": "open('/tmp/x', 'w').write('y')",
}
SOMETHING_LEFT: Final = {
    "a datagram": "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
    "s.sendto(b'x', ('127.0.0.1', 9))",
    "a datagram by IPv6": (
        "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('::1', 9))"
    ),
    "a connection that is refused": (
        "import socket\ns = socket.socket()\nprint(s.connect_ex(('127.0.0.1', 9)))"
    ),
    "a connection in TIME_WAIT": (
        "import socket\nl = socket.socket()\nl.bind(('127.0.0.1', 0)); l.listen()\n"
        "c = socket.create_connection(l.getsockname())\na, _ = l.accept()\nc.close(); a.close()"
    ),
    "the label of a flow": (
        "import socket, struct\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "wish = b'sixteen bytes of'.ljust(16) + struct.pack('=IBBHHHI', 0, 0, 1, 1, 60, 60, 0)\n"
        "s.setsockopt(socket.IPPROTO_IPV6, 32, wish)  # IPV6_FLOWLABEL_MGR, made for a minute"
    ),
    "a route by IPv6 that was looked up": (
        "import socket\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.connect(('::1', 9))"
    ),
    "an address that is not there": (
        "import socket\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
        "try: s.sendto(b'x', ('192.0.2.1', 9))\nexcept OSError: pass"
    ),
}
SPEC: Final = BoxSpec()


@pytest.fixture
async def driver(tmp_path: Path, anyio_backend: str) -> AsyncIterator[NamespacesDriver]:
    async with namespaces_driver(str(tmp_path), on_disk=ROOT) as driver:
        yield driver


async def _run(driver: NamespacesDriver, code: str, spec: BoxSpec = SPEC) -> str:
    async with driver.box(spec) as box:
        said = await output_of(box, python(BoxTools(), code))
    await settled(driver)
    return said


def _network(said: str) -> str:
    return said.splitlines()[0]


@pytest.mark.anyio
@pytest.mark.parametrize("code", NOTHING_SENT.values(), ids=NOTHING_SENT)
async def test_a_network_where_nothing_was_sent_serves_again(
    driver: NamespacesDriver, code: str
) -> None:
    first = await _run(driver, SEEN)
    await _run(driver, code)
    assert await _run(driver, SEEN) == first


@pytest.mark.anyio
@pytest.mark.parametrize("code", SOMETHING_LEFT.values(), ids=SOMETHING_LEFT)
async def test_a_network_with_a_past_does_not(driver: NamespacesDriver, code: str) -> None:
    first = await _run(driver, SEEN)
    await _run(driver, code)
    again = await _run(driver, SEEN)
    assert _network(again) != _network(first)
    assert again.splitlines()[1:] == first.splitlines()[1:]


@pytest.mark.anyio
async def test_a_socket_that_outlives_its_box_is_in_no_other(driver: NamespacesDriver) -> None:
    """Two sockets that hold one another in their queues are nobody's (unix(7), SCM_RIGHTS)."""
    first = await _run(driver, SEEN)
    await _run(
        driver,
        "import socket\na, b = socket.socketpair()\nc = socket.socket(socket.AF_UNIX)\n"
        "c.bind('\\0left'); c.listen()\nsocket.send_fds(a, [b'x'], [a.fileno(), b.fileno(), c.fileno()])\n"
        "socket.send_fds(b, [b'x'], [a.fileno(), b.fileno(), c.fileno()])",
    )
    again = await _run(driver, SEEN)
    assert again.splitlines()[1:] == first.splitlines()[1:]


@pytest.mark.anyio
async def test_a_network_with_a_way_out_is_in_no_other_box(tmp_path: Path) -> None:
    broker = Broker()
    policy = EgressPolicy(network=Network.INTERNET)
    gateway = Gateway(broker, {Network.INTERNET: policy})
    async with namespaces_driver(str(tmp_path), on_disk=ROOT, egress=gateway) as driver:
        out = BoxSpec(network=Network.INTERNET)
        with_way = {_network(await _run(driver, SEEN, out)) for _ in range(2)}
        without = {_network(await _run(driver, SEEN)) for _ in range(2)}
        with_way |= {_network(await _run(driver, SEEN, out))}
    broker.close()
    assert len(without) == 1
    assert not with_way & without
