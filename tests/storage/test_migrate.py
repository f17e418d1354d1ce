"""The schema: made by steps, equal to the tables, never downgraded."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from era.errors import InternalError
from era.storage.base import Records
from era.storage.records import migrate
from era.storage.records.postgres import PostgresRecords
from era.storage.records.sqlite import SqliteRecords
from era.storage.records.tables import metadata
from tests.servers.postgres import Postgres


def test_the_steps_make_exactly_the_tables(database: str) -> None:
    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        plain = create_engine("sqlite://")
        with plain.connect() as other:
            metadata.create_all(other)
            for table in metadata.tables:
                assert shape(connection, table) == shape(other, table)
        plain.dispose()
    engine.dispose()


def shape(connection: Connection, table: str) -> object:
    """The table as SQLite keeps it: columns, conditions of indexes, keys, in no order."""
    found = inspect(connection)
    indexes = text("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = :table")
    return (
        sorted(str(sql) for sql in connection.execute(indexes, {"table": table}).scalars()),
        sorted(map(str, found.get_foreign_keys(table))),
        sorted(map(str, found.get_check_constraints(table))),
        sorted(map(str, found.get_unique_constraints(table))),
        [str(column) for column in found.get_columns(table)],
    )


def test_the_known_schema_is_the_newest_step() -> None:
    config = Config()
    config.set_main_option("script_location", "era.storage.records:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.SCHEMA]


def test_a_newer_schema_is_refused_and_left_alone(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = Path(database).read_bytes()
    with pytest.raises(InternalError, match="newer") as caught:
        SqliteRecords(database)
    assert not caplog.records
    assert "9999" in caught.value.text
    assert str(Path(database).parent) not in caught.value.text
    assert Path(database).read_bytes() == before


@pytest.mark.parametrize("keeper", ["sqlite", "postgres"])
def test_a_database_of_the_first_schema_is_brought_up_with_what_it_holds(
    tmp_path: Path, keeper: str, request: pytest.FixtureRequest
) -> None:
    if keeper == "sqlite":
        path = str(tmp_path / "era.db")
        _old(f"sqlite:///{path}")
        anyio.run(_look, lambda: SqliteRecords(path))
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = server.new_database()
    url = server.url(name)
    _old(url.replace("postgresql://", "postgresql+psycopg://"))
    anyio.run(_look, lambda: PostgresRecords(url))
    server.drop(name)


def _old(url: str) -> None:
    """A database as the first version left it."""
    engine = create_engine(url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "era.storage.records:migrations")
        command.upgrade(config, "0001")
        for number in range(40):
            connection.execute(
                text(
                    "INSERT INTO sessions (id, language, persistent, created_at_ms, updated_at_ms,"
                    " data_revision, allow_internet, allow_public, file_count, dir_count,"
                    " total_size_bytes, files_revision, history_from, metadata, data)"
                    " VALUES (:id, 'python', :yes, 1, 1, 0, :no, :no, 2, 0, 2, 2, 0, '{}', '[1]')"
                ),
                {"id": f"s{number}", "yes": True, "no": False},
            )
        connection.execute(
            text(
                "INSERT INTO setups (uid, request, status, attempts, queued_at_ms)"
                " VALUES (1, '{}', 'running', 1, 1)"
            )
        )
        for path, since, until in (("a", 1, None), ("b", 1, 2), ("b", 2, None)):
            connection.execute(
                text(
                    "INSERT INTO entries (uid, path, since, until, kind, blob, size, mode, mtime_ns,"
                    " uploaded_at_ms)"
                    " VALUES (1, :path, :since, :until, 'file', :blob, 1, 420, 5, 6)"
                ),
                {"path": path, "since": since, "until": until, "blob": f"{since}" * 64},
            )
    engine.dispose()


async def _look(opened: Callable[[], Records]) -> None:
    keeper = opened()
    page = await keeper.list(limit=5)
    assert (page.total, page.items[0].data) == (40, "[1]")
    # What the old version had begun is taken up.
    assert await keeper.reset_running_setups(3, "{}") == 1
    files = (await keeper.files("s0")).items
    assert [(file.path, file.blob) for file in files] == [("a", "1" * 64), ("b", "2" * 64)]
    await keeper.duplicate("s0", "copy", 9, data=None, include_files=True)
    await keeper.delete("s0")
    await keeper.prune_history(lambda _: 9)
    assert (await keeper.files("copy")).items == files
    await keeper.delete("s7")
    assert (await keeper.list(limit=5)).total == 39
    await keeper.close()


def test_two_programs_may_make_one_database_at_once(tmp_path: Path) -> None:
    program = (
        "import sys, asyncio\n"
        "from era.storage.records.sqlite import SqliteRecords\n"
        "async def main():\n"
        "    await SqliteRecords(sys.argv[1]).close()\n"
        "asyncio.run(main())\n"
    )
    path = str(tmp_path / "era.db")
    started = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]

    async def reopen() -> None:
        keeper = SqliteRecords(path)
        await keeper.check()
        await keeper.close()

    anyio.run(reopen)


def test_opening_a_current_database_loads_nothing_of_alembic(database: str) -> None:
    program = (
        "import sys, asyncio\n"
        "from era.storage.records.sqlite import SqliteRecords\n"
        "async def main():\n"
        "    await SqliteRecords(sys.argv[1]).close()\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, database], check=True)
