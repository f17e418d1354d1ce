"""What every keeper of `era.storage.base.Records` must do.

Each function takes the fixture `records`, an empty keeper.  A test module of a keeper imports them
all.  Nothing here knows how a keeper works.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era.errors import ConflictError, EraError, InputError, NotFoundError, TooLargeError
from era.models import (
    Changes,
    FileEntry,
    FileKind,
    NewSession,
    SessionPatch,
    SessionRecord,
    SetupProgress,
    SetupSpec,
    SetupStatus,
)
from era.relpath import RelPath
from era.storage.base import Committed, LayerRecord, ManifestDiff, Quota, Records, RunCommit

serial = itertools.count()
FREE = Quota(total_bytes=0, count=0)
NEW = NewSession(id=None, language="python", allow_internet=False)
PIP = SetupSpec(pip=("six",), request='{"pip":["six"]}')
FAILED = '{"success":false,"duration_ms":1,"error":"gave up"}'


def blob(content: str) -> str:
    """A made-up hash that differs for different contents."""
    return content.encode().hex().rjust(64, "0")[-64:]


def file(path: str, content: str = "", *, mode: int = 0o644, mtime_ns: int = 1) -> FileEntry:
    return FileEntry(
        path=RelPath(path), blob=blob(content), size=len(content), mode=mode, mtime_ns=mtime_ns
    )


def link(path: str, target: str) -> FileEntry:
    return FileEntry(path=RelPath(path), kind=FileKind.LINK, target=target, mode=0o777)


def folder(path: str, mode: int = 0o755) -> FileEntry:
    return FileEntry(path=RelPath(path), kind=FileKind.DIR, mode=mode)


def progress(
    step: str, index: int, total: int, started_at_ms: int, line: str = ""
) -> SetupProgress:
    return SetupProgress(
        step=step,
        step_index=index,
        steps_total=total,
        started_at_ms=started_at_ms,
        last_line=line,
    )


def layer(key: str, blob: str, size: int, now: int, result: str = "{}") -> LayerRecord:
    return LayerRecord(key=key, blob=blob, size=size, created_at_ms=now, result=result)


async def make(records: Records, name: str = "s", new: NewSession = NEW) -> SessionRecord:
    return await records.create(name, new, 1000, None)


async def upload(records: Records, *entries: FileEntry, name: str = "s") -> None:
    for entry in entries:
        await records.put_file(name, entry, FREE, 2000)


async def commit(
    records: Records,
    *written: FileEntry,
    removed: Iterable[str] = (),
    snapshot: int | None = None,
    data: str | None = None,
    quota: Quota = FREE,
    name: str = "s",
    now: int = 3000,
) -> Committed:
    """Commit a run that began now, or at the revision `snapshot`."""
    session = await records.get(name)
    return await records.commit_run(
        RunCommit(
            uid=session.uid,
            snapshot_revision=session.files_revision if snapshot is None else snapshot,
            finished_at_ms=now,
            data=data,
            changes=Changes(written=written, removed=tuple(map(RelPath, removed))),
        ),
        quota,
    )


async def paths(records: Records, name: str = "s", prefix: str = "") -> list[str]:
    return [str(entry.path) for entry in (await records.files(name, prefix=prefix)).items]


async def everything(records: Records, name: str = "s") -> dict[str, FileEntry]:
    """The current tree with its directories, by path."""
    diff = await records.manifest_diff((await records.get(name)).uid, 0)
    assert diff is not None
    assert diff.removed == ()
    return {str(entry.path): entry for entry in diff.written}


async def assert_counts(records: Records, name: str = "s") -> None:
    """The session's counts are what its list shows."""
    session, page = await records.get(name), await records.files(name)
    assert session.file_count == page.total == len(page.items)
    files = [entry.size for entry in page.items if entry.kind is FileKind.FILE]
    assert session.total_size_bytes == page.total_size_bytes == sum(files)


def refuses(code: str, kind: type[EraError] = EraError) -> pytest.RaisesExc[EraError]:
    return pytest.RaisesExc(kind, check=lambda error: error.code == code)


# --- sessions -----------------------------------------------------------------------------------


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


# --- copies -------------------------------------------------------------------------------------


async def full_session(records: Records, *, persistent: bool = True) -> SessionRecord:
    new = NewSession(
        id=None,
        language="node",
        persistent=persistent,
        metadata='{"m":1}',
        data="[1]",
        allow_internet=True,
        allow_public=True,
        default_timeout_seconds=3.0,
        cpu_count=2,
        memory_mib=256,
    )
    await records.create("s", new, 1000, None)
    await upload(records, file("a/b", "12345", mode=0o600), file("c", "1"))
    await commit(records, folder("empty", 0o700), link("l", "c"), file("c", "22"), data="[2]")
    await records.put_code("s", "code", "words", 2000)
    return await records.get("s")


async def test_a_copy_has_everything_but_the_times(records: Records) -> None:
    source = await full_session(records)
    copy = await records.duplicate("s", "t", 9000, data=None, include_files=None)
    assert copy == await records.get("t")
    assert copy.uid > source.uid
    assert (copy.id, copy.source_id, copy.last_run_at_ms) == ("t", "s", None)
    assert (copy.created_at_ms, copy.updated_at_ms) == (9000, 9000)
    for name in (
        "language",
        "persistent",
        "metadata",
        "data",
        "allow_internet",
        "allow_public",
        "default_timeout_seconds",
        "cpu_count",
        "memory_mib",
        "has_code",
        "file_count",
        "total_size_bytes",
    ):
        assert getattr(copy, name) == getattr(source, name), name
    assert await records.code("t") == await records.code("s")
    assert await everything(records, "t") == await everything(records, "s")
    assert await records.files("t") == await records.files("s")
    assert await records.get("s") == source


@pytest.mark.parametrize(
    ("persistent", "asked", "copied"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
    ],
)
async def test_files_are_copied_as_asked_or_as_the_source_keeps_them(
    records: Records, persistent: bool, asked: bool | None, copied: bool
) -> None:
    source = await full_session(records, persistent=persistent)
    copy = await records.duplicate("s", "t", 9, data="[7]", include_files=asked)
    assert copy.data == "[7]"
    assert copy.file_count == (source.file_count if copied else 0)
    assert len(await everything(records, "t")) == (len(await everything(records)) if copied else 0)
    await assert_counts(records, "t")


async def test_copy_and_source_are_apart_in_both_directions(records: Records) -> None:
    await full_session(records)
    await records.duplicate("s", "t", 9, data=None, include_files=True)
    before = await everything(records, "t")
    await commit(records, file("a/b", "changed"), removed=["empty"], data="[3]")
    await records.put_code("s", "other", None, 9)
    await records.patch("s", SessionPatch(metadata="{}"), 9)
    assert await everything(records, "t") == before
    assert (await records.code("t")).code == "code"
    source = await records.get("s"), await everything(records)
    await records.delete_file("t", RelPath("a"), recursive=True, now_ms=9)
    await commit(records, file("new", "x"), name="t", data="[4]")
    await records.delete_code("t", 9)
    assert (await records.get("s"), await everything(records)) == source
    await records.delete("s")
    assert await paths(records, "t") == ["c", "l", "new"]
    await assert_counts(records, "t")


async def test_a_copy_of_a_copy_names_its_own_source(records: Records) -> None:
    await full_session(records)
    await records.duplicate("s", "t", 9, data=None, include_files=True)
    await records.delete("s")
    assert (await records.duplicate("t", "u", 9, data=None, include_files=True)).source_id == "t"
    assert await paths(records, "u") == ["a/b", "c", "l"]


async def test_a_copy_needs_a_free_id(records: Records) -> None:
    await full_session(records)
    await make(records, "t")
    with refuses("session_exists", ConflictError) as caught:
        await records.duplicate("s", "t", 9, data=None, include_files=True)
    assert caught.value.extra["id"] == "t"
    with refuses("session_exists", ConflictError):
        await records.duplicate("s", "s", 9, data=None, include_files=True)
    assert await paths(records, "t") == []
    assert (await records.list()).total == 2


async def test_a_copy_of_an_empty_session_is_at_revision_zero(records: Records) -> None:
    await make(records)
    copy = await records.duplicate("s", "t", 9, data=None, include_files=True)
    assert (copy.files_revision, copy.file_count) == (0, 0)


async def test_a_setup_that_is_unfinished_is_pending_in_the_copy(records: Records) -> None:
    for name in ("waiting", "working"):
        await records.create(name, NewSession(id=None, language="go", setup=PIP), 1, f'"{name}"')
    first = await records.claim_setup()
    assert first is not None
    await records.setup_progress(first.uid, progress("pip", 1, 2, 5, "line"))
    for name in ("waiting", "working"):
        copy = await records.duplicate(name, f"{name}-copy", 9, data=None, include_files=None)
        assert copy.setup is not None
        assert (copy.setup.status, copy.setup.attempts) == (SetupStatus.PENDING, 0)
        assert (copy.setup.progress, copy.setup.request) == (None, PIP.request)
    jobs = [await records.claim_setup() for _ in range(3)]
    assert [(job.session_id, job.spec) for job in jobs if job] == [
        ("working", '"working"'),
        ("waiting-copy", '"waiting"'),
        ("working-copy", '"working"'),
    ]


async def test_a_finished_setup_is_copied_with_result_and_layer(records: Records) -> None:
    await records.create("s", NewSession(id=None, language="go", setup=PIP), 1, "{}")
    job = await records.claim_setup()
    assert job is not None
    for status in (SetupStatus.COMPLETED, SetupStatus.FAILED):
        done = await records.finish_setup(job.uid, status, '{"r":1}', "layer")
        copy = await records.duplicate("s", f"copy-{status}", 9, data=None, include_files=None)
        assert copy.setup == done
    assert await records.claim_setup() is None


# --- files --------------------------------------------------------------------------------------


async def test_an_upload_is_seen_with_all_it_had(records: Records) -> None:
    old = await make(records)
    entry = FileEntry(
        path=RelPath("a/b.txt"),
        blob=blob("1"),
        size=7,
        mode=0o100640,
        mtime_ns=1_700_000_000_123_456_789,
        content_type="text/x; charset=utf-8",
    )
    stored = await records.put_file("s", entry, FREE, 2000)
    assert (stored.mode, stored.uploaded_at_ms) == (0o640, 2000)
    assert (stored.path, stored.blob, stored.size) == (entry.path, entry.blob, 7)
    assert (stored.mtime_ns, stored.content_type) == (entry.mtime_ns, entry.content_type)
    assert await records.file("s", entry.path) == stored
    assert (await records.files("s")).items == (stored,)
    new = await records.get("s")
    assert (new.file_count, new.total_size_bytes) == (1, 7)
    assert new.files_revision == old.files_revision + 1
    assert (new.updated_at_ms, new.last_run_at_ms) == (2000, None)


@pytest.mark.parametrize(
    "name",
    [
        " ",
        "a b",
        "%2e%2e",
        "#?&",
        "back\\slash",
        "quote'\"`",
        "line\nbreak",
        "\x1b[0m",
        "é",
        "e\u0301",
        "😀/😀",
        ".session_data.json.bak",
        "_%*?[]",
        "a" * 255,
        "/".join(["d" * 100] * 10),
    ],
)
async def test_a_name_is_kept_exactly(records: Records, name: str) -> None:
    await make(records)
    await upload(records, file(name, "x"))
    await commit(records, file(f"{name}.2", "y") if len(name) < 250 else file("z"))
    assert name in await paths(records)
    assert (await records.file("s", RelPath(name))).path == name
    await records.delete_file("s", RelPath(name), recursive=False, now_ms=1)
    assert len(await paths(records)) == 1
    await assert_counts(records)


NAMES = ("a", "a-b", "a/b", "a0", "b", "A", "ä", "\ud7ff", "\ue000", "\uffff", "😀", "\U0010ffff")


async def test_files_are_listed_in_byte_order(records: Records) -> None:
    await make(records)
    await upload(records, *(file(name) for name in NAMES if name != "a"))
    expected = sorted((name for name in NAMES if name != "a"), key=lambda name: name.encode())
    assert await paths(records) == expected


async def test_a_prefix_of_files_is_of_the_whole_path(records: Records) -> None:
    await make(records)
    await upload(records, *(file(f"{name}/x", "12") for name in NAMES), file("\ud7ffy", "123"))
    for prefix in ("a", "a/", "a/x", "\ud7ff", "\ue000", "\U0010ffff", "\U0010ffff/", "zz", "%"):
        page = await records.files("s", prefix=prefix)
        found = [entry.path for entry in page.items]
        whole = await paths(records)
        assert found == [path for path in whole if path.startswith(prefix)]
        assert page.total == len(found)
        assert page.total_size_bytes == sum(entry.size for entry in page.items)
    for nothing in ("a\0", "\ud800"):
        assert (await records.files("s", prefix=nothing)).total == 0


async def test_pages_of_files_join_while_others_come_and_go(records: Records) -> None:
    await make(records)
    await upload(records, *(file(f"f{number}", "1") for number in range(9)), file("g"))
    seen: list[str] = []
    cursor = None
    for step in range(100):
        page = await records.files("s", prefix="f", limit=2, cursor=cursor)
        seen += [entry.path for entry in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        if step == 1:
            await records.delete_file("s", RelPath("f3"), recursive=False, now_ms=1)
            await records.delete_file("s", RelPath("f6"), recursive=False, now_ms=1)
            await upload(records, file("f0a"), file("f4", "new"))
    assert seen == [f"f{number}" for number in range(9) if number != 6]


async def test_a_replaced_file_keeps_its_mode(records: Records) -> None:
    await make(records)
    await upload(records, file("a", "1", mode=0o755), file("a", "22", mode=0o644))
    stored = await records.file("s", RelPath("a"))
    assert (stored.mode, stored.size) == (0o755, 2)
    await assert_counts(records)


async def test_an_upload_replaces_a_link_and_never_follows_it(records: Records) -> None:
    await make(records)
    await upload(records, file("target", "1"))
    await commit(records, link("l", "target"))
    await upload(records, file("l", "new", mode=0o600))
    stored = await records.file("s", RelPath("l"))
    assert (stored.kind, stored.size, stored.mode) == (FileKind.FILE, 3, 0o600)
    assert (await records.file("s", RelPath("target"))).size == 1
    await assert_counts(records)


async def test_an_upload_needs_directories_above_it(records: Records) -> None:
    await make(records)
    await commit(records, file("f"), link("l", "d"), folder("d"), link("gone", "nowhere"))
    before = await records.get("s")
    for path in ("f/x", "f/x/y", "l/x", "gone/x"):
        with refuses("invalid_path", InputError):
            await records.put_file("s", file(path), FREE, 1)
    assert await records.get("s") == before
    await upload(records, file("d/x"), file("new/deep/x"))
    assert await paths(records) == ["d/x", "f", "gone", "l", "new/deep/x"]


async def test_an_upload_replaces_no_directory(records: Records) -> None:
    await make(records)
    await upload(records, file("implied/a/b"))
    await commit(records, folder("stored"))
    before = await records.get("s")
    for path in ("implied", "implied/a", "stored"):
        with refuses("invalid_path", InputError):
            await records.put_file("s", file(path), FREE, 1)
    assert await records.get("s") == before
    await upload(records, file("implied-not"), file("imp"))


async def test_an_implied_directory_goes_with_its_last_file(records: Records) -> None:
    await make(records)
    await upload(records, file("a/b"))
    with refuses("file_not_found", NotFoundError):
        await records.file("s", RelPath("a"))
    await records.delete_file("s", RelPath("a/b"), recursive=False, now_ms=1)
    await upload(records, file("a"))
    assert await paths(records) == ["a"]


async def test_the_quota_of_bytes_is_inclusive_and_counts_what_is_replaced(
    records: Records,
) -> None:
    await make(records)
    quota = Quota(total_bytes=10, count=0)
    await records.put_file("s", file("a", "123456"), quota, 1)
    await records.put_file("s", file("b", "1234"), quota, 1)
    before = await records.get("s")
    with refuses("quota_exceeded", TooLargeError) as caught:
        await records.put_file("s", file("c", "1"), quota, 2)
    assert "10" in caught.value.text
    with refuses("quota_exceeded", TooLargeError):
        await records.put_file("s", file("a", "1234567"), quota, 2)
    assert await records.get("s") == before
    assert await paths(records) == ["a", "b"]
    await records.put_file("s", file("a", "12345"), quota, 2)
    await records.put_file("s", file("c", "1"), quota, 2)
    await records.put_file("s", file("empty", ""), quota, 2)
    await assert_counts(records)


async def test_the_quota_of_files_counts_files_and_links(records: Records) -> None:
    await make(records)
    quota = Quota(total_bytes=0, count=2)
    await commit(records, file("a"), link("l", "a"), folder("d"), quota=quota)
    with refuses("quota_exceeded", TooLargeError):
        await records.put_file("s", file("b"), quota, 1)
    await records.put_file("s", file("l"), quota, 1)
    await records.put_file("s", file("a", "new"), quota, 1)
    assert await paths(records) == ["a", "l"]


async def test_whoever_is_over_a_lowered_quota_may_still_shrink(records: Records) -> None:
    await make(records)
    await upload(records, file("a", "1" * 100), file("b", "1" * 100))
    quota = Quota(total_bytes=10, count=1)
    await records.put_file("s", file("a", "1" * 50), quota, 1)
    with refuses("quota_exceeded", TooLargeError):
        await records.put_file("s", file("a", "1" * 51), quota, 1)
    done = await commit(records, removed=["b"], quota=quota)
    assert (done.files_error, done.deleted) == (None, ("b",))


async def test_delete_of_one_file(records: Records) -> None:
    await make(records)
    await upload(records, file("a", "1"), file("b", "22"))
    await records.delete_file("s", RelPath("a"), recursive=False, now_ms=2500)
    session = await records.get("s")
    assert (session.file_count, session.total_size_bytes) == (1, 2)
    assert (session.updated_at_ms, session.files_revision) == (2500, 3)
    for recursive in (False, True):
        with refuses("file_not_found", NotFoundError):
            await records.delete_file("s", RelPath("a"), recursive=recursive, now_ms=1)
    assert await records.get("s") == session


async def test_delete_of_a_link_leaves_what_it_leads_to(records: Records) -> None:
    await make(records)
    await commit(records, file("d/a", "1"), link("l", "d"))
    await records.delete_file("s", RelPath("l"), recursive=True, now_ms=1)
    assert await paths(records) == ["d/a"]


async def test_delete_of_a_directory_takes_what_is_below_and_nothing_beside(
    records: Records,
) -> None:
    await make(records)
    beside = ("d-", "d.", "d0", "d!", "dd", "c", "e", "D/x")
    await upload(records, *(file(name, "1") for name in beside))
    await upload(records, file("d/a", "1"), file("d/s/b", "22"), file("d/s/t/c", "333"))
    await commit(records, folder("d/empty"), link("d/l", "a"))
    for path in ("d", "d/s", "d/empty"):
        with refuses("invalid_path", InputError):
            await records.delete_file("s", RelPath(path), recursive=False, now_ms=1)
    await records.delete_file("s", RelPath("d/s"), recursive=True, now_ms=1)
    await assert_counts(records)
    await records.delete_file("s", RelPath("d"), recursive=True, now_ms=1)
    assert await paths(records) == sorted(beside)
    assert set(await everything(records)) == set(beside)
    await assert_counts(records)


async def test_delete_of_a_stored_empty_directory(records: Records) -> None:
    await make(records)
    await commit(records, folder("d"), folder("d/e"))
    await records.delete_file("s", RelPath("d/e"), recursive=True, now_ms=1)
    assert set(await everything(records)) == {"d"}
    await records.delete_file("s", RelPath("d"), recursive=True, now_ms=1)
    assert await everything(records) == {}


async def test_a_link_is_as_large_as_the_file_it_leads_to(records: Records) -> None:
    await make(records)
    sizes: Mapping[str, tuple[str, int]] = {
        "same": ("real/f", 5),
        "real/up": ("../top", 3),
        "real/beside": ("f", 5),
        "chain": ("same", 5),
        "dir": ("real", 0),
        "through": ("dir/f", 5),
        "through2": ("./dir//./up", 3),
        "absolute": ("/workspace/real/f", 5),
        "dangling": ("nothing", 0),
        "outside": ("../etc/passwd", 0),
        "outside2": ("/etc/passwd", 0),
        "outside3": ("/workspacex/top", 0),
        "root": (".", 0),
        "itself": ("itself", 0),
        "loop1": ("loop2", 0),
        "loop2": ("loop1", 0),
        "under_file": ("top/x", 0),
        "odd": (b"\xff".decode(errors="surrogateescape"), 0),
    }
    await commit(
        records,
        file("real/f", "12345"),
        file("top", "123"),
        *(link(path, target) for path, (target, _) in sizes.items()),
    )
    listed = {entry.path: entry for entry in (await records.files("s")).items}
    assert {path: listed[RelPath(path)].size for path in sizes} == {
        path: size for path, (_, size) in sizes.items()
    }
    assert {path: str(listed[RelPath(path)].target) for path in sizes} == {
        path: target for path, (target, _) in sizes.items()
    }
    for path, (_, size) in sizes.items():
        assert (await records.file("s", RelPath(path))).size == size, path
    assert (await records.get("s")).total_size_bytes == 8
    await assert_counts(records)


async def test_a_link_follows_the_file_as_it_changes(records: Records) -> None:
    await make(records)
    await commit(records, link("l", "f"))
    assert (await records.file("s", RelPath("l"))).size == 0
    await upload(records, file("f", "12345"))
    assert (await records.files("s", prefix="l")).items[0].size == 5


async def test_forty_links_in_a_row_are_followed_and_no_more(records: Records) -> None:
    await make(records)
    await commit(
        records,
        file("f", "x"),
        link("l0", "f"),
        *(link(f"l{n}", f"l{n - 1}") for n in range(1, 42)),
    )
    sizes = {entry.path: entry.size for entry in (await records.files("s", prefix="l")).items}
    assert sizes[RelPath("l39")] == 1
    assert sizes[RelPath("l40")] == 0


async def test_times_no_database_can_hold_are_bounded(records: Records) -> None:
    await make(records)
    await upload(records, file("a", mtime_ns=2**80), file("b", mtime_ns=-(2**80)))
    await commit(records, file("c", mtime_ns=2**80), file("d", mtime_ns=-5))
    times = [entry.mtime_ns for entry in (await records.files("s")).items]
    assert times == [2**63 - 1, -(2**63 - 1), 2**63 - 1, -5]


# --- commits of runs ----------------------------------------------------------------------------


async def test_a_commit_without_changes_still_marks_the_run(records: Records) -> None:
    await make(records)
    await upload(records, file("a", "1"))
    before = await records.get("s")
    done = await commit(records, now=7000)
    assert (done.session.last_run_at_ms, done.session.updated_at_ms) == (7000, 7000)
    assert done.session.files_revision == before.files_revision
    assert (done.modified, done.deleted, done.files_error) == ((), (), None)
    assert done.session == await records.get("s")


async def test_a_commit_makes_all_of_a_run_visible(records: Records) -> None:
    await make(records)
    await upload(records, file("old", "1"), file("change", "1"), file("stay", "1"))
    done = await commit(
        records,
        file("z/new", "12"),
        file("change", "123", mode=0o755),
        link("a", "stay"),
        folder("empty", 0o700),
        removed=["old"],
        data='{"n":1}',
    )
    assert done.modified == ("a", "change", "z/new")
    assert done.deleted == ("old",)
    assert done.session == await records.get("s")
    assert (done.session.data, done.session.data_revision) == ('{"n":1}', 1)
    tree = await everything(records)
    assert sorted(tree) == ["a", "change", "empty", "stay", "z/new"]
    assert (tree["change"].mode, tree["change"].size) == (0o755, 3)
    assert (tree["empty"].kind, tree["empty"].mode) == (FileKind.DIR, 0o700)
    assert tree["z/new"].uploaded_at_ms == 3000
    assert tree["stay"].uploaded_at_ms == 2000
    await assert_counts(records)


async def test_directories_are_kept_but_not_listed(records: Records) -> None:
    await make(records)
    done = await commit(records, folder("d"), folder("d/e", 0o711))
    assert (done.modified, done.session.file_count) == ((), 0)
    assert await paths(records) == []
    assert (await records.file("s", RelPath("d/e"))).mode == 0o711
    done = await commit(records, removed=["d"])
    assert done.deleted == ()
    assert await everything(records) == {}


async def test_what_a_run_wrote_unchanged_is_no_change(records: Records) -> None:
    await make(records)
    await commit(records, file("a", "1"), link("l", "a"), folder("d"))
    before = await records.get("s"), await everything(records)
    done = await commit(records, file("a", "1"), link("l", "a"), folder("d"), now=8000)
    assert done.modified == ()
    assert done.session.files_revision == before[0].files_revision
    assert await everything(records) == before[1]
    # A directory that was removed and made again with the same content.
    await commit(records, file("x/a", "1"), folder("x"))
    revision = (await records.get("s")).files_revision
    done = await commit(records, file("x/a", "1"), folder("x"), removed=["x"])
    assert (done.modified, done.deleted, done.session.files_revision) == ((), (), revision)


async def test_a_time_alone_is_kept_but_is_no_change(records: Records) -> None:
    await make(records)
    await upload(records, FileEntry(path=RelPath("a"), blob=blob("1"), content_type="x/y"))
    old = await records.file("s", RelPath("a"))
    done = await commit(records, FileEntry(path=RelPath("a"), blob=blob("1"), mtime_ns=77))
    assert done.modified == ()
    new = await records.file("s", RelPath("a"))
    assert (new.mtime_ns, new.content_type) == (77, "x/y")
    assert new.uploaded_at_ms == old.uploaded_at_ms
    # The tree on a node must follow, so this is a revision all the same.
    diff = await records.manifest_diff(done.session.uid, done.session.files_revision - 1)
    assert diff is not None
    assert diff.written == (new,)


@pytest.mark.parametrize(
    "entry", [file("a", "2"), file("a", "1", mode=0o600), link("a", "b"), link("l", "c")]
)
async def test_a_change_of_bytes_mode_kind_or_target_is_reported(
    records: Records, entry: FileEntry
) -> None:
    await make(records)
    await commit(records, file("a", "1"), link("l", "b"))
    done = await commit(records, entry)
    assert done.modified == (entry.path,)
    assert done.deleted == ()
    await assert_counts(records)


async def test_the_content_type_lasts_as_long_as_the_bytes(records: Records) -> None:
    await make(records)
    for name in ("a", "b"):
        entry = FileEntry(path=RelPath(name), blob=blob("1"), size=1, content_type="x/y")
        await records.put_file("s", entry, FREE, 1)
    await commit(records, file("a", "1", mode=0o700), file("b", "2"))
    assert (await records.file("s", RelPath("a"))).content_type == "x/y"
    assert (await records.file("s", RelPath("b"))).content_type is None


async def test_data_is_written_only_when_the_run_changed_it(records: Records) -> None:
    await make(records)
    await records.patch("s", SessionPatch(data='"patched"'), 2)
    assert (await commit(records, file("a"))).session.data == '"patched"'
    assert (await commit(records, data='"run"')).session.data == '"run"'


async def test_a_commit_leaves_alone_what_others_did_meanwhile(records: Records) -> None:
    await make(records)
    await upload(records, file("mine", "1"), file("theirs", "1"), file("dropped", "1"))
    start = (await records.get("s")).files_revision
    await upload(records, file("theirs", "theirs"), file("new", "new"))
    await records.delete_file("s", RelPath("dropped"), recursive=False, now_ms=1)
    await records.put_code("s", "code", None, 1)
    await records.patch("s", SessionPatch(metadata='{"m":2}', allow_public=True), 1)
    done = await commit(records, file("mine", "run"), snapshot=start)
    assert done.modified == ("mine",)
    assert await paths(records) == ["mine", "new", "theirs"]
    assert (await records.file("s", RelPath("theirs"))).blob == blob("theirs")
    session = await records.get("s")
    assert (session.metadata, session.allow_public, session.has_code) == ('{"m":2}', True, True)
    await assert_counts(records)


async def test_a_path_that_both_wrote_is_the_commits(records: Records) -> None:
    await make(records)
    start = (await records.get("s")).files_revision
    await upload(records, file("a", "upload"))
    await commit(records, file("a", "run"), snapshot=start)
    assert (await records.file("s", RelPath("a"))).blob == blob("run")


async def test_a_removal_touches_only_what_the_run_could_see(records: Records) -> None:
    await make(records)
    await upload(records, file("d/old", "1"), file("d/replaced", "1"), file("f", "1"))
    start = (await records.get("s")).files_revision
    await upload(records, file("d/new", "22"), file("d/replaced", "22"), file("f", "22"))
    done = await commit(records, removed=["d", "f"], snapshot=start)
    assert done.deleted == ("d/old",)
    assert await paths(records) == ["d/new", "d/replaced", "f"]
    await assert_counts(records)


async def test_a_removal_of_nothing_is_nothing(records: Records) -> None:
    await make(records)
    await upload(records, file("a"))
    start = (await records.get("s")).files_revision
    await records.delete_file("s", RelPath("a"), recursive=False, now_ms=1)
    done = await commit(records, removed=["a", "never", "a/b"], snapshot=start)
    assert done.deleted == ()
    assert done.session.files_revision == start + 1


async def test_overlapping_removals_count_once(records: Records) -> None:
    await make(records)
    await upload(records, file("d/s/a", "1"), file("d/b", "1"), file("c", "1"))
    done = await commit(records, removed=["d/s", "d", "d/s/a"])
    assert done.deleted == ("d/b", "d/s/a")
    assert (done.session.file_count, done.session.total_size_bytes) == (1, 1)
    await assert_counts(records)


async def test_a_directory_becomes_a_file(records: Records) -> None:
    await make(records)
    await commit(records, folder("d"), file("d/a", "1"), file("d/s/b", "1"))
    done = await commit(records, file("d", "new"), removed=["d"])
    assert (done.modified, done.deleted) == (("d",), ("d/a", "d/s/b"))
    assert set(await everything(records)) == {"d"}
    await assert_counts(records)


async def test_a_file_becomes_a_directory(records: Records) -> None:
    await make(records)
    await upload(records, file("d", "1"))
    done = await commit(records, folder("d"), file("d/a", "1"), removed=["d"])
    assert (done.modified, done.deleted) == (("d/a",), ("d",))
    tree = await everything(records)
    assert set(tree) == {"d", "d/a"}
    assert tree["d"].kind is FileKind.DIR
    await assert_counts(records)


async def test_a_written_file_takes_the_place_of_a_directory_made_meanwhile(
    records: Records,
) -> None:
    await make(records)
    await upload(records, file("a/x", "upload"), file("a/y/z", "upload"), file("ab"))
    done = await commit(records, file("a", "run"), snapshot=0)
    assert (done.modified, done.deleted) == (("a",), ("a/x", "a/y/z"))
    assert await paths(records) == ["a", "ab"]
    await assert_counts(records)


@pytest.mark.parametrize("kind", [FileKind.FILE, FileKind.LINK])
async def test_what_stands_at_a_parent_gives_way_to_the_commit(
    records: Records, kind: FileKind
) -> None:
    await make(records)
    await commit(records, file("a", "1") if kind is FileKind.FILE else link("a", "x"))
    done = await commit(records, file("a/b/c", "run"), snapshot=0)
    assert (done.modified, done.deleted) == (("a/b/c",), ("a",))
    assert await paths(records) == ["a/b/c"]
    await assert_counts(records)


async def test_over_quota_no_file_change_is_kept_but_the_rest_is(records: Records) -> None:
    await make(records)
    await upload(records, file("a", "12345"), file("b", "1"))
    before = await everything(records)
    revision = (await records.get("s")).files_revision
    done = await commit(
        records,
        file("big", "123456"),
        removed=["b"],
        data="[1]",
        quota=Quota(total_bytes=10, count=0),
        now=9000,
    )
    assert done.files_error == "quota_exceeded"
    assert (done.modified, done.deleted) == ((), ())
    session = await records.get("s")
    assert session == done.session
    assert (session.data, session.last_run_at_ms) == ("[1]", 9000)
    assert session.files_revision == revision
    assert await everything(records) == before
    await assert_counts(records)


async def test_the_quota_is_of_what_the_commit_leaves(records: Records) -> None:
    await make(records)
    quota = Quota(total_bytes=10, count=2)
    await commit(records, file("a", "1" * 10), file("b"), quota=quota)
    done = await commit(records, file("c", "1" * 10), removed=["a"], quota=quota)
    assert done.files_error is None
    done = await commit(records, file("d"), quota=quota)
    assert done.files_error == "quota_exceeded"


async def test_directories_are_bounded_like_files(records: Records) -> None:
    await make(records)
    quota = Quota(total_bytes=0, count=2)
    await commit(records, folder("a"), folder("b"), file("f"), file("g"), quota=quota)
    assert (await commit(records, folder("c"), quota=quota)).files_error == "quota_exceeded"
    done = await commit(records, folder("c"), removed=["a"], quota=quota)
    assert done.files_error is None
    assert set(await everything(records)) == {"b", "c", "f", "g"}


async def test_commits_uploads_and_patches_at_once_lose_nothing(records: Records) -> None:
    await make(records)
    await asyncio.gather(
        *(commit(records, file(f"run{n}", "1"), data=f"[{n}]") for n in range(10)),
        *(upload(records, file(f"up{n}", "1")) for n in range(10)),
        *(records.patch("s", SessionPatch(metadata=f'{{"n":{n}}}'), 1) for n in range(10)),
        records.put_code("s", "x", None, 1),
    )
    session = await records.get("s")
    assert session.file_count == 20
    assert session.files_revision == 20
    assert session.has_code
    assert len(await paths(records)) == 20
    await assert_counts(records)


async def test_one_refusal_among_many_writes_harms_no_other(records: Records) -> None:
    await make(records)
    quota = Quota(total_bytes=3, count=0)
    results = await asyncio.gather(
        *(records.put_file("s", file(f"f{n}", "1"), quota, 1) for n in range(8)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, TooLargeError) for result in results) == 5
    assert (await records.get("s")).files_revision == 3
    await assert_counts(records)


# --- history ------------------------------------------------------------------------------------


async def diff(records: Records, since: int) -> ManifestDiff:
    found = await records.manifest_diff((await records.get("s")).uid, since)
    assert found is not None
    return found


async def test_the_difference_to_now_is_nothing(records: Records) -> None:
    await make(records)
    assert await diff(records, 0) == ManifestDiff(revision=0, removed=(), written=())
    await upload(records, file("a"))
    assert await diff(records, 1) == ManifestDiff(revision=1, removed=(), written=())


async def test_a_revision_to_come_has_no_difference(records: Records) -> None:
    session = await make(records)
    await upload(records, file("a"))
    assert await records.manifest_diff(session.uid, 2) is None


async def test_the_difference_says_what_to_remove_and_what_to_write(records: Records) -> None:
    await make(records)
    await commit(
        records, file("gone", "1"), file("changed", "1"), file("same", "1"), link("l", "same")
    )
    await upload(records, file("changed", "2"))
    await upload(records, file("new", "1"), file("short", "1"))
    await commit(records, file("changed", "3"), removed=["gone", "short", "l"])
    found = await diff(records, 1)
    assert found.revision == 5
    assert found.removed == ("l", "gone")
    assert [entry.path for entry in found.written] == ["changed", "new"]
    assert found.written[0].blob == blob("3")
    assert found.written[0] == await records.file("s", RelPath("changed"))


async def test_directories_that_emptied_are_removed_and_others_are_not(records: Records) -> None:
    await make(records)
    await commit(records, file("a/b/c"), file("a/d"), folder("kept"), file("kept/x"), folder("m"))
    start = (await records.get("s")).files_revision
    await commit(records, folder("m", 0o700), removed=["a/b/c", "kept/x"])
    assert (await diff(records, start)).removed == ("kept/x", "a/b/c", "a/b")
    await commit(records, removed=["kept", "a"])
    assert (await diff(records, start)).removed == (
        "kept/x",
        "kept",
        "a/d",
        "a/b/c",
        "a/b",
        "a",
    )


async def test_kinds_that_changed_are_removed_before_they_are_written(records: Records) -> None:
    await make(records)
    await commit(records, file("f"), folder("d"), file("i/x"), link("l", "f"))
    await commit(
        records, folder("f"), file("d"), file("i"), file("l"), removed=["f", "d", "i", "l"]
    )
    found = await diff(records, 1)
    assert found.removed == ("l", "i/x", "i", "f", "d")
    assert {entry.path for entry in found.written} == {"f", "d", "i", "l"}


@dataclass(frozen=True)
class Step:
    """One thing that happens to a session's files."""

    kind: str
    path: str
    written: tuple[FileEntry, ...] = ()
    removed: tuple[str, ...] = ()


PATHS = st.sampled_from(["a", "a/b", "a/b/c", "a/b/d", "a/e", "a-", "a0", "f", "f/g", "f/g/h"])
ENTRIES = st.one_of(
    st.builds(file, PATHS, st.sampled_from(["", "1", "22"]), mode=st.sampled_from([0o644, 0o755])),
    st.builds(link, PATHS, PATHS),
    st.builds(folder, PATHS, st.sampled_from([0o755, 0o700])),
)
STEPS = st.builds(
    Step,
    st.sampled_from(["commit", "commit", "upload", "delete"]),
    PATHS,
    st.lists(ENTRIES, max_size=4).map(tuple),
    st.lists(PATHS, max_size=2).map(tuple),
)


async def take(records: Records, name: str, step: Step) -> None:
    """Do `step`; what the rules of paths forbid is just not done."""
    with suppress(InputError, NotFoundError):
        if step.kind == "commit":
            await commit(records, *step.written, removed=step.removed, name=name)
        elif step.kind == "upload":
            await upload(records, file(step.path, "upload"), name=name)
        else:
            await records.delete_file(name, RelPath(step.path), recursive=True, now_ms=1)


Disk = dict[str, FileEntry | None]
"""A directory tree as a file system has it; None is a directory that no entry describes."""


def apply(disk: Disk, change: ManifestDiff) -> Disk:
    """Do what a difference says, as strictly as a file system would."""
    new = dict(disk)
    for path in change.removed:
        assert path in new, path
        del new[path]
        assert not any(other.startswith(f"{path}/") for other in new), path
    for entry in change.written:
        for parent in entry.path.parents:
            there = new.setdefault(parent, None)
            assert there is None or there.kind is FileKind.DIR
        if entry.kind is not FileKind.DIR:
            assert not any(other.startswith(f"{entry.path}/") for other in new), entry.path
        new[entry.path] = entry
    return new


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, min_size=1, max_size=9))
async def test_every_earlier_revision_leads_to_the_present_tree(
    records: Records, steps: list[Step]
) -> None:
    name = f"h{next(serial)}"
    uid = (await make(records, name)).uid
    disks: dict[int, Disk] = {0: {}}
    for step in steps:
        await take(records, name, step)
        revision = (await records.get(name)).files_revision
        whole = await records.manifest_diff(uid, 0)
        assert whole is not None
        now = apply({}, whole)
        for earlier, disk in disks.items():
            change = await records.manifest_diff(uid, earlier)
            assert change is not None
            # A directory whose entry alone went may keep the looks it had.
            assert described(apply(disk, change), now) == now
        disks[revision] = now
        await assert_counts(records, name)


def described(disk: Disk, like: Disk) -> Disk:
    """`disk`, where a directory that `like` does not describe is not described either."""
    return {
        path: None
        if path in like and like[path] is None and (entry is None or entry.kind is FileKind.DIR)
        else entry
        for path, entry in disk.items()
    }


async def test_history_is_there_until_it_is_pruned(records: Records) -> None:
    uid = (await make(records)).uid
    await upload(records, *(file("a", str(n)) for n in range(5)), file("b"))
    assert await records.prune_history(lambda _: 0) == 0
    assert (await diff(records, 1)).written
    before = await everything(records)
    assert await records.prune_history(lambda _: 3) == 2
    assert await everything(records) == before
    for pruned in (1, 2):
        assert await records.manifest_diff(uid, pruned) is None
    for kept in (0, 3, 4, 5, 6):
        assert await records.manifest_diff(uid, kept) is not None
    assert await records.prune_history(lambda _: 3) == 0
    assert await records.prune_history(lambda _: 10**9) == 2
    assert await records.manifest_diff(uid, 4) is None
    assert (await diff(records, 5)).written == (await records.file("s", RelPath("b")),)
    assert await everything(records) == before


async def test_pruning_asks_for_each_session(records: Records) -> None:
    uids = {}
    for name in ("s", "t"):
        uids[name] = (await make(records, name)).uid
        await upload(records, file("a", "1"), file("a", "2"), file("a", "3"), name=name)
    assert await records.prune_history(lambda uid: 99 if uid == uids["t"] else 0) == 2
    assert await records.manifest_diff(uids["s"], 1) is not None
    assert await records.manifest_diff(uids["t"], 1) is None


async def test_a_blob_is_referenced_as_long_as_any_kept_revision_has_it(records: Records) -> None:
    await make(records)
    names = [blob(content) for content in ("1", "2", "3", "layer", "never")]
    assert await records.unreferenced([]) == ()
    await upload(records, file("a", "1"), file("a", "2"), file("b", "3"))
    await records.put_layer(layer("k", blob("layer"), 1, 1, "{}"))
    assert await records.unreferenced(names) == (blob("never"),)
    await records.duplicate("s", "t", 1, data=None, include_files=True)
    await records.prune_history(lambda _: 99)
    assert await records.unreferenced(names) == (blob("1"), blob("never"))
    await records.delete("s")
    assert set(await records.unreferenced(names)) == {blob("1"), blob("never")}
    await records.delete("t")
    await records.delete_layer("k")
    assert set(await records.unreferenced(names)) == set(names)


# --- stored code --------------------------------------------------------------------------------


async def test_code_is_kept_with_its_description(records: Records) -> None:
    await make(records)
    with refuses("code_not_found", NotFoundError):
        await records.code("s")
    stored = await records.put_code("s", "print(1)", None, 2000)
    assert (stored.code, stored.description, stored.updated_at_ms) == ("print(1)", "", 2000)
    assert await records.code("s") == stored
    session = await records.get("s")
    assert (session.has_code, session.updated_at_ms) == (True, 2000)
    await records.put_code("s", "2", "words", 3000)
    kept = await records.put_code("s", "3", None, 4000)
    assert (kept.code, kept.description, kept.updated_at_ms) == ("3", "words", 4000)
    assert (await records.put_code("s", "3", "", 4000)).description == ""
    await records.delete_code("s", 5000)
    session = await records.get("s")
    assert (session.has_code, session.updated_at_ms) == (False, 5000)
    with refuses("code_not_found", NotFoundError):
        await records.delete_code("s", 6000)
    assert (await records.get("s")).updated_at_ms == 5000
    assert (await records.put_code("s", "4", None, 1)).description == ""


@pytest.mark.parametrize("text", ["é😀", "\ud800", "a\0b", "\r\n\t'\"", "x" * 1_000_000])
async def test_any_text_can_be_code(records: Records, text: str) -> None:
    await make(records)
    await records.put_code("s", text, text, 1)
    stored = await records.code("s")
    assert (stored.code, stored.description) == (text, text)


# --- setups and layers --------------------------------------------------------------------------


async def make_setup(records: Records, name: str, now: int = 1, spec: SetupSpec = PIP) -> int:
    new = NewSession(id=None, language="node", setup=spec)
    return (await records.create(name, new, now, f'{{"of":"{name}"}}')).uid


async def test_a_setup_with_nothing_to_do_is_completed_at_once(records: Records) -> None:
    await make_setup(records, "s", spec=SetupSpec(request='{"envs":{}}'))
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.attempts) == (SetupStatus.COMPLETED, 0)
    assert setup.result == '{"success":true,"duration_ms":0,"cached":false}'
    assert (setup.request, setup.layer, setup.progress) == ('{"envs":{}}', None, None)
    assert await records.claim_setup() is None


async def test_a_setup_waits_is_claimed_and_ends(records: Records) -> None:
    uid = await make_setup(records, "s")
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.request, setup.result) == (SetupStatus.PENDING, PIP.request, None)
    job = await records.claim_setup()
    assert job is not None
    assert (job.uid, job.session_id, job.language) == (uid, "s", "node")
    assert (job.spec, job.attempts) == ('{"of":"s"}', 1)
    assert await records.claim_setup() is None
    step = progress("npm install\n\ud800\0", 1, 3, 55, "é last")
    await records.setup_progress(uid, step)
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.progress, setup.attempts) == (SetupStatus.RUNNING, step, 1)
    done = await records.finish_setup(uid, SetupStatus.COMPLETED, '{"ok":1}', "key")
    assert (done.status, done.result, done.layer) == (SetupStatus.COMPLETED, '{"ok":1}', "key")
    assert (done.progress, done.attempts) == (None, 1)
    assert (await records.get("s")).setup == done
    await records.setup_progress(uid, step)
    assert (await records.get("s")).setup == done


async def test_progress_of_a_setup_that_does_not_run_is_dropped(records: Records) -> None:
    pending, without = await make_setup(records, "s"), (await make(records, "t")).uid
    for uid in (pending, without):
        await records.setup_progress(uid, progress("x", 1, 1, 1))
    setup = (await records.get("s")).setup
    assert setup is not None
    assert setup.progress is None
    assert (await records.get("t")).setup is None


async def test_setups_are_claimed_oldest_first_and_once_each(records: Records) -> None:
    for name, now in (("b", 20), ("c", 30), ("a", 10), ("a2", 10)):
        await make_setup(records, name, now)
    jobs = await asyncio.gather(*(records.claim_setup() for _ in range(6)))
    assert [job.session_id for job in jobs if job is not None] == ["a", "a2", "b", "c"]


async def test_running_setups_resume_until_they_tried_too_often(records: Records) -> None:
    uid = await make_setup(records, "s")
    await make_setup(records, "other", 2)
    for attempt in (1, 2):
        job = await records.claim_setup()
        assert job is not None
        assert (job.uid, job.attempts) == (uid, attempt)
        await records.setup_progress(uid, progress("x", 1, 1, 1))
        assert await records.reset_running_setups(3, FAILED) == 1
        setup = (await records.get("s")).setup
        assert setup is not None
        assert (setup.status, setup.progress) == (SetupStatus.PENDING, None)
    await records.claim_setup()
    assert await records.reset_running_setups(3, FAILED) == 0
    setup = (await records.get("s")).setup
    assert setup is not None
    assert (setup.status, setup.result, setup.attempts) == (SetupStatus.FAILED, FAILED, 3)
    other = (await records.get("other")).setup
    assert other is not None
    assert (other.status, other.attempts) == (SetupStatus.PENDING, 0)
    assert await records.reset_running_setups(3, FAILED) == 0


async def test_a_failed_setup_keeps_the_layer_it_had(records: Records) -> None:
    uid = await make_setup(records, "s")
    await records.claim_setup()
    await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "old")
    session = await records.restart_setup("s", '{"again":1}', '"spec"', 7)
    assert session.setup is not None
    assert (session.setup.status, session.setup.layer) == (SetupStatus.PENDING, "old")
    assert (session.setup.attempts, session.setup.result) == (0, None)
    assert session.setup.request == '{"again":1}'
    assert session == await records.get("s")
    job = await records.claim_setup()
    assert job is not None
    assert (job.spec, job.attempts) == ('"spec"', 1)
    done = await records.finish_setup(uid, SetupStatus.FAILED, FAILED, None)
    assert (done.status, done.layer, done.result) == (SetupStatus.FAILED, "old", FAILED)


async def test_an_unfinished_setup_cannot_be_restarted(records: Records) -> None:
    await make_setup(records, "s")
    for status in ("pending", "running"):
        with refuses("setup_pending", ConflictError) as caught:
            await records.restart_setup("s", "{}", "{}", 9)
        assert caught.value.extra["setup_status"] == status
        await records.claim_setup()
    setup = (await records.get("s")).setup
    assert setup is not None
    assert setup.request == PIP.request


async def test_a_setup_can_be_started_where_there_was_none(records: Records) -> None:
    await make(records)
    session = await records.restart_setup("s", '{"pip":[]}', '"spec"', 9)
    assert session.setup is not None
    assert session.setup.status is SetupStatus.PENDING
    job = await records.claim_setup()
    assert job is not None
    assert job.spec == '"spec"'


async def test_a_restarted_setup_queues_behind_those_that_wait(records: Records) -> None:
    uid = await make_setup(records, "s", 1)
    await records.claim_setup()
    await records.finish_setup(uid, SetupStatus.FAILED, FAILED, None)
    await make_setup(records, "t", 50)
    await records.restart_setup("s", "{}", "{}", 60)
    jobs = [await records.claim_setup() for _ in range(2)]
    assert [job.session_id for job in jobs if job] == ["t", "s"]


async def test_the_setup_of_a_deleted_session_cannot_end(records: Records) -> None:
    uid = await make_setup(records, "s")
    await records.claim_setup()
    await records.delete("s")
    await make_setup(records, "s")
    with refuses("session_not_found", NotFoundError):
        await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "key")
    with refuses("session_not_found", NotFoundError):
        await records.setup_progress(uid, progress("x", 1, 1, 1))
    setup = (await records.get("s")).setup
    assert setup is not None
    assert setup.status is SetupStatus.PENDING


async def test_a_session_without_setup_has_none_to_finish(records: Records) -> None:
    session = await make(records)
    with refuses("not_found", NotFoundError):
        await records.finish_setup(session.uid, SetupStatus.COMPLETED, "{}", None)
    assert (await records.get("s")).setup is None


async def test_a_layer_is_stored_once(records: Records) -> None:
    assert await records.layer("k") is None
    first = layer("k", blob("1"), 10, 5, '{"r":1}')
    assert await records.put_layer(first) == first
    assert await records.put_layer(layer("k", blob("2"), 20, 6, "{}")) == first
    assert await records.layer("k") == first


async def test_only_layers_without_a_session_can_be_deleted(records: Records) -> None:
    for key in ("used", "free"):
        await records.put_layer(layer(key, blob(key), 1, 1, "{}"))
    uid = await make_setup(records, "s")
    await records.claim_setup()
    await records.finish_setup(uid, SetupStatus.COMPLETED, "{}", "used")
    assert await records.layer_keys(used=False) == {"used", "free"}
    assert await records.layer_keys(used=True) == {"used"}
    assert await records.delete_layer("used") is None
    assert await records.delete_layer("unknown") is None
    deleted = await records.delete_layer("free")
    assert deleted is not None
    assert deleted.blob == blob("free")
    assert await records.layer("free") is None
    await records.duplicate("s", "t", 1, data=None, include_files=None)
    await records.delete("s")
    assert await records.delete_layer("used") is None
    await records.delete("t")
    assert await records.delete_layer("used") is not None
    assert await records.layer_keys(used=False) == frozenset()


# --- no hidden ceiling --------------------------------------------------------------------------


async def test_thousands_of_files_are_listed_copied_and_deleted(records: Records) -> None:
    await make(records)
    many = [file(f"d{n % 7}/f{n:04}", str(n)) for n in range(2300)]
    done = await commit(records, *many)
    assert len(done.modified) == 2300
    assert len(await paths(records)) == 2300
    seen: list[str] = []
    cursor = None
    while True:
        page = await records.files("s", limit=1000, cursor=cursor)
        seen += [entry.path for entry in page.items]
        if (cursor := page.next_cursor) is None:
            break
    assert seen == sorted(entry.path for entry in many)
    copy = await records.duplicate("s", "t", 1, data=None, include_files=True)
    assert copy.file_count == 2300
    done = await commit(records, removed=["d1", "d2"])
    assert len(done.deleted) == 658
    await records.delete_file("s", RelPath("d0"), recursive=True, now_ms=1)
    await assert_counts(records)
    assert len(await records.unreferenced([entry.blob for entry in many if entry.blob])) == 0
    await records.delete("s")
    assert len(await paths(records, "t")) == 2300


async def test_thousands_of_sessions_are_listed_and_deleted(records: Records) -> None:
    names = [f"s{n}" for n in range(1200)]
    await asyncio.gather(*(make(records, name) for name in names))
    page = await records.list()
    assert (len(page.items), page.total, page.next_cursor) == (1200, 1200, None)
    assert {session.id for session in page.items} == set(names)
    assert len(await records.delete_all()) == 1200
    assert (await records.list()).total == 0
