"""`Records` in a PostgreSQL database, for any number of nodes.

Units run on a few threads, each transaction on a connection of a pool.  A write runs at READ
COMMITTED: it locks the row of its session first and reads afterwards, so writers of one session
stand in line and those of others do not meet.  A read of several statements sees one state
(REPEATABLE READ, read only).  Whatever the database asks to be tried again is: a unit depends on
the database alone.

Nobody hears of success before the commit is durable, unless the operator has turned
`synchronous_commit` off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, QueuePool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from era.errors import EraError, InternalError, UnavailableError
from era.storage.records import migrate
from era.storage.records.keeper import DatabaseRecords, P, R, Unit
from era.storage.records.statements import probe_write

CONNECTIONS: Final = 8
"""Transactions at once on one node."""
ATTEMPTS: Final = 12
"""Of one unit, before its last failure is believed."""
_AGAIN: Final = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a key that another transaction has made meanwhile (PostgreSQL
manual, appendix A and section 13.5): the second time it is found."""
_FULL: Final = frozenset({"53100", "53000"})
_MIGRATING: Final = 0x657261
"""The advisory lock of whoever brings the schema up to date."""
STALL_SECONDS: Final = 10.0
"""A node that stands still in the middle of a transaction holds the others up no longer."""

T = TypeVar("T")


class PostgresRecords(DatabaseRecords):
    """Keeps `era.storage.base.Records` in the database at `url` (`postgresql://...`), which exists.

    Blocks until it is reached and of the right schema.  The database ends a transaction of this node
    that does nothing for `stall_seconds`.

    Raises:
        InternalError: it cannot be reached, is not UTF-8, or is of a newer version.
        UnavailableError: `storage_full`.
    """

    def __init__(
        self, url: str, *, connections: int = CONNECTIONS, stall_seconds: float = STALL_SECONDS
    ) -> None:
        self._pool: Final = ThreadPoolExecutor(connections, thread_name_prefix="era-records")
        self._closed = False
        engine = _engine(url, connections, stall_seconds)
        self._writer: Final = engine.execution_options(isolation_level="READ COMMITTED")
        self._reader: Final = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        try:
            _transaction(self._writer, _prepare)
        except BaseException:
            self._pool.shutdown()
            engine.dispose()
            raise

    async def close(self) -> None:
        """See `Records.close`.  A second call does nothing."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._pool.shutdown)
            self._writer.dispose()

    async def check(self) -> None:
        """See `Records.check`."""
        await self._write(_probe)

    async def _read(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._submit(self._reader, partial(_call, unit, args, kwargs))

    async def _write(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._submit(self._writer, partial(_call, unit, args, kwargs))

    async def _submit(self, engine: Engine, unit: Callable[[Connection], T]) -> T:
        if self._closed:
            raise InternalError(text="the store of records is closed")
        job = self._pool.submit(_transaction, engine, unit)
        return await asyncio.wrap_future(job)


def _engine(url: str, connections: int, stall_seconds: float) -> Engine:
    try:
        parsed = make_url(url)
    except SQLAlchemyError as error:
        raise InternalError(text="the database's URL cannot be understood") from error
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_use_lifo=True,
        connect_args={
            "connect_timeout": 10,
            "application_name": "era",
            "client_encoding": "utf8",
            "options": _options(stall_seconds),
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            # Keepalives say nothing while a request has not been acknowledged.
            "tcp_user_timeout": 60_000,
            # What runs often is planned once for each connection.
            "prepare_threshold": 2,
        },
    )


def _options(stall_seconds: float) -> str:
    settings = {
        "idle_in_transaction_session_timeout": f"{int(stall_seconds * 1000)}ms",
        "lock_timeout": "30s",
        "timezone": "UTC",
    }
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _call(unit: Callable[..., R], args: Any, kwargs: Any, connection: Connection) -> R:
    return unit(connection, *args, **kwargs)


def _prepare(connection: Connection) -> None:
    """Bring the schema up to date; one node at a time."""
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise InternalError(
            text=f"the database has the encoding {encoding}",
            hint="Make one with ENCODING 'UTF8' TEMPLATE template0.",
        )
    if migrate.current(connection) != migrate.SCHEMA:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATING})"))
        migrate.upgrade(connection)


def _probe(connection: Connection) -> None:
    connection.execute(probe_write)


def _transaction(engine: Engine, unit: Callable[[Connection], T]) -> T:
    """Run `unit` in one transaction, again while the database asks for that; on a pool's thread."""
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(engine, unit)
        except _AgainError as again:
            error = again.error
        # The clock's last digits spread those that would meet again.
        time.sleep(min(0.2, 0.002 * 2**attempt) * (time.perf_counter_ns() % 1000) / 1000)
    raise _translated(error) from error


class _AgainError(Exception):
    """The transaction has changed nothing and may be tried again."""

    def __init__(self, error: DBAPIError) -> None:
        self.error: Final = error


def _attempt(engine: Engine, unit: Callable[[Connection], T]) -> T:
    committing = False
    try:
        with engine.connect() as connection, connection.begin():
            result = unit(connection)
            committing = True
        return result
    except DBAPIError as error:
        # A connection that broke before the commit was asked for has committed nothing; after
        # that nobody knows, so it is not done twice.
        if _state(error) in _AGAIN or (error.connection_invalidated and not committing):
            raise _AgainError(error) from None
        raise _translated(error) from error
    except PoolTimeoutError as error:
        raise InternalError(text="the database has no connection free") from error


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _translated(error: DBAPIError) -> EraError:
    """What a failure of the database is to the callers of `Records`."""
    state = _state(error)
    if state in _FULL:
        return UnavailableError("storage_full")
    return InternalError(text=f"the database failed ({state or type(error.orig).__name__})")
