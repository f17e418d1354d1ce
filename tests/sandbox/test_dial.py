"""Connections into boxes: into that box, to what listens there, and nowhere else."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import pytest

from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.policy import EgressPolicy
from era.models import Network
from era.sandbox.base import Box, BoxSpec
from era.sandbox.namespaces.dial import EGRESS_PORTS, Calls, connected
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.spawn import LauncherLost
from tests.contracts.driver import BoxTools, Watch, exchange, python, shell
from tests.sandbox.boxes import namespaces_driver

pytestmark = pytest.mark.anyio

NAMED = """
import socket
server = socket.create_server(({host!r}, {port}), family=socket.{family})
print("ready", flush=True)
while True:
    client = server.accept()[0]
    client.recv(100)
    client.sendall({answer!r}.encode())
    client.close()
"""


@pytest.fixture
async def driver(tmp_path: object, anyio_backend: str) -> AsyncIterator[NamespacesDriver]:
    async with namespaces_driver(str(tmp_path), on_disk=False) as driver:
        yield driver


@asynccontextmanager
async def serving(
    driver: NamespacesDriver,
    answer: str,
    port: int = 8000,
    *,
    family: str = "AF_INET",
    host: str = "",
    spec: BoxSpec | None = None,
) -> AsyncIterator[Box]:
    """A box in which a server gives `answer`."""
    watch = Watch(b"ready")
    code = NAMED.format(answer=answer, port=port, family=family, host=host)
    async with driver.box(spec or BoxSpec()) as box:
        program = python(BoxTools(), code, timeout_seconds=600.0)
        running = asyncio.ensure_future(box.run(program, watch))
        await asyncio.wait_for(watch.came.wait(), 60)
        yield box
        box.cancel()
        await running


async def test_each_box_has_its_own_ports(driver: NamespacesDriver) -> None:
    async with serving(driver, "one") as one, serving(driver, "two") as two:
        assert await exchange(one, 8000, b"?") == b"one"
        assert await exchange(two, 8000, b"?") == b"two"


async def test_a_server_of_the_host_is_not_reached_and_none_inside_from_the_host(
    driver: NamespacesDriver,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        async with serving(driver, "inside") as box:
            with pytest.raises(ConnectionRefusedError):
                await box.connect(port)
            own = await asyncio.open_connection("127.0.0.1", port)  # the mirror: it is there
            own[1].close()
        async with serving(driver, "inside", port) as box:
            assert await exchange(box, port, b"?") == b"inside"


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_a_server_of_ipv6_alone(driver: NamespacesDriver, host: str) -> None:
    async with serving(driver, "six", family="AF_INET6", host=host) as box:
        assert await exchange(box, 8000, b"?") == b"six"


async def test_what_has_ended_has_no_connections(driver: NamespacesDriver) -> None:
    """A connection dies with its box, and an ended box gives no other."""
    async with serving(driver, "one") as box:
        sock = await box.connect(8000)
    with sock:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(loop.sock_recv(sock, 1), 60) == b""
    with pytest.raises(ConnectionRefusedError):
        await box.connect(8000)


async def test_the_ways_out_are_no_ways_in(tmp_path: object) -> None:
    """Where the service's own proxy listens inside a box nobody comes in; offline boxes have none."""
    policies = {Network.INTERNET: EgressPolicy(network=Network.INTERNET)}
    gateway = Gateway(Broker(), policies)
    spec = BoxSpec(network=Network.INTERNET)
    async with namespaces_driver(str(tmp_path), on_disk=False, egress=gateway) as driver:
        async with serving(driver, "open", spec=spec) as box:
            assert await exchange(box, 8000, b"?") == b"open"
            for port in sorted(EGRESS_PORTS):
                with pytest.raises(ConnectionRefusedError):
                    await box.connect(port)
        async with serving(driver, "offline", 3128) as box:
            assert await exchange(box, 3128, b"?") == b"offline"


async def test_a_server_that_accepts_nothing_is_given_up(driver: NamespacesDriver) -> None:
    code = "import socket, time; s = socket.socket(); s.bind(('', 8000)); s.listen(0)\n"
    code += "print('ready', flush=True); time.sleep(600)"
    watch = Watch(b"ready")
    async with driver.box(BoxSpec()) as box:
        running = asyncio.ensure_future(box.run(python(BoxTools(), code), watch))
        await asyncio.wait_for(watch.came.wait(), 60)
        with ExitStack() as stack:
            accepted = 0
            with suppress(TimeoutError):
                for accepted in range(10):  # noqa: B007 - how many it was
                    stack.enter_context(await box.connect(8000))
            assert accepted < 9
        box.cancel()
        await running


async def test_nothing_is_left_of_connections(driver: NamespacesDriver) -> None:
    async with serving(driver, "one") as box:
        await exchange(box, 8000, b"?")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            await exchange(box, 8000, b"?")
            with pytest.raises(ConnectionRefusedError):
                await box.connect(8001)
        await asyncio.sleep(0)  # a closed transport lets go of its socket in the next turn
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_launcher_that_is_lost_answers_nobody(driver: NamespacesDriver) -> None:
    async with driver.box(BoxSpec()) as box:
        watch = Watch(b"\n")
        running = asyncio.ensure_future(box.run(shell(BoxTools(), "echo; sleep 60"), watch))
        await asyncio.wait_for(watch.came.wait(), 60)
        call = asyncio.ensure_future(box.connect(8000))
        await asyncio.sleep(0)
        launcher = driver._launcher
        assert launcher is not None
        launcher.give_up()
        with pytest.raises(ConnectionRefusedError):
            await call
        with pytest.raises(ConnectionRefusedError):
            await box.connect(8000)
        with pytest.raises(LauncherLost):
            await Calls().sockets(launcher, 1)
        await asyncio.wait({running})
        assert running.exception() is not None


async def test_sockets_that_come_when_nobody_waits_are_closed() -> None:
    calls = Calls()
    one, other = socket.socketpair()
    with one:
        calls.answered(7, [other.detach()])
        assert one.recv(1) == b""


async def test_the_sockets_not_taken_are_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sockets = [socket.socket(), socket.socket()]
        with await connected(sockets, server.getsockname()[1]) as found:
            assert found is sockets[0]
            assert sockets[1].fileno() == -1
