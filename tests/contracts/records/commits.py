"""The commits of runs."""

from __future__ import annotations

import asyncio

import pytest

from era.errors import TooLargeError
from era.models import (
    FileEntry,
    FileKind,
    SessionPatch,
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
    upload,
)


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
