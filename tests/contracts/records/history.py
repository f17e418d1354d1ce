"""Differences between revisions, and forgetting them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era.errors import InputError, NotFoundError
from era.models import (
    FileEntry,
    FileKind,
)
from era.relpath import RelPath
from era.storage.base import ManifestDiff, Records
from tests.contracts.records.kit import (
    assert_counts,
    blob,
    commit,
    everything,
    file,
    folder,
    layer,
    link,
    make,
    serial,
    upload,
)


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


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.lists(STEPS, min_size=1, max_size=4),
    between=st.lists(STEPS, max_size=3),
    after=st.lists(STEPS, min_size=1, max_size=5),
    sources=st.lists(STEPS, max_size=3),
)
async def test_revisions_of_copies_lead_to_their_present_trees(
    records: Records,
    before: list[Step],
    between: list[Step],
    after: list[Step],
    sources: list[Step],
) -> None:
    names = [f"h{next(serial)}" for _ in range(3)]
    await make(records, names[0])
    for name, steps, copy in ((names[0], before, names[1]), (names[1], between, names[2])):
        for step in steps:
            await take(records, name, step)
        await records.duplicate(name, copy, 1, data=None, include_files=True)
    uid = (await records.get(names[2])).uid
    disks: dict[int, Disk] = {0: {}}
    for number in range(len(after) + 1):
        if number:
            await take(records, names[2], after[number - 1])
        if number < len(sources):  # what happens to the others is nothing to this one
            await take(records, names[number % 2], sources[number])
        elif number == len(sources):
            await records.delete(names[0])
        revision = (await records.get(names[2])).files_revision
        whole = await records.manifest_diff(uid, 0)
        assert whole is not None
        now = apply({}, whole)
        for earlier, disk in disks.items():
            change = await records.manifest_diff(uid, earlier)
            assert change is not None
            assert described(apply(disk, change), now) == now
        disks[revision] = now
        await assert_counts(records, names[2])


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
