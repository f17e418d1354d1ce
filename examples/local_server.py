"""A service of one's own for an example: started, killed, started again, and stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 180
"""The first start on a machine compiles Go's standard library."""


class LocalServer:
    """`era serve` on a free port of this machine, with its state in `state_dir`."""

    def __init__(self, state_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        self.state_dir = state_dir
        self.log = state_dir.with_name(f"{state_dir.name}.log")
        self._place = reserved()
        self.port: int = self._place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it says that it is healthy."""
        command = [sys.executable, "-m", "era", "serve", "--port", str(self.port)]
        command += ["--state-dir", str(self.state_dir)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._clean()
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def _clean(self) -> dict[str, str]:
        """Our environment without settings of some other server.  This one does not live long enough
        to compile all of Go's library ahead."""
        ours = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ERA_", "AGENT_")) and name != "PORT"
        }
        return ours | {"ERA_GO_AHEAD": "0"} | self._environment

    def healthy(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return False

    def kill(self) -> None:
        """`kill -9`: it gets no chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop; the status it exits with."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=60)

    def close(self) -> None:
        """Let others have the port."""
        self._place.close()

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None


def reserved() -> socket.socket:
    """A socket on a free port, for as long as it is open.

    The server, which shares its address as this one does, may listen there; nobody else is given the
    port while the server is down, as the near end of a connection of theirs, say.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """A running server that is gone afterwards, with its state."""
    with tempfile.TemporaryDirectory(prefix="era-example-") as folder:
        server = LocalServer(Path(folder) / "state")
        server.start()
        try:
            yield server
        finally:
            if server.running:
                server.stop()
            server.close()
