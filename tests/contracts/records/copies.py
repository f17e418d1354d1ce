"""Copies of sessions."""

from __future__ import annotations

import pytest

from era.errors import ConflictError
from era.models import (
    NewSession,
    SessionPatch,
    SessionRecord,
    SetupStatus,
)
from era.relpath import RelPath
from era.storage.base import Records
from tests.contracts.records.kit import (
    PIP,
    assert_counts,
    blob,
    commit,
    everything,
    file,
    folder,
    link,
    make,
    paths,
    progress,
    refuses,
    upload,
)


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


async def test_what_copies_share_is_there_until_the_last_of_them_is_gone(
    records: Records,
) -> None:
    await full_session(records)
    names = [blob("12345"), blob("22"), blob("own")]
    for copy in ("t", "u"):
        await records.duplicate("s", copy, 9, data=None, include_files=True)
    tree = await everything(records, "t")
    await commit(records, file("c", "own"), removed=["a/b"])
    await records.prune_history(lambda _: 99)
    assert await everything(records, "t") == await everything(records, "u") == tree
    await records.delete("s")
    await records.prune_history(lambda _: 99)
    assert await everything(records, "t") == await everything(records, "u") == tree
    await records.delete("t")
    await records.prune_history(lambda _: 99)
    assert await everything(records, "u") == tree
    assert await records.unreferenced(names) == (blob("own"),)
    await records.delete_file("u", RelPath("a/b"), recursive=False, now_ms=9)
    await records.prune_history(lambda _: 99)
    assert await records.unreferenced(names) == (blob("12345"), blob("own"))
    await records.delete_all()
    assert await records.unreferenced(names) == tuple(names)


@pytest.mark.parametrize("changed", [3, 300])
async def test_a_copy_of_a_changed_copy_is_as_that_one(records: Records, changed: int) -> None:
    await full_session(records)
    await records.duplicate("s", "t", 9, data=None, include_files=True)
    more = [file(f"more/{n}", str(n)) for n in range(changed)]
    await commit(records, *more, file("c", "other"), removed=["a/b"], name="t")
    tree, uid = await everything(records, "t"), (await records.get("t")).uid
    copy = await records.duplicate("t", "u", 9, data=None, include_files=True)
    assert copy.file_count == changed + 2
    assert await everything(records, "u") == await everything(records, "t") == tree
    await commit(records, removed=["more"], name="t")
    assert await records.manifest_diff(uid, 2) is not None
    await records.delete("s")
    await records.delete("t")
    assert await everything(records, "u") == tree
    await assert_counts(records, "u")


async def test_what_a_copy_removed_and_wrote_again_is_there_once(records: Records) -> None:
    await full_session(records)
    await records.duplicate("s", "t", 9, data=None, include_files=True)
    for content in ("x", "y"):
        await commit(records, removed=["c", "a"], name="t")
        assert await paths(records, "t") == ["l"]
        await commit(records, file("c", content), file("a", content), name="t")
        assert await paths(records, "t") == ["a", "c", "l"]
        await assert_counts(records, "t")
    assert await paths(records) == ["a/b", "c", "l"]


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


async def gone_since(records: Records, uid: int, since: int) -> set[str] | None:
    """What a tree of that revision has to lose; None: it has to be made anew."""
    found = await records.manifest_diff(uid, since)
    return None if found is None else set(found.removed)


async def test_what_a_copy_hid_stays_gone_when_it_takes_over_the_rest(records: Records) -> None:
    await full_session(records)
    uid = (await records.duplicate("s", "t", 9, data=None, include_files=True)).uid
    await upload(records, file("y", "1"), file("y", "2"), name="t")
    behind = (await records.get("t")).files_revision
    await records.delete_file("t", RelPath("c"), recursive=False, now_ms=9)
    assert await gone_since(records, uid, behind) == {"c"}
    await records.delete("s")
    await records.prune_history(lambda _: behind)  # the tree of `behind` still is there
    assert await gone_since(records, uid, behind) in ({"c"}, None)


async def test_history_that_a_copy_kept_is_not_taken_for_the_whole(records: Records) -> None:
    uid = (await make(records)).uid
    await upload(records, file("x", "1"), file("y", "1"))
    await records.duplicate("s", "t", 9, data=None, include_files=True)
    await upload(records, file("x", "2"), file("y", "2"))
    await upload(records, file("z"))
    behind = (await records.get("s")).files_revision
    await records.delete_file("s", RelPath("z"), recursive=False, now_ms=9)
    await records.prune_history(lambda _: 99)
    await records.delete("t")
    await records.prune_history(lambda _: 99)
    assert await gone_since(records, uid, behind) in ({"z"}, None)
