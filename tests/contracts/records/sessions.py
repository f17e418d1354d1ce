"""Sessions: created, listed, changed, deleted."""

from __future__ import annotations

import asyncio

import pytest

from era.errors import ConflictError, InputError, NotFoundError
from era.models import (
    Changes,
    NewSession,
    SessionPatch,
    SessionRecord,
    SetupStatus,
)
from era.relpath import RelPath
from era.storage.base import Records, RunCommit
from tests.contracts.records.kit import (
    FREE,
    NEW,
    PIP,
    commit,
    file,
    make,
    paths,
    progress,
    refuses,
    upload,
)


async def test_check_of_a_good_store_returns(records: Records) -> None:
    await records.check()


async def test_a_session_is_as_it_was_created(records: Records) -> None:
    new = NewSession(
        id=None,
        language="go",
        persistent=False,
        metadata='{"m":1}',
        data='{"d":12345678901234567890.10}',
        allow_internet=True,
        allow_public=True,
        default_timeout_seconds=2.5,
        cpu_count=2,
        memory_mib=512,
    )
    created = await records.create("S_1-x", new, 1234, None)
    assert created == await records.get("S_1-x")
    assert created == SessionRecord(
        uid=created.uid,
        id="S_1-x",
        language="go",
        persistent=False,
        created_at_ms=1234,
        updated_at_ms=1234,
        last_run_at_ms=None,
        metadata='{"m":1}',
        data='{"d":12345678901234567890.10}',
        data_revision=0,
        allow_internet=True,
        allow_public=True,
        default_timeout_seconds=2.5,
        cpu_count=2,
        memory_mib=512,
        has_code=False,
        file_count=0,
        total_size_bytes=0,
        files_revision=0,
    )


async def test_ids_differ_by_case(records: Records) -> None:
    upper, lower = await make(records, "A"), await make(records, "a")
    assert upper.uid != lower.uid
    assert (await records.get("A")).uid == upper.uid


async def test_a_taken_id_is_refused_and_nothing_changes(records: Records) -> None:
    first = await make(records)
    with refuses("session_exists", ConflictError) as caught:
        await records.create("s", NewSession(id=None, language="go"), 5, None)
    assert caught.value.extra["id"] == "s"
    assert await records.get("s") == first
    assert (await records.list()).total == 1


async def test_of_ten_simultaneous_creates_one_wins(records: Records) -> None:
    results = await asyncio.gather(*(make(records) for _ in range(10)), return_exceptions=True)
    won = [result for result in results if isinstance(result, SessionRecord)]
    lost = [result for result in results if isinstance(result, ConflictError)]
    assert (len(won), len(lost)) == (1, 9)
    assert {error.code for error in lost} == {"session_exists"}
    assert (await records.list()).items == (won[0],)


async def test_an_unknown_session_is_not_found_by_any_method(records: Records) -> None:
    calls = [
        records.get("no"),
        records.patch("no", SessionPatch(allow_public=True), 1),
        records.delete("no"),
        records.duplicate("no", "copy", 1, data=None, include_files=None),
        records.files("no"),
        records.file("no", RelPath("a")),
        records.put_file("no", file("a"), FREE, 1),
        records.delete_file("no", RelPath("a"), recursive=False, now_ms=1),
        records.manifest_diff(99, 0),
        records.commit_run(RunCommit(uid=99, snapshot_revision=0, finished_at_ms=1), FREE),
        records.put_code("no", "x", None, 1),
        records.code("no"),
        records.delete_code("no", 1),
        records.setup_progress(99, progress("", 1, 1, 1)),
        records.finish_setup(99, SetupStatus.FAILED, "{}", None),
        records.restart_setup("no", "{}", "{}", 1),
    ]
    for call in calls:
        with refuses("session_not_found", NotFoundError):
            await call
    assert (await records.list()).total == 0


async def test_the_list_is_oldest_first_whatever_the_clock_said(records: Records) -> None:
    for name, now in (("b", 30), ("a", 20), ("c", 10)):
        await records.create(name, NEW, now, None)
    page = await records.list()
    assert [session.id for session in page.items] == ["b", "a", "c"]
    assert (page.total, page.next_cursor) == (3, None)


async def test_the_list_by_prefix_takes_it_literally(records: Records) -> None:
    for name in ("ab", "a_c", "aXc", "b", "A"):
        await make(records, name)

    async def found(prefix: str) -> list[str]:
        page = await records.list(prefix=prefix)
        assert page.total == len(page.items)
        return [session.id for session in page.items]

    assert await found("a") == ["ab", "a_c", "aXc"]
    assert await found("a_") == ["a_c"]
    assert await found("b") == ["b"]
    for nothing in ("%", "a%", "a\0", "\ud800", "z" * 500, "\U0010ffff", "a'"):
        assert await found(nothing) == []


async def test_pages_of_sessions_join_to_the_whole(records: Records) -> None:
    names = [f"p{number}" for number in range(7)]
    for name in names:
        await make(records, name)
    await make(records, "other")
    seen: list[str] = []
    cursor = None
    for size in (3, 3, 1):
        page = await records.list(prefix="p", limit=3, cursor=cursor)
        assert page.total == 7
        assert len(page.items) == size
        seen += [session.id for session in page.items]
        cursor = page.next_cursor
    assert (seen, cursor) == (names, None)
    assert (await records.list(limit=8)).next_cursor is None


async def test_a_walk_sees_what_stays_once_while_others_come_and_go(records: Records) -> None:
    for number in range(12):
        await make(records, f"s{number}")
    seen: list[str] = []
    cursor = None
    for step in range(100):
        page = await records.list(limit=2, cursor=cursor)
        seen += [session.id for session in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        if step < 3:
            # The one the cursor stands on, one seen, one to come; and a new one.
            await records.delete(f"s{3 * step + 1}")
            await make(records, f"new{step}")
    stayed = {f"s{number}" for number in range(12)} - {"s1", "s4", "s7"}
    assert stayed <= set(seen)
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "1", "\ud800", "é", "====", "a" * 5000])
async def test_a_foreign_cursor_is_refused(records: Records, cursor: str) -> None:
    await make(records)
    with refuses("invalid_field", InputError):
        await records.list(cursor=cursor)
    with refuses("invalid_field", InputError):
        await records.files("s", cursor=cursor)


async def test_a_cursor_of_the_other_list_is_refused(records: Records) -> None:
    for name in ("s", "t"):
        await make(records, name)
    await upload(records, file("1"), file("2"))
    sessions = (await records.list(limit=1)).next_cursor
    files = (await records.files("s", limit=1)).next_cursor
    with refuses("invalid_field", InputError):
        await records.list(cursor=files)
    with refuses("invalid_field", InputError):
        await records.files("s", cursor=sessions)


async def test_patch_changes_what_it_names_and_no_more(records: Records) -> None:
    old = await make(records)
    new = await records.patch(
        "s", SessionPatch(default_timeout_seconds=9.5, allow_public=True), 2000
    )
    assert new.default_timeout_seconds == 9.5
    assert new.allow_public
    assert not new.allow_internet
    assert (new.data_revision, new.updated_at_ms) == (0, 2000)
    assert new == await records.get("s")
    new = await records.patch("s", SessionPatch(default_timeout_seconds=None), 3000)
    assert new.default_timeout_seconds is None
    assert (new.allow_public, new.created_at_ms) == (True, old.created_at_ms)
    new = await records.patch(
        "s", SessionPatch(metadata='{"a":1}', data="[1]", allow_internet=True), 4000
    )
    assert (new.metadata, new.data, new.data_revision) == ('{"a":1}', "[1]", 1)
    assert new.allow_internet


async def test_the_data_revision_counts_changes_of_data(records: Records) -> None:
    await make(records)
    assert (await records.patch("s", SessionPatch(data="{}"), 1)).data_revision == 0
    assert (await records.patch("s", SessionPatch(data="[]"), 1)).data_revision == 1
    assert (await commit(records, data="[]")).session.data_revision == 1
    assert (await commit(records, data="[2]")).session.data_revision == 2


async def test_delete_takes_everything_and_frees_the_id(records: Records) -> None:
    await records.create("s", NewSession(id=None, language="go", setup=PIP), 1, "{}")
    await upload(records, file("a", "1"))
    await records.put_code("s", "x", "d", 1)
    last = await records.get("s")
    assert await records.delete("s") == last
    with refuses("session_not_found"):
        await records.get("s")
    assert (await records.list()).items == ()
    again = await make(records)
    assert again.uid != last.uid
    assert (again.file_count, again.files_revision, again.has_code) == (0, 0, False)
    assert again.setup is None
    assert await paths(records) == []
    with refuses("code_not_found"):
        await records.code("s")
    assert await records.claim_setup() is None


async def test_the_old_uid_of_a_created_again_id_is_gone(records: Records) -> None:
    old = await make(records)
    await records.delete("s")
    new = await make(records)
    late = RunCommit(
        uid=old.uid,
        snapshot_revision=0,
        finished_at_ms=9,
        data="[9]",
        changes=Changes(written=(file("late"),)),
    )
    with refuses("session_not_found", NotFoundError):
        await records.commit_run(late, FREE)
    with refuses("session_not_found", NotFoundError):
        await records.manifest_diff(old.uid, 0)
    assert await records.get("s") == new
    assert await paths(records) == []


async def test_a_uid_is_never_given_twice(records: Records) -> None:
    seen = set()
    for _ in range(3):
        seen.add((await make(records)).uid)
        await records.delete("s")
    assert len(seen) == 3


async def test_delete_all_takes_the_prefix_and_returns_the_last_records(records: Records) -> None:
    for name in ("a1", "b1", "a2"):
        await make(records, name)
        await upload(records, file("f"), name=name)
    expected = (await records.list(prefix="a")).items
    assert await records.delete_all("a") == expected
    assert [session.id for session in (await records.list()).items] == ["b1"]
    assert await paths(records, "b1") == ["f"]
    assert len(await records.delete_all()) == 1
    assert (await records.list()).total == 0
    assert await records.delete_all() == ()
