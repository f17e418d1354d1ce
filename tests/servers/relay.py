"""A wire between a node and its PostgreSQL server that can go dead in either direction."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.postgres import Postgres

_NAME = ".s.PGSQL.5432"


@dataclass(slots=True)
class Relay:
    """Passes bytes on, until a direction is `hold`: what comes after stays on the way for ever."""

    folder: Path
    server: Path
    requests_held: threading.Event = field(default_factory=threading.Event)
    answers_held: threading.Event = field(default_factory=threading.Event)
    _open: list[socket.socket] = field(default_factory=list)

    def url(self, database: str) -> str:
        """The database as it is reached by this wire."""
        return f"postgresql://era@/{database}?host={self.folder}"

    def listen(self) -> None:
        """Begin to take connections."""
        listener = self._kept(socket.socket(socket.AF_UNIX))
        listener.bind(str(self.folder / _NAME))
        listener.listen()
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """End all connections."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _kept(self, sock: socket.socket) -> socket.socket:
        self._open.append(sock)
        return sock

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = self._kept(listener.accept()[0])
                far = self._kept(socket.socket(socket.AF_UNIX))
                far.connect(str(self.server / _NAME))
                for pair in ((near, far, self.requests_held), (far, near, self.answers_held)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, held: threading.Event) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if held.is_set():
                return
            target.sendall(data)
        # The end of one side's talking travels too, unless nothing does.
        if not held.is_set():
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relay(server: Postgres) -> Iterator[Relay]:
    """A wire to `server`, gone with the context."""
    with tempfile.TemporaryDirectory(prefix="era-wire-", dir="/dev/shm") as folder:
        wire = Relay(Path(folder), server.folder)
        wire.listen()
        try:
            yield wire
        finally:
            wire.cut()
