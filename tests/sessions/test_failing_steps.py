"""Each step of a run's commit fails once, or from then on, or the server is stopped at it: what was
acknowledged is all there, what was not is not there by half, and the next run finds exactly that.

A step is a call that the rooms of the workspace and of the stores make to the system, a statement or
the end of a transaction, a request to the object store.  The failures are those of the system itself:
its error numbers, and for PostgreSQL a connection that the server ends.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import obstore
import psycopg
import pytest
from obstore.exceptions import GenericError
from sqlalchemy import Connection, Engine, event

from era.errors import EraError
from era.languages.table import LANGUAGES, Tools
from era.models import NewSession, RunRequest, RunResult
from era.sessions.nodes import Cluster
from era.sessions.parts import Parts
from era.sessions.seal import Seal
from era.sessions.service import Sessions
from era.sessions.settings import SessionLimits
from era.storage.base import Blobs
from era.storage.blobs.local import LocalBlobs
from era.storage.blobs.objects import ObjectBlobs
from era.storage.leases import Node
from era.storage.records.keeper import DatabaseRecords
from era.storage.records.postgres import PostgresRecords
from era.storage.records.sqlite import SqliteRecords
from era.workspace.trees import Trees
from tests.fakes.driver import ProcessDriver
from tests.servers.objects import Objects
from tests.servers.postgres import Postgres
from tests.sessions.conftest import Clock

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]

CALLS = (
    *("open", "write", "pread", "fsync", "stat", "scandir", "listxattr", "readlink"),
    *("link", "symlink", "unlink", "mkdir", "rmdir", "fchmod", "fchown", "chmod", "chown", "utime"),
)
ROOMS = ("era.workspace", "era.storage")
MOST = 2000
"""More steps than a run has."""

PROGRAM = """
import json, os, shutil
def shown(path):
    return os.readlink(path) if os.path.islink(path) else open(path).read()
found = {}
for at, below, names in os.walk("."):
    for name in names:
        path = os.path.join(at, name)[2:]
        if not path.startswith("."):
            found[path] = shown(path)
print(json.dumps(found))
for name in os.listdir("."):
    if not name.startswith("."):
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
os.mkdir("d")
open("a", "w").write("N")
open("d/ODD", "w").write("N")
os.symlink("d/ODD", "l")
json.dump({"count": N}, open(".session_data.json", "w"))
"""

State = tuple[dict[str, str], int]
"""Files with their contents or targets, and the count in the data."""


def after(number: int) -> State:
    """What run `number` leaves, whatever was there."""
    inner = f"d/k{number % 2}"
    return {"a": str(number), inner: str(number), "l": inner}, number


def program(number: int) -> str:
    return PROGRAM.replace("ODD", f"k{number % 2}").replace("N", str(number))


@dataclass
class Faults:
    """Counts steps and lets the one numbered `at` fail; with `lasting` also those after it."""

    end_backend: Callable[[int], None] | None = None
    """Ends the connection of PostgreSQL's process with this number."""
    at: int | None = None
    lasting: bool = False
    act: Callable[[], None] | None = None
    """Called instead of a failure."""
    hits: int = 0
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, at: int, *, lasting: bool = False, act: Callable[[], None] | None = None) -> None:
        self.at, self.lasting, self.act = at, lasting, act
        self._left, self.hits = at, 0

    def disarm(self) -> int:
        """How many steps have failed."""
        self.at = None
        return self.hits

    @property
    def number(self) -> int:
        """An error: a full disk and a broken one by turns."""
        return errno.ENOSPC if (self.at or 0) % 2 else errno.EIO

    def due(self) -> bool:
        """Count a step; whether it is to fail."""
        with self._lock:
            if self.at is None:
                return False
            self._left -= 1
            if self._left > 0 or (self._left < 0 and not self.lasting):
                return False
            self.hits += 1
        if self.act is not None:
            self.act()
            return False
        return True

    # -- the seams --

    def call(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A system call."""

        def step(*args: Any, **named: Any) -> Any:
            where = sys._getframe(1).f_globals["__name__"]
            if where.startswith(ROOMS) and self.due():
                raise OSError(self.number, os.strerror(self.number))
            return real(*args, **named)

        return step

    def request(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """A request that fails before it is sent, or, as the next step, after it was answered."""

        async def step(*args: Any, **named: Any) -> Any:
            self._refuse()
            answer = await real(*args, **named)
            self._refuse()
            return answer

        return step

    def _refuse(self) -> None:
        if self.due():
            full = self.number == errno.ENOSPC
            raise GenericError("507 Insufficient Storage" if full else "connection reset")

    def statement(self, connection: Connection, *_: object) -> None:
        """A statement that is about to be executed."""
        if self.due():
            self._break(connection)

    def commit(self, connection: Connection) -> None:
        """The end of a transaction: it fails before it is durable, or, as the next step, after."""
        if self.due():
            self._break(connection)
        elif self.due():
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection | psycopg.Connection)
            driver.commit()
            self._break(connection)

    def _break(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if isinstance(driver, psycopg.Connection):
            assert self.end_backend is not None
            self.end_backend(driver.info.backend_pid)
            return
        error = sqlite3.OperationalError("database or disk is full")
        full = self.number == errno.ENOSPC
        error.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
        raise error


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    faults = Faults()
    steps = {getattr(os, name): faults.call(getattr(os, name)) for name in CALLS}
    for real, step in steps.items():
        monkeypatch.setattr(os, real.__name__, step)
    for name in ("supports_dir_fd", "supports_fd", "supports_follow_symlinks"):
        able = getattr(os, name)  # asked by the standard library before it uses what they can
        monkeypatch.setattr(os, name, able | {steps[real] for real in able & steps.keys()})
    for name in ("put_async", "get_range_async"):
        monkeypatch.setattr(obstore, name, faults.request(getattr(obstore, name)))
    event.listen(Engine, "before_cursor_execute", faults.statement)
    event.listen(Engine, "commit", faults.commit)
    yield faults
    event.remove(Engine, "before_cursor_execute", faults.statement)
    event.remove(Engine, "commit", faults.commit)


Stores = Callable[[], tuple[DatabaseRecords, Blobs]]


@dataclass
class Server:
    """A server on stores that outlive it."""

    folder: Path
    stores: Stores
    driver: ProcessDriver
    sessions: Sessions = field(init=False)

    async def start(self) -> None:
        records, blobs = await asyncio.to_thread(self.stores)
        clock = Clock()
        cluster = None
        if isinstance(records, PostgresRecords):
            node = Node(name="one/1", address="http://one")
            cluster = Cluster(store=records, node=node, ttl_seconds=600)
        self.parts = Parts(
            records=records,
            blobs=blobs,
            driver=self.driver,
            trees=Trees(root=str(self.folder / "trees"), records=records, blobs=blobs),
            tools=Tools(versions={}, missing=dict.fromkeys(set(LANGUAGES) - {"python"}, "no")),
            seal=Seal("a secret for tests"),
            layers_dir=str(self.folder / "layers"),
            programs_dir=str(self.folder / "programs"),
            clock=clock,
            cluster=cluster,
        )
        self.sessions = Sessions(self.parts, SessionLimits())
        await self.sessions.start()

    async def stop(self) -> None:
        await self.sessions.close(0)
        await self.parts.blobs.close()
        await self.parts.records.close()

    async def run(self, number: int) -> RunResult | EraError:
        """What the caller of run `number` is told."""
        try:
            return await self.sessions.run("s", RunRequest(code=program(number)))
        except EraError as error:
            return error

    async def state(self) -> State:
        """What any reader is told."""
        files = {}
        for entry in (await self.sessions.files("s")).items:
            if entry.target is not None:
                files[str(entry.path)] = entry.target
                continue
            opened = await self.sessions.open_file("s", entry.path)
            files[str(entry.path)] = b"".join([chunk async for chunk in opened.read()]).decode()
        return files, json.loads((await self.sessions.get("s")).record.data)["count"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        for inner in ("layers", "programs", "boxes"):
            (Path(name) / inner).mkdir()
        yield Path(name)


@pytest.fixture(params=["directory", "several"])
def stores(
    request: pytest.FixtureRequest, folder: Path, faults: Faults
) -> Iterator[Callable[[], tuple[DatabaseRecords, Blobs]]]:
    """SQLite with a directory, or PostgreSQL with S3."""
    if request.param == "directory":
        yield lambda: (SqliteRecords(str(folder / "era.db")), LocalBlobs(str(folder / "blobs")))
        return
    postgres: Postgres = request.getfixturevalue("postgres_server")
    objects: Objects = request.getfixturevalue("object_server")
    name, store = postgres.new_database(), objects.store(objects.new_url())
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as operator:

        def end(pid: int) -> None:
            operator.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])

        faults.end_backend = end

        def make() -> tuple[DatabaseRecords, Blobs]:
            records = PostgresRecords(postgres.url(name))
            cache = str(folder / "cache")
            return records, ObjectBlobs(store, records, cache, cache_bytes=1 << 30)

        yield make
    postgres.drop(name)


@asynccontextmanager
async def serving(folder: Path, stores: Stores, faults: Faults) -> AsyncIterator[Server]:
    async with AsyncExitStack() as stack:
        driver = ProcessDriver(str(folder / "boxes"))
        stack.push_async_callback(driver.close)
        server = Server(folder, stores, driver)
        await server.start()
        stack.push_async_callback(lambda: server.stop())
        stack.callback(faults.disarm)
        await server.sessions.create(NewSession(id="s", language="python", data='{"count":0}'))
        yield server


def allowed(told: RunResult | EraError, before: State, number: int) -> list[State]:
    """The states that what the caller was told leaves possible."""
    full, nothing = after(number), before
    if isinstance(told, EraError):
        # The answer to a commit may be lost, not half of the commit.
        return [nothing, full]
    if told.files_error is not None:
        return [(before[0], number)]
    return [full]


async def checked(
    server: Server, told: RunResult | EraError, before: State, number: int, at: int
) -> State:
    """The state now, which has to be one of those allowed."""
    now = await server.state()
    assert now in allowed(told, before, number), (at, told)
    if isinstance(told, RunResult):
        assert json.loads(told.stdout) == before[0], at
        assert told.exit_code == 0
    return now


async def test_each_step_fails_once(folder: Path, stores: Stores, faults: Faults) -> None:
    refused = lost_files = 0
    async with serving(folder, stores, faults) as server:
        state: State = ({}, 0)
        for at in range(1, MOST):
            faults.arm(at)
            told = await server.run(at)
            await server.parts.trees.close()
            if not faults.disarm():
                break
            state = await checked(server, told, state, at, at)
            refused += isinstance(told, EraError)
            lost_files += isinstance(told, RunResult) and told.files_error == "storage_full"
        assert await checked(server, told, state, at, at) == after(at)
    assert at > 60
    assert refused > 10
    assert lost_files > 2


async def test_nothing_works_from_a_step_on(folder: Path, stores: Stores, faults: Faults) -> None:
    """As when the server is killed there: not even what tidies up takes place."""
    refused = 0
    async with serving(folder, stores, faults) as server:
        state: State = ({}, 0)
        for at in range(1, MOST, 2):
            faults.arm(at, lasting=True)
            told = await server.run(at)
            await server.parts.trees.close()
            failed = faults.disarm()
            await server.stop()
            await server.start()
            if not failed:
                break
            state = await checked(server, told, state, at, at)
            refused += isinstance(told, EraError)
        assert await checked(server, told, state, at, at) == after(at)
    assert at > 60
    assert refused > 5


async def test_the_server_is_stopped_at_a_step(
    folder: Path, stores: Stores, faults: Faults
) -> None:
    loop = asyncio.get_running_loop()
    async with serving(folder, stores, faults) as server:
        state: State = ({}, 0)
        for at in range(1, MOST, 5):
            stopping: list[asyncio.Task[None]] = []

            def stop(stopping: list[asyncio.Task[None]] = stopping) -> None:
                work = server.sessions.close(0)
                loop.call_soon_threadsafe(lambda: stopping.append(loop.create_task(work)))

            faults.arm(at, act=stop)
            told = await server.run(at)
            await server.parts.trees.close()
            hit = faults.disarm()
            if not hit:
                break
            while not stopping:
                await asyncio.sleep(0.001)
            await stopping[0]
            await server.stop()
            await server.start()
            state = await checked(server, told, state, at, at)
        assert await checked(server, told, state, at, at) == after(at)
    assert at > 60
