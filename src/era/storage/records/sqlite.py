"""`Records` in one SQLite file, for one process.

One thread owns the one connection.  Reads run alone; writes that wait at the same time share one
transaction, each in a savepoint of its own, so that a burst of commits pays for one flush to the
disk.  Nobody hears of success before the flush: WAL with synchronous=FULL keeps every acknowledged
commit through a power loss (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from era.errors import EraError, InternalError, UnavailableError
from era.storage.records import migrate
from era.storage.records.keeper import DatabaseRecords, P, R, Unit
from era.storage.records.statements import probe_write

MAX_GROUP: Final = 64
"""Writes in one transaction: enough to hide the flush, few enough that the first need not wait."""
_PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "temp_store = MEMORY",
    "cache_size = -32768",
    "trusted_schema = OFF",
    # Give the space of a burst back; SQLite else keeps the log at its largest size.
    "journal_size_limit = 67108864",
)


@dataclass(slots=True)
class _Job:
    """A unit with its arguments, and whom to tell; `unit` None ends the thread."""

    unit: Callable[[Connection], Any] | None
    writes: bool
    done: Future[Any]


class SqliteRecords(DatabaseRecords):
    """Keeps `era.storage.base.Records` in the file `path`, which is created when missing.

    Blocks until the file is open and of the right schema.

    Raises:
        InternalError: the file cannot be opened, is no database of ours, or is of a newer version.
        UnavailableError: `storage_full`.
    """

    def __init__(self, path: str, *, busy_timeout_seconds: float = 10.0) -> None:
        self._path: Final = os.path.abspath(path)
        self._timeout: Final = busy_timeout_seconds
        self._jobs: Final[SimpleQueue[_Job]] = SimpleQueue()
        self._closed = False
        opened: Future[None] = Future()
        self._thread: Final = threading.Thread(
            target=self._serve, args=(opened,), name="era-records", daemon=True
        )
        self._thread.start()
        opened.result()

    async def close(self) -> None:
        """See `Records.close`.  A second call does nothing."""
        if not self._closed:
            last = self._submit(None, writes=False)
            self._closed = True
            await asyncio.shield(last)
            self._thread.join()

    async def check(self) -> None:
        """See `Records.check`.  Finds a file that was removed or replaced, too."""
        await self._write(_probe)
        try:
            found = os.stat(self._path)
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise InternalError(text="the database file was removed or replaced")

    async def _read(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await self._submit(partial(_call, unit, args, kwargs), writes=False)
        return result

    async def _write(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await self._submit(partial(_call, unit, args, kwargs), writes=True)
        return result

    def _submit(
        self, unit: Callable[[Connection], Any] | None, *, writes: bool
    ) -> asyncio.Future[Any]:
        if self._closed:
            raise InternalError(text="the store of records is closed")
        job = _Job(unit, writes, Future())
        self._jobs.put(job)
        return asyncio.wrap_future(job.done)

    # -- on the thread that owns the connection --

    def _serve(self, opened: Future[None]) -> None:
        """Open, answer jobs until the one that ends the thread, close."""
        try:
            engine, connection = self._open()
        except BaseException as error:  # noqa: BLE001 - the constructor raises it
            opened.set_exception(_translated(error))
            return
        opened.set_result(None)
        waiting: _Job | None = None
        while (job := waiting or self._jobs.get()).unit is not None:
            waiting = None
            if job.writes:
                group, waiting = self._group(job)
                _run_writes(connection, group)
            else:
                _run_alone(connection, job)
        connection.close()
        engine.dispose()
        job.done.set_result(None)

    def _group(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """`first` and the writes that wait behind it; then the first job that is none."""
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                break
            if not job.writes:
                return group, job
            group.append(job)
        return group, None

    def _open(self) -> tuple[Engine, Connection]:
        folder = os.path.dirname(self._path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # SQLite gives its companion files the mode of the database.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            status = os.fstat(descriptor)
            self._identity = (status.st_dev, status.st_ino)
        finally:
            os.close(descriptor)
        _flush_folder(folder)
        engine = create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        event.listen(engine, "begin", _begin)
        connection = engine.connect()
        try:
            with _writing(connection).begin():
                migrate.upgrade(connection)
        except BaseException:
            connection.close()
            raise
        return engine, connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._timeout, isolation_level=None, cached_statements=256
        )
        try:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").close()
        except BaseException:
            connection.close()
            raise
        return connection


def _call(unit: Callable[..., R], args: Any, kwargs: Any, connection: Connection) -> R:
    return unit(connection, *args, **kwargs)


def _probe(connection: Connection) -> None:
    connection.execute(probe_write)


def _flush_folder(folder: str) -> None:
    """Make the name of a new file durable (fsync(2): the file's own flush does not)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _begin(connection: Connection) -> None:
    """Begin as the next transaction needs: a writer asks for the lock at once, so that it waits
    for another program here and never fails in its middle."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    if driver.in_transaction:
        # A failed COMMIT may leave its transaction open, and nothing else would ever end it.
        driver.rollback()
    driver.execute(connection.info.pop("begin", "BEGIN"))


def _writing(connection: Connection) -> Connection:
    connection.info["begin"] = "BEGIN IMMEDIATE"
    return connection


def _run_alone(connection: Connection, job: _Job) -> None:
    """Run one unit in a transaction of its own."""
    if not job.done.set_running_or_notify_cancel():
        return
    _finish_alone(connection, job)


def _finish_alone(connection: Connection, job: _Job) -> None:
    assert job.unit is not None
    try:
        with (_writing(connection) if job.writes else connection).begin():
            result = job.unit(connection)
    except BaseException as error:  # noqa: BLE001 - whoever asked gets it
        job.done.set_exception(_translated(error))
    else:
        job.done.set_result(result)


def _run_writes(connection: Connection, group: list[_Job]) -> None:
    """Run units in one transaction; a unit that refuses takes back its own part only."""
    jobs = [job for job in group if job.done.set_running_or_notify_cancel()]
    if len(jobs) < 2:
        for job in jobs:
            _finish_alone(connection, job)
        return
    outcomes: list[Any] = []
    try:
        with _writing(connection).begin():
            outcomes += [_in_savepoint(connection, job) for job in jobs]
    except BaseException:  # noqa: BLE001 - found again, and told to the right one, below
        # Nothing of the group was kept (SQLite may have rolled all of it back on its own, as on a
        # full disk).  A unit depends on the database alone, so each may run again by itself.
        for job in jobs:
            _finish_alone(connection, job)
        return
    for job, outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, EraError):
            job.done.set_exception(outcome)
        else:
            job.done.set_result(outcome)


def _in_savepoint(connection: Connection, job: _Job) -> Any:
    """The result of a unit, or the refusal it raised, with its effects taken back."""
    assert job.unit is not None
    try:
        with connection.begin_nested():
            return job.unit(connection)
    except EraError as refusal:
        return refusal


def _translated(error: BaseException) -> BaseException:
    """What a failure of the database is to the callers of `Records`."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, OSError):
        known: EraError = InternalError(text=f"the database cannot be opened: {cause.strerror}")
    elif not isinstance(cause, sqlite3.Error):
        return error
    else:
        name = getattr(cause, "sqlite_errorname", "")
        if name in ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"):
            known = UnavailableError("storage_full")
        else:
            known = InternalError(text=f"the database failed ({name or type(cause).__name__})")
    known.__cause__ = error
    return known
