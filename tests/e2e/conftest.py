"""Fixtures that start real servers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import WatchedServer

StartServer = Callable[..., WatchedServer]


@contextmanager
def watched(environment: dict[str, str]) -> Iterator[WatchedServer]:
    """A running server.  It must leave nothing; killed, it may leave that to its next start."""
    with tempfile.TemporaryDirectory(prefix="era-e2e-") as folder:
        server = WatchedServer(Path(folder) / "state", environment)
        try:
            server.start()
            yield server
        finally:
            try:
                if not server.running:
                    server.start()
                assert server.stop() == 0, server.said()
            finally:
                server.close()
        assert server.left_behind() == []


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers with given environment variables; each must leave nothing behind."""
    with ExitStack() as stack:
        yield lambda **environment: stack.enter_context(watched(environment))


@pytest.fixture(scope="module")
def server() -> Iterator[WatchedServer]:
    """One server for the tests of a module."""
    with watched({}) as running:
        yield running
