"""Both keepers of each store, so that one suite is run on all."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from era.storage.base import Blobs, Export, Records

pytest.register_assert_rewrite("tests.contracts.records", "tests.contracts.blobs")

from era.storage.blobs.local import LocalBlobs  # noqa: E402
from era.storage.blobs.objects import ObjectBlobs  # noqa: E402
from era.storage.records.postgres import PostgresRecords  # noqa: E402
from era.storage.records.sqlite import SqliteRecords  # noqa: E402
from era.storage.worker.blobs import WorkerBlobs  # noqa: E402
from era.storage.worker.client import StateClient  # noqa: E402
from era.storage.worker.records import WorkerRecords  # noqa: E402
from tests.fakes.blobs import MemoryBlobs  # noqa: E402
from tests.fakes.records import MemoryRecords  # noqa: E402
from tests.servers.objects import Objects  # noqa: E402
from tests.servers.postgres import Postgres  # noqa: E402
from tests.servers.worker import Worker  # noqa: E402


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the newest schema without rows: copying it is quicker than making one."""
    path = tmp_path_factory.mktemp("records") / "empty.db"

    async def make() -> None:
        await SqliteRecords(str(path)).close()

    # On a thread, because an event loop may be running on this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(anyio.run, make).result()
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> str:
    """The path of a database file of this test alone."""
    return str(shutil.copy(empty_database, tmp_path / "era.db"))


@pytest.fixture(scope="session")
def empty_postgres(postgres_server: Postgres) -> str:
    """The name of a database of the newest schema without rows."""
    name = postgres_server.new_database()

    async def make() -> None:
        await PostgresRecords(postgres_server.url(name)).close()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(anyio.run, make).result()
    return name


@pytest.fixture
def postgres_url(postgres_server: Postgres, empty_postgres: str) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test alone."""
    name = postgres_server.new_database(empty_postgres)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        "postgres",
        pytest.param("worker", marks=pytest.mark.xdist_group("worker")),
    ]
)
async def records(request: pytest.FixtureRequest) -> AsyncIterator[Records]:
    """An empty keeper of records."""
    keeper: Records
    if request.param == "memory":
        keeper = MemoryRecords()
    elif request.param == "sqlite":
        keeper = SqliteRecords(request.getfixturevalue("database"))
    elif request.param == "worker":
        worker: Worker = request.getfixturevalue("worker_server")
        worker.empty()
        path = str(request.getfixturevalue("tmp_path") / "copy.db")
        keeper = await asyncio.to_thread(WorkerRecords, path, worker.client())
    else:
        keeper = PostgresRecords(request.getfixturevalue("postgres_url"))
    yield keeper
    await keeper.close()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.frozen: float | None = None

    def __call__(self) -> float:
        return time.time() + self.ahead if self.frozen is None else self.frozen


@pytest.fixture
def clock() -> Clock:
    """The real time, until told otherwise: kernels stamp files with nothing else."""
    return Clock()


class ColdBlobs(ObjectBlobs):
    """Nothing is in its cache whenever something is asked for."""

    async def _cool(self) -> None:
        await asyncio.sleep(0.03)  # younger ones may be in use
        await self._cache.trim(0)

    async def open(
        self, blob: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        await self._cool()
        async with aclosing(super().open(blob, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def export(self, items: Iterable[Export]) -> None:
        await self._cool()
        await super().export(items)


async def nowhere(_blob: str) -> None:
    """No session at the Worker has a blob."""


@pytest.fixture(params=["memory", "local", "s3", "s3-cold", "worker"])
async def blobs(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[Blobs]:
    """An empty keeper of blobs.  The cold one has nothing in its cache, ever."""
    if request.param == "memory":
        yield MemoryBlobs(clock=clock)
    elif request.param == "worker":
        local = LocalBlobs(str(tmp_path / "blobs"), clock=clock, durable=False)
        copies = WorkerBlobs(local, StateClient("http://127.0.0.1:1", ""), nowhere)
        yield copies
        await copies.close()
    elif request.param == "local":
        keeper = LocalBlobs(str(tmp_path / "blobs"), clock=clock)
        yield keeper
        await keeper.close()
    else:
        server: Objects = request.getfixturevalue("object_server")
        index = SqliteRecords(request.getfixturevalue("database"))
        cold = request.param == "s3-cold"
        stored = (ColdBlobs if cold else ObjectBlobs)(
            server.store(server.new_url()),
            index,
            str(tmp_path / "cache"),
            cache_bytes=0 if cold else 1 << 30,
            clock=clock,
        )
        yield stored
        await stored.close()
        await index.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The descriptor of an empty directory, to export into."""
    path = tmp_path / "folder"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)
