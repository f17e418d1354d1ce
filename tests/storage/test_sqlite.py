"""What only the SQLite keeper promises: durability, errors of its file, cost, grouping."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    CompoundSelect,
    Connection,
    Delete,
    Dialect,
    Insert,
    Select,
    Update,
)
from sqlalchemy.dialects import postgresql, sqlite

from era.errors import EraError, InputError, InternalError, TooLargeError, UnavailableError
from era.models import Changes, NewSession, SessionPatch, SetupSpec, SetupStatus
from era.storage.base import Quota, RunCommit
from era.storage.records import entry_statements, node_statements, statements
from era.storage.records.sqlite import SqliteRecords
from era.storage.records.units.commits import commit_run
from tests.contracts.records import FREE, commit, everything, file, make, paths, upload
from tests.counting import calls

pytestmark = pytest.mark.anyio


@pytest.fixture
async def keeper(database: str) -> AsyncIterator[SqliteRecords]:
    keeper = SqliteRecords(database)
    yield keeper
    await keeper.close()


@pytest.fixture
def other(database: str) -> Iterator[sqlite3.Connection]:
    """Another program that has the database open."""
    connection = sqlite3.connect(database, isolation_level=None)
    yield connection
    connection.close()


# --- durability ---------------------------------------------------------------------------------


async def test_a_new_keeper_on_the_file_sees_everything(database: str) -> None:
    first = SqliteRecords(database)
    await make(first)
    await upload(first, file("a", "1"), file("a", "22"))
    await commit(first, file("d/b", "1"), data="[1]")
    await first.put_code("s", "code", "words", 1)
    seen = await first.list(), await first.files("s"), await first.code("s")
    uid = seen[0].items[0].uid
    change = await first.manifest_diff(uid, 1)
    await first.close()
    second = SqliteRecords(database)
    assert (await second.list(), await second.files("s"), await second.code("s")) == seen
    assert await second.manifest_diff(uid, 1) == change
    await second.delete("s")
    assert (await make(second)).uid > uid
    await second.close()


COMMITTER = textwrap.dedent("""
    import asyncio, sys
    from era.storage.records.sqlite import SqliteRecords
    from tests.contracts.records import commit, file

    async def main():
        records = SqliteRecords(sys.argv[1])
        for n in range(100000):
            done = await commit(records, file(f"f{n}", str(n)), file("last", str(n)), data=f"[{n}]")
            assert done.modified
            print(n, flush=True)

    asyncio.run(main())
""")


@pytest.mark.parametrize("acknowledged", [1, 7, 40])
async def test_a_killed_process_loses_no_acknowledged_commit(
    database: str, acknowledged: int
) -> None:
    keeper = SqliteRecords(database)
    await make(keeper)
    await keeper.close()
    with subprocess.Popen(
        [sys.executable, "-c", COMMITTER, database], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    said = int(lines[-1])
    keeper = SqliteRecords(database)
    session = await keeper.get("s")
    kept = int(session.data[1:-1])
    assert kept >= said
    # Whole commits only: data, files, counts and revision agree.
    assert session.files_revision == kept + 1
    assert session.file_count == kept + 2
    assert await paths(keeper) == sorted([*(f"f{n}" for n in range(kept + 1)), "last"])
    assert (await everything(keeper))["last"].size == len(str(kept))
    await keeper.close()


async def test_commits_are_flushed_to_the_log(keeper: SqliteRecords) -> None:
    def pragmas(connection: Connection) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    full = 2
    assert await keeper._read(pragmas) == ["wal", full, 1]


async def test_the_files_are_the_services_alone(keeper: SqliteRecords, database: str) -> None:
    await make(keeper)
    found = [path for path in Path(database).parent.iterdir() if path.name.startswith("era.db")]
    assert len(found) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in found if path.name != "era.db")


async def test_a_new_database_is_private(tmp_path: Path) -> None:
    keeper = SqliteRecords(str(tmp_path / "new" / "era.db"))
    await make(keeper)
    await keeper.close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "era.db").stat().st_mode & 0o777 == 0o600


async def test_a_finished_setup_leaves_no_secret_behind(
    keeper: SqliteRecords, other: sqlite3.Connection
) -> None:
    setup = SetupSpec(pip=("six",))
    for name in ("done", "lost"):
        await keeper.create(name, NewSession(id=None, language="go", setup=setup), 1, "sealed")
    job = await keeper.claim_setup()
    assert job is not None
    await keeper.claim_setup()
    await keeper.finish_setup(job.uid, SetupStatus.FAILED, "{}", None)
    assert other.execute("SELECT count(*) FROM setups WHERE spec = 'sealed'").fetchone() == (1,)
    await keeper.reset_running_setups(1, "{}")
    assert other.execute("SELECT count(*) FROM setups WHERE spec IS NOT NULL").fetchone() == (0,)


# --- opening and closing ------------------------------------------------------------------------


def assert_tells_no_path(error: EraError, path: str) -> None:
    assert os.path.dirname(path) not in str(error.body())


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "era.db"
    path.write_bytes(b"not a database, but long enough to be looked at " * 100)
    with pytest.raises(InternalError) as caught:
        SqliteRecords(str(path))
    assert_tells_no_path(caught.value, str(path))
    assert path.read_bytes().startswith(b"not a database")


async def test_a_place_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    path = str(tmp_path / "file" / "era.db")
    with pytest.raises(InternalError) as caught:
        SqliteRecords(path)
    assert_tells_no_path(caught.value, path)


async def test_a_closed_store_answers_nothing_more(database: str) -> None:
    keeper = SqliteRecords(database)
    waiting = asyncio.gather(*(make(keeper, f"s{n}") for n in range(20)))
    await asyncio.sleep(0)
    await keeper.close()
    assert len(await waiting) == 20
    await keeper.close()
    with pytest.raises(InternalError):
        await keeper.get("s1")
    with pytest.raises(InternalError):
        await keeper.check()
    # Closed cleanly: the log was folded into the database.
    assert not os.path.exists(database + "-wal")


async def test_check_finds_a_file_that_was_taken_away(database: str) -> None:
    keeper = SqliteRecords(database)
    await keeper.check()
    os.rename(database, database + ".away")
    with pytest.raises(InternalError):
        await keeper.check()
    Path(database).write_bytes(b"")
    with pytest.raises(InternalError):
        await keeper.check()
    os.unlink(database)
    os.rename(database + ".away", database)
    await keeper.check()
    await keeper.close()


async def test_check_finds_a_database_that_takes_no_writes(keeper: SqliteRecords) -> None:
    def forbid(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    await keeper._read(forbid)
    with pytest.raises(InternalError):
        await keeper.check()
    with pytest.raises(InternalError) as caught:
        await make(keeper)
    assert "READONLY" in caught.value.text


# --- other programs, grouping, cancelling -------------------------------------------------------


async def test_writes_wait_for_another_program(
    keeper: SqliteRecords, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.gather(*(make(keeper, f"s{n}") for n in range(20)))
    await asyncio.sleep(0.05)
    assert other.execute("SELECT count(*) FROM sessions").fetchone() == (0,)
    other.execute("COMMIT")
    assert len(await waiting) == 20


async def test_a_lock_that_lasts_too_long_is_an_error(
    database: str, other: sqlite3.Connection
) -> None:
    keeper = SqliteRecords(database, busy_timeout_seconds=0.05)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InternalError) as caught:
        await make(keeper)
    assert "BUSY" in caught.value.text
    assert (await keeper.list()).total == 0
    other.execute("COMMIT")
    await make(keeper)
    await keeper.close()


async def test_waiting_writes_share_a_transaction(
    keeper: SqliteRecords, other: sqlite3.Connection
) -> None:
    def log_frames() -> int:
        # The whole log is in place as long as nobody checkpoints: every commit appends to it.
        return os.path.getsize(keeper._path + "-wal")

    await make(keeper)
    patches = [SessionPatch(metadata=f'{{"n":{n}}}') for n in range(50)]
    start = log_frames()
    for patch in patches:
        await keeper.patch("s", patch, 1)
    one_by_one = log_frames() - start
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.gather(*(keeper.patch("s", patch, 1) for patch in patches))
    await asyncio.sleep(0.05)
    other.execute("COMMIT")
    start = log_frames()
    await waiting
    assert log_frames() - start < one_by_one / 5


async def test_a_refusal_and_a_failure_in_a_group_are_their_own(
    keeper: SqliteRecords, other: sqlite3.Connection
) -> None:
    def broken(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE sessions SET language = 'broken'")
        raise ValueError("a bug")

    await make(keeper)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.gather(
        upload(keeper, file("a", "1")),
        keeper.put_file("s", file("b", "22"), Quota(total_bytes=1, count=0), 1),
        keeper._write(broken),
        make(keeper),
        upload(keeper, file("c", "1")),
        return_exceptions=True,
    )
    await asyncio.sleep(0.05)
    other.execute("COMMIT")
    _, over, bug, taken, _ = await waiting
    assert isinstance(over, TooLargeError)
    assert isinstance(bug, ValueError)
    assert isinstance(taken, EraError)
    assert taken.code == "session_exists"
    assert await paths(keeper) == ["a", "c"]
    session = await keeper.get("s")
    assert (session.language, session.files_revision, session.file_count) == ("python", 2, 2)


async def test_what_a_refused_unit_had_done_is_taken_back_in_a_group(
    keeper: SqliteRecords, other: sqlite3.Connection
) -> None:
    def refusing(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE sessions SET language = 'refused'")
        raise InputError("invalid_field")

    await make(keeper)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.gather(
        upload(keeper, file("a")),
        upload(keeper, file("b")),
        keeper._write(refusing),
        upload(keeper, file("c")),
        return_exceptions=True,
    )
    await asyncio.sleep(0.05)
    other.execute("COMMIT")
    outcomes = await waiting
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        type(None),
        InputError,
        type(None),
    ]
    assert (await keeper.get("s")).language == "python"
    assert await paths(keeper) == ["a", "b", "c"]


async def test_a_write_cancelled_before_its_turn_does_nothing(
    keeper: SqliteRecords, other: sqlite3.Connection
) -> None:
    await make(keeper)
    other.execute("BEGIN IMMEDIATE")
    first = asyncio.ensure_future(upload(keeper, file("first")))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(upload(keeper, file("second")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    other.execute("COMMIT")
    await first
    assert await paths(keeper) == ["first"]


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(b"x" * 4096):
            pass


async def test_a_full_disk_is_said_and_nothing_changes(
    small_disk: Path, empty_database: Path
) -> None:
    path = small_disk / "era.db"
    path.write_bytes(empty_database.read_bytes())
    keeper = SqliteRecords(str(path))
    await make(keeper)
    await upload(keeper, file("a", "1"))
    before = await keeper.get("s")
    ballast = small_disk / "ballast"
    fill(ballast)
    big = SessionPatch(metadata='"' + "x" * 60000 + '"')
    with pytest.raises(UnavailableError) as caught:
        await keeper.patch("s", big, 9)
    assert caught.value.code == "storage_full"
    results = await asyncio.gather(
        *(keeper.patch("s", big, 9) for _ in range(5)), return_exceptions=True
    )
    assert {getattr(result, "code", None) for result in results} == {"storage_full"}
    assert await keeper.get("s") == before
    ballast.unlink()
    assert (await keeper.patch("s", big, 9)).metadata == big.metadata
    assert await paths(keeper) == ["a"]
    await keeper.close()


# --- what it costs ------------------------------------------------------------------------------


async def steps_of(keeper: SqliteRecords, work: Any) -> int:
    """Steps of SQLite's virtual machine that `work` takes: a cost without a clock."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    def listen(connection: Connection, handler: Any) -> None:
        raw: Any = connection.connection.dbapi_connection
        raw.set_progress_handler(handler, 1)

    await keeper._read(listen, tick)
    await work
    await keeper._read(listen, None)
    return count


async def test_changes_cost_what_they_change_whatever_the_session_holds(
    keeper: SqliteRecords,
) -> None:
    costs: dict[str, list[int]] = {}
    for name, size in (("small", 10), ("large", 3000)):
        uid = (await make(keeper, name)).uid
        await commit(keeper, *(file(f"d{n % 10}/f{n}", str(n)) for n in range(size)), name=name)
        new = [file(f"d{n}/new", str(n)) for n in range(3)]
        acts = {
            "commit": commit(keeper, *new, file("d1/f1", "x"), removed=["d2/f2"], name=name),
            "upload": keeper.put_file(name, file("d1/up", "1"), FREE, 1),
            "replace": keeper.put_file(name, file("d1/up", "2"), FREE, 1),
            "delete": keeper.delete_file(name, file("d1/up").path, recursive=False, now_ms=1),
            "get": keeper.get(name),
            "file": keeper.file(name, file("d1/f1").path),
            "page": keeper.files(name, limit=5),
            "difference": keeper.manifest_diff(uid, 3),
        }
        for act, work in acts.items():
            costs.setdefault(act, []).append(await steps_of(keeper, work))
    for act, (small, large) in costs.items():
        assert 0 < large <= small * 1.2 + 50, (act, small, large)


async def test_a_page_of_sessions_costs_the_same_among_many(keeper: SqliteRecords) -> None:
    costs = []
    for number in range(1500):
        await make(keeper, f"s{number}")
        if number in (50, 1499):
            costs.append(await steps_of(keeper, keeper.list(limit=20)))
    few, many = costs
    assert 0 < many <= few * 1.2 + 50
    await keeper.delete_all("s1")
    await keeper.delete("s2")
    page = await keeper.list()
    assert page.total == len(page.items)


async def test_many_files_deep_down_are_committed_in_proportion(keeper: SqliteRecords) -> None:
    costs = []
    for size in (100, 200):
        uid = (await make(keeper, f"s{size}")).uid
        deep = "/".join(["d"] * size)
        written = tuple(file(f"{deep}/{number}", "x") for number in range(size))
        new = RunCommit(
            uid=uid,
            snapshot_revision=0,
            finished_at_ms=1,
            data=None,
            changes=Changes(written=written),
        )

        def counted(connection: Connection, new: RunCommit) -> int:
            return calls(lambda: commit_run(connection, new, FREE))

        await keeper.commit_run(new, FREE)
        costs.append(await keeper._write(counted, new))
    small, large = costs
    assert 0 < large < 2.3 * small, costs


def all_statements() -> dict[str, Any]:
    kinds = (Select, CompoundSelect, Update, Delete, Insert)
    return {
        name: value
        for name, value in [
            *vars(statements).items(),
            *vars(node_statements).items(),
            *vars(entry_statements).items(),
        ]
        if isinstance(value, kinds) and not name.startswith("_")
    } | {
        f"{name} {kind}": getattr(twin, kind)
        for name, twin in vars(entry_statements).items()
        if isinstance(twin, entry_statements.Twin)
        for kind in ("plain", "copy")
    }


WHOLE = {"session_total", "sessions_with_history", "layer_keys", "layer_keys_used"}
"""Statements that are about all rows, and walk an index for it."""
NARROW = (
    *("VIRTUAL TABLE", "CONSTANT ROW"),
    *("orphans", "anon_"),
    *("ix_setups_pending", "ix_setups_running", "ix_objects_dead", "ix_leases_held"),
)
"""What may be walked: it holds little, however many rows there are."""
OF_A_SESSION = {"copy_entries", "take_entries", "forget_gone", "own_entries", "written_since copy"}
"""Statements that are about all entries of a session."""
AT_START = {"holds_files"}
"""Statements run once in the life of a process."""


def test_no_statement_walks_a_table(database: str) -> None:
    connection = sqlite3.connect(database)
    for name, statement in all_statements().items():
        if isinstance(statement, Insert) and statement.select is None:
            continue
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        values = {key: 1 if key == "limit" else "[]" for key in compiled.params}
        plan = connection.execute(f"EXPLAIN QUERY PLAN {compiled}", values).fetchall()
        scans = [row[3] for row in plan if row[3].startswith("SCAN")]
        bad = [scan for scan in scans if not any(word in scan for word in NARROW)]
        assert not bad or name in WHOLE | AT_START, (name, plan)
        if name in OF_A_SESSION:
            continue
        by_path = [row[3] for row in plan if "entries" in row[3] and "path" in str(compiled)]
        assert all("(uid=?)" not in step for step in by_path), (name, plan)
    connection.close()


POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", sorted(all_statements()))
def test_a_statement_is_good_for_postgresql_too(name: str) -> None:
    text = str(all_statements()[name].compile(dialect=POSTGRESQL))
    assert "json_each" not in text
    assert text
