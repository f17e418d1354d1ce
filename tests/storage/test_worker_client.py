"""The way to the Worker: connections that it closed meanwhile are no failure."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from era.errors import InternalError
from era.storage.worker.client import StateClient

TOGETHER = 8
ANSWER = b'HTTP/1.1 204 No Content\r\nETag: "7"\r\n\r\n'


@pytest.fixture
def forgetful() -> Iterator[str]:
    """A server that promises to keep each connection, and closes it after one answer."""
    everyone = threading.Barrier(TOGETHER)

    def serve(connection: socket.socket, first: bool) -> None:
        with connection:
            connection.recv(65536)
            if first:
                everyone.wait(60)  # so that each of the first has a connection of its own
            connection.sendall(ANSWER)

    def accept() -> None:
        for number in range(1000):
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection, number < TOGETHER)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/_state"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def test_many_closed_connections_are_no_failure(forgetful: str) -> None:
    with closing(StateClient(forgetful, "t")) as client:
        with ThreadPoolExecutor(TOGETHER) as pool:
            found = list(pool.map(lambda _: client.call("GET", "/x").revision, range(TOGETHER)))
        assert found == [7] * TOGETHER
        for _ in range(3):
            assert client.call("GET", "/x").status == 204


def test_nobody_there_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        closing(StateClient(f"http://127.0.0.1:{port}", "t")) as client,
        pytest.raises(InternalError, match="cannot be reached"),
    ):
        client.call("GET", "/x")
