"""What only the PostgreSQL keeper promises: several nodes on one database, and its failures."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import anyio
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from era.errors import EraError, InternalError, NotFoundError, UnavailableError
from era.models import FileEntry, NewSession, SessionPatch, SessionRecord
from era.relpath import RelPath
from era.storage.records import migrate
from era.storage.records.postgres import PostgresRecords
from era.storage.records.tables import metadata
from tests.contracts.records import commit, file, make, paths, upload
from tests.servers.postgres import Postgres

pytestmark = pytest.mark.anyio


@pytest.fixture
async def nodes(postgres_url: str) -> AsyncIterator[tuple[PostgresRecords, PostgresRecords]]:
    """Two nodes on one database."""
    both = PostgresRecords(postgres_url), PostgresRecords(postgres_url)
    yield both
    for node in both:
        await node.close()


@pytest.fixture
def other(postgres_url: str) -> Iterator[psycopg.Connection]:
    """Somebody else in the database."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


Nodes = tuple[PostgresRecords, PostgresRecords]


# --- several nodes ------------------------------------------------------------------------------


async def test_what_one_node_commits_the_other_sees(nodes: Nodes) -> None:
    one, two = nodes
    session = await make(one)
    await upload(two, file("a", "1"))
    assert await paths(one) == ["a"]
    await commit(one, file("b", "22"), removed=["a"], data="[1]")
    seen = await two.get("s")
    assert (seen.uid, seen.data, seen.file_count) == (session.uid, "[1]", 1)
    await two.delete("s")
    with pytest.raises(NotFoundError):
        await one.get("s")


async def test_changes_of_one_session_on_both_nodes_lose_nothing(nodes: Nodes) -> None:
    await make(nodes[0])
    async with asyncio.TaskGroup() as tasks:
        for number in range(40):
            node = nodes[number % 2]
            tasks.create_task(upload(node, file(f"up{number}", "1")))
            tasks.create_task(commit(node, file(f"run{number}", "22")))
            tasks.create_task(node.patch("s", SessionPatch(metadata=f'{{"n":{number}}}'), 5))
            tasks.create_task(node.put_code("s", "code", None, 6))
    session = await nodes[0].get("s")
    assert session.file_count == 80
    assert session.total_size_bytes == 120
    # Each upload and each commit made one revision.
    assert session.files_revision == 80
    assert session.has_code


async def test_an_id_is_created_once_on_all_nodes(nodes: Nodes) -> None:
    outcomes = await asyncio.gather(
        *(make(nodes[number % 2]) for number in range(16)), return_exceptions=True
    )
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 1
    refused = [outcome for outcome in outcomes if isinstance(outcome, EraError)]
    assert len(refused) == 15
    assert {error.code for error in refused} == {"session_exists"}


async def test_transactions_that_meet_crosswise_are_tried_again(nodes: Nodes) -> None:
    """Deleting locks many rows in an order of its own: the database ends one of two that wait for
    each other, and asks for it again."""
    for number in range(30):
        await make(nodes[0], f"s{number}")

    async def copy(node: PostgresRecords, number: int) -> None:
        with suppress(NotFoundError):
            await node.duplicate(f"s{number % 30}", f"c{number}", 9, data=None, include_files=None)

    async with asyncio.TaskGroup() as tasks:
        for number in range(60):
            tasks.create_task(copy(nodes[number % 2], number))
            if number % 20 == 10:
                tasks.create_task(nodes[number // 20 % 2].delete_all())
    found = {session.id for session in (await nodes[0].list()).items}
    assert found == {session.id for session in (await nodes[1].list()).items}


# --- failures -----------------------------------------------------------------------------------


async def test_a_connection_that_was_cut_is_made_again(
    nodes: Nodes, other: psycopg.Connection
) -> None:
    node = nodes[0]
    await make(node)
    for _ in range(3):
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert (await node.get("s")).id == "s"
        await node.put_code("s", "code", None, 6)
    await node.check()


async def test_a_full_disk_is_said_and_nothing_changes(
    nodes: Nodes, other: psycopg.Connection
) -> None:
    node = nodes[0]
    await make(node)
    await upload(node, file("a", "1"))
    other.execute(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file'; END $$"
    )
    other.execute("CREATE TRIGGER full_disk BEFORE INSERT ON entries EXECUTE FUNCTION full_disk()")
    before = await node.get("s")
    with pytest.raises(UnavailableError) as caught:
        await commit(node, file("b", "22"), data="[1]")
    assert caught.value.code == "storage_full"
    assert await node.get("s") == before
    assert await paths(node) == ["a"]
    other.execute("DROP TRIGGER full_disk ON entries")
    await commit(node, file("b", "22"), data="[1]")
    assert await paths(node) == ["a", "b"]


async def test_a_database_that_takes_no_writes_is_unhealthy_and_can_be_read(
    nodes: Nodes, other: psycopg.Connection, postgres_url: str
) -> None:
    await make(nodes[0])
    await nodes[0].check()
    other.execute("CREATE ROLE reader LOGIN")
    other.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    node = PostgresRecords(postgres_url.replace("era@", "reader@"))
    with pytest.raises(InternalError):
        await node.check()
    with pytest.raises(InternalError):
        await commit(node, data="[1]")
    assert (await node.get("s")).data == "{}"
    await node.close()
    other.execute("DROP OWNED BY reader")
    other.execute("DROP ROLE reader")


async def test_a_node_that_stands_still_in_a_transaction_holds_nobody_up(
    postgres_url: str,
) -> None:
    engine = PostgresRecords(postgres_url, stall_seconds=2.5)

    def shown(connection: Connection) -> str:
        asked = text("SHOW idle_in_transaction_session_timeout")
        return str(connection.execute(asked).scalar_one())

    assert await engine._read(shown) == "2500ms"
    await engine.close()


async def test_a_closed_store_answers_nothing_more(postgres_url: str) -> None:
    node = PostgresRecords(postgres_url)
    await node.close()
    await node.close()
    with pytest.raises(InternalError):
        await node.get("s")


@pytest.mark.parametrize("url", ["postgresql://u:secret@127.0.0.1:1/d", "postgresql://[", "x"])
def test_a_database_that_cannot_be_reached_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InternalError) as caught:
        PostgresRecords(url)
    assert "secret" not in str(caught.value.body())


def test_a_database_of_another_encoding_is_refused(postgres_server: Postgres) -> None:
    postgres_server.run(
        "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        with pytest.raises(InternalError, match="SQL_ASCII"):
            PostgresRecords(postgres_server.url("ascii"))
    finally:
        postgres_server.drop("ascii")


# --- the schema ---------------------------------------------------------------------------------


def test_the_steps_make_exactly_the_tables(postgres_url: str) -> None:
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_newer_schema_is_refused_and_left_alone(
    postgres_url: str, other: psycopg.Connection
) -> None:
    other.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(InternalError, match=r"9999.*newer"):
        PostgresRecords(postgres_url)
    assert other.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


def test_nodes_that_start_at_once_make_one_schema(postgres_server: Postgres) -> None:
    name = postgres_server.new_database()

    def start(_: int) -> None:
        anyio.run(PostgresRecords(postgres_server.url(name)).close)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    with psycopg.connect(postgres_server.url(name)) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        assert found == [(migrate.SCHEMA,)]
    postgres_server.drop(name)


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def on_a_small_disk(postgres_server: Postgres) -> Iterator[tuple[str, Path]]:
    """The URL of a database whose tables are on a disk of their own, and where that is."""
    disk = Path(tempfile.mkdtemp(prefix="era-pg-disk-", dir="/dev/shm"))
    mount("-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk))
    try:
        if postgres_server.user is not None:
            os.chown(disk, postgres_server.user, postgres_server.user)
        name = f"small_{disk.name[-8:]}"
        postgres_server.run(f"CREATE TABLESPACE \"{name}\" LOCATION '{disk}'")
        postgres_server.run(f'CREATE DATABASE "{name}" TEMPLATE template0 TABLESPACE "{name}"')
        yield postgres_server.url(name), disk
        postgres_server.drop(f'"{name}"')
        postgres_server.run(f'DROP TABLESPACE "{name}"')
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
        disk.rmdir()


async def until_full(change: Callable[[int], Awaitable[None]]) -> int:
    """Make changes until there is no room for another; how many were made."""
    for number in range(1000):
        try:
            await change(number)
        except UnavailableError as error:
            if error.code != "storage_full":
                raise
            return number
    raise AssertionError("there was room for everything")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
async def test_a_full_disk_under_the_database_is_told_and_loses_nothing(
    on_a_small_disk: tuple[str, Path],
) -> None:
    url, disk = on_a_small_disk
    records = PostgresRecords(url)
    await make(records)
    await upload(records, file("kept", "1"))

    async def create(number: int) -> None:
        data = json.dumps(os.urandom(60_000).hex())
        new = NewSession(id=None, language="go", data=data, allow_internet=False)
        await records.create(f"full-{number}", new, 1, None)

    async def change(_: int) -> None:
        data = json.dumps(os.urandom(60_000).hex())
        await commit(records, file("kept", data), data=data)
        kept.append((await records.get("s"), await records.file("s", RelPath("kept"))))

    kept: list[tuple[SessionRecord, FileEntry]] = []
    held = await until_full(create)
    kept.append((await records.get("s"), await records.file("s", RelPath("kept"))))
    await until_full(change)
    # What was answered is there, what was refused is not, by no half.
    assert (await records.get("s"), await records.file("s", RelPath("kept"))) == kept[-1]
    assert await paths(records) == ["kept"]
    assert (await records.list()).total == held + 1
    for number in (0, held - 1):
        assert len((await records.get(f"full-{number}")).data) == 120_002
    mount("-o", "remount,size=60m", str(disk))
    await commit(records, file("later", "1"), data="[5]")
    assert (await records.get("s")).data == "[5]"
    assert await paths(records) == ["kept", "later"]
    await records.close()
