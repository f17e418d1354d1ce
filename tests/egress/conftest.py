"""A small world of two network namespaces: the host with its servers, and a box with nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
import uvloop

from era.egress.broker import BoxSockets
from tests.egress.netns import Namespace, can_make_namespaces
from tests.egress.servers import OriginServer, running

T = TypeVar("T")

PUBLIC = "93.184.216.34"
OTHER = "93.184.216.35"
HOST = "93.184.216.36"
METADATA = "169.254.169.254"
PRIVATE = "10.0.0.5"


class World:
    """`outside` stands for the host and everything it reaches: its loopback answers for the
    addresses above, so that nothing of the real network is touched.  The broker and the code of a
    test run there; `box` has only its own loopback."""

    def __init__(
        self, loop_factory: Callable[[], asyncio.AbstractEventLoop], stack: ExitStack
    ) -> None:
        self._loop_factory = loop_factory
        self._stack = stack
        self.outside = Namespace(local=[PUBLIC, OTHER, HOST, METADATA, PRIVATE])
        self.box = Namespace()
        stack.callback(self.outside.close)
        stack.callback(self.box.close)

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `main` outside, to its end."""

        def work() -> T:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                return runner.run(main())

        return self.outside.call(work)

    def origin(self, address: str = PUBLIC, port: int = 80, **more: Any) -> OriginServer:
        """A server outside, until the test ends."""
        server = self.outside.call(lambda: OriginServer(address, port, **more))
        return self._stack.enter_context(running(server))

    def redirecting_box(
        self, *addresses: str, ports: tuple[int, ...]
    ) -> tuple[Namespace, BoxSockets]:
        """A box whose own kernel brings connections to `addresses` at `ports` to the broker."""
        box = Namespace(local=addresses)
        self._stack.callback(box.close)
        return box, box.sockets(transparent=ports)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """See `World`.  Under both event loops: the service uses either."""
    if not can_make_namespaces():
        pytest.skip("network namespaces need root")
    with ExitStack() as stack:
        yield World(request.param, stack)
