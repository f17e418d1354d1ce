"""Uploads, lists, deletions, and the sizes of links."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from era.errors import InputError, NotFoundError, TooLargeError
from era.models import (
    FileEntry,
    FileKind,
)
from era.relpath import RelPath
from era.storage.base import Quota, Records
from tests.contracts.records.kit import (
    FREE,
    assert_counts,
    blob,
    commit,
    everything,
    file,
    folder,
    link,
    make,
    paths,
    refuses,
    upload,
)


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
    names = [f"s{n}" for n in range(1005)]
    await asyncio.gather(*(make(records, name) for name in names))
    page = await records.list()
    assert (len(page.items), page.total, page.next_cursor) == (1005, 1005, None)
    assert {session.id for session in page.items} == set(names)
    assert len(await records.delete_all()) == 1005
    assert (await records.list()).total == 0
