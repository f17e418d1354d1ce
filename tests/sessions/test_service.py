"""The use-cases beside runs and setups: sessions, files, stored code, copies, the sweep, the start."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator

import pytest

from era.errors import ConflictError, InputError, NotFoundError, TooLargeError, UnavailableError
from era.models import NewCopy, NewSession, SessionPatch
from era.sessions.layers import ARCHIVE
from era.storage.base import Quota
from tests.sessions.conftest import World, chunks, setup_of, until

pytestmark = pytest.mark.anyio


# --- sessions ------------------------------------------------------------------------------------


async def test_ids_are_given_or_made(world: World) -> None:
    view = await world.sessions.create(NewSession(id=None, language="python"))
    assert re.fullmatch(r"sess_\d{13}_[0-9a-z]{9}", view.record.id)
    await world.create("mine")
    with pytest.raises(ConflictError) as caught:
        await world.create("mine")
    assert caught.value.extra["id"] == "mine"
    ids = [item.record.id for item in (await world.sessions.list()).items]
    assert ids == [view.record.id, "mine"]
    page = await world.sessions.list(prefix="m", limit=1)
    assert (page.total, page.next_cursor, len(page.items)) == (1, None, 1)


@pytest.mark.parametrize("default", [True, False])
async def test_the_servers_default_decides_about_the_internet(world: World, default: bool) -> None:
    await world.restart(default_internet_access=default)
    assert (await world.create("a")).record.allow_internet is default
    assert (
        await world.create("b", allow_internet=not default)
    ).record.allow_internet is not default


async def test_of_many_simultaneous_creates_one_wins(world: World) -> None:
    results = await asyncio.gather(
        *(world.create("one") for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(found, ConflictError) for found in results) == 9


async def test_a_session_that_is_gone(world: World) -> None:
    await world.create()
    await world.put("f", b"x")
    await world.run("pass")
    assert os.listdir(world.parts.trees.root) == ["1"]
    await world.run("open('g', 'w').write('g')")
    assert await world.sessions.delete("s") > 0
    assert os.listdir(world.parts.trees.root) == []
    for attempt in (
        world.sessions.get("s"),
        world.sessions.delete("s"),
        world.run("pass"),
        world.sessions.files("s"),
        world.sessions.open_file("s", "f"),
        world.put("f", b"y"),
        world.sessions.delete_file("s", "f"),
        world.sessions.patch("s", SessionPatch(allow_public=True)),
        world.sessions.put_code("s", "x"),
        world.sessions.setup("s"),
        world.sessions.retry_setup("s"),
        world.sessions.duplicate("s", NewCopy()),
    ):
        with pytest.raises(NotFoundError) as caught:
            await attempt
        assert caught.value.code == "session_not_found"
    assert (await world.create()).record.file_count == 0


async def test_a_copy_is_independent_in_both_directions(world: World) -> None:
    await world.create(data='{"n":1}', metadata='{"m":1}', default_timeout_seconds=5.0)
    await world.put("f", b"one")
    await world.sessions.put_code("s", "print('stored')")
    await world.run("pass")
    view = await world.sessions.duplicate("s", NewCopy())
    copy = view.record.id
    assert re.fullmatch(r"s-copy-\d{13}", copy)
    assert (view.record.source_id, view.record.last_run_at_ms) == ("s", None)
    assert (view.record.data, view.record.metadata) == ('{"n":1}', '{"m":1}')
    await world.put("f", b"two")
    await world.run("open('f', 'w').write('three')", copy)
    assert [await world.content("f", name) for name in ("s", copy)] == [b"two", b"three"]
    assert (await world.run(None, copy)).stdout == "stored\n"
    await world.sessions.delete("s")
    assert await world.content("f", copy) == b"three"


async def test_copies_made_at_once_all_succeed(world: World) -> None:
    await world.create()
    await asyncio.gather(*(world.sessions.duplicate("s", NewCopy()) for _ in range(5)))
    assert (await world.sessions.list()).total == 6
    with pytest.raises(ConflictError):
        await world.sessions.duplicate("s", NewCopy(id="s"))


# --- files ---------------------------------------------------------------------------------------


async def test_a_file_comes_back_as_it_was(world: World) -> None:
    await world.create()
    name = "d/a b#%20?é.txt"
    content = bytes(range(256)) * 20
    entry = await world.sessions.put_file("s", name, chunks(content), "text/x")
    assert (entry.size, entry.mode, entry.content_type) == (len(content), 0o644, "text/x")
    assert entry.uploaded_at_ms
    opened = await world.sessions.open_file("s", name)
    assert b"".join([part async for part in opened.read(10, 300)]) == content[10:300]
    assert await world.content(name) == content
    with pytest.raises(NotFoundError) as caught:
        await world.sessions.open_file("s", "d")
    assert caught.value.code == "file_not_found"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../x", "invalid_path"),
        ("/etc/passwd", "invalid_path"),
        ("a//b", "invalid_path"),
        ("", "invalid_path"),
        (".session_data.json", "reserved_path"),
        (".era/x", "reserved_path"),
    ],
)
async def test_bad_paths_are_refused_everywhere(world: World, path: str, code: str) -> None:
    await world.create()
    for attempt in (
        world.put(path, b"x"),
        world.sessions.open_file("s", path),
        world.sessions.delete_file("s", path),
    ):
        with pytest.raises(InputError) as caught:
            await attempt
        assert caught.value.code == code


async def test_links_are_followed_inside_the_workspace_only(world: World) -> None:
    await world.create()
    await world.put("real/f", b"content")
    result = await world.command(
        "ln -s real/f ok; ln -s ok chain; ln -s real dir; ln -s loop loop; ln -s nowhere dead;"
        "ln -s /etc/hostname out; ln -s ../../etc/hostname up"
    )
    assert {s.path for s in result.files_skipped} == {"out", "up"}
    for name in ("ok", "chain"):
        assert await world.content(name) == b"content"
    for name in ("dir", "loop", "dead", "out", "up", "dir/f"):
        with pytest.raises(NotFoundError):
            await world.sessions.open_file("s", name)


async def test_a_broken_upload_leaves_what_was_there(world: World) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    await world.create()
    await world.put("f", b"old")
    with pytest.raises(ConnectionError):
        await world.sessions.put_file("s", "f", breaking())
    assert await world.content("f") == b"old"


async def test_bounds_of_uploads(world: World) -> None:
    await world.restart(file_bytes=5000, quota=Quota(total_bytes=6000, count=0))
    await world.create()
    with pytest.raises(TooLargeError) as caught:
        await world.put("f", b"x" * 5001)
    assert caught.value.code == "file_too_large"
    await world.put("f", b"x" * 5000)
    with pytest.raises(TooLargeError) as caught:
        await world.put("g", b"x" * 1001)
    assert caught.value.code == "quota_exceeded"
    await world.sessions.delete_file("s", "f")
    await world.put("g", b"x" * 1001)
    assert await world.paths() == ["g"]


async def test_stored_code_is_kept_apart(world: World) -> None:
    await world.create()
    with pytest.raises(NotFoundError) as caught:
        await world.sessions.code("s")
    assert caught.value.code == "code_not_found"
    await world.sessions.put_code("s", "print(1)", "about")
    assert (await world.sessions.put_code("s", "print(2)")).description == "about"
    assert (await world.sessions.code("s")).code == "print(2)"
    assert (await world.sessions.get("s")).record.data == "{}"
    await world.sessions.delete_code("s")
    assert not (await world.sessions.get("s")).record.has_code


# --- the service itself --------------------------------------------------------------------------


async def test_a_start_removes_what_a_killed_server_left(world: World) -> None:
    await world.create("stays")
    await world.run("pass", "stays")
    layers, trees = world.parts.layers_dir, world.parts.trees.root
    os.mkdir(f"{layers}/half.tmp-1")
    os.mkdir(f"{trees}/999")
    await world.restart()
    assert [name for name in os.listdir(layers) if not name.startswith("boot-")] == []
    assert os.listdir(trees) == ["1"]


async def test_after_a_reboot_no_unpacked_layer_is_believed(world: World) -> None:
    await world.create(setup=setup_of(commands=("echo x > f",)))
    await world.settled()
    layers = world.parts.layers_dir
    boot = next(name for name in os.listdir(layers) if name.startswith("boot-"))
    os.rename(f"{layers}/{boot}", f"{layers}/boot-earlier")
    await world.restart()
    assert os.listdir(layers) == [boot]
    assert (await world.command("cat f")).stdout == "x\n"


async def test_the_checks_name_what_failed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full() -> None:
        raise UnavailableError("storage_full")

    assert await world.sessions.check() == {}
    monkeypatch.setattr(world.records, "check", full)
    assert await world.sessions.check() == {"storage": "storage is full"}
    assert (world.sessions.tier, world.sessions.versions) == ("process", {"python": "3.11.0"})


async def test_busy_counts_runs_and_setups(world: World) -> None:
    assert world.sessions.busy == 0
    await world.create(setup=setup_of(commands=("sleep 600",)))
    await until(lambda: world.sessions.busy == 1)
    await world.sessions.delete("s")
    await until(lambda: world.sessions.busy == 0)


# --- the sweep -----------------------------------------------------------------------------------


async def blobs(world: World) -> set[str]:
    return {blob async for blob in world.blobs.older_than(-1)}


async def test_bytes_that_nothing_refers_to_are_swept_after_a_grace(world: World) -> None:
    await world.create()
    await world.put("f", b"old")
    await world.put("f", b"new")
    await world.put("g", b"gone")
    await world.sessions.delete_file("s", "g")
    sweep = world.sessions._sweeper.sweep
    await sweep()
    assert len(await blobs(world)) == 3
    world.clock.ahead_ms += 2 * 3_600_000
    await sweep()
    assert len(await blobs(world)) == 1
    assert await world.content("f") == b"new"
    await world.sessions.delete("s")
    await sweep()
    assert await blobs(world) == set()


async def test_the_history_a_tree_needs_is_kept_for_a_while(world: World) -> None:
    await world.create()
    await world.put("f", b"one")
    await world.run("print(open('f').read())")
    await world.put("f", b"two")
    sweep = world.sessions._sweeper.sweep
    await sweep()
    assert await world.records.manifest_diff(1, 1) is not None
    world.clock.ahead_ms += 3_600_000
    await sweep()
    assert await world.records.manifest_diff(1, 1) is None
    assert (await world.run("print(open('f').read())")).stdout == "two\n"


async def test_layers_without_users_are_removed(world: World) -> None:
    await world.create("a", setup=setup_of(pip=("alpha",)))
    await world.create("b", setup=setup_of(commands=("echo x > f",)))
    for name in "ab":
        await world.settled(name)
        await world.sessions.delete(name)
    sweep = world.sessions._sweeper.sweep
    await sweep()
    assert [key.split("-")[0] for key in await layers(world)] == ["packages"]
    world.clock.ahead_ms += 8 * 86_400_000
    await sweep()
    await sweep()
    assert await world.records.layer_keys(used=False) == frozenset()
    assert [n for n in os.listdir(world.parts.layers_dir) if not n.startswith("boot-")] == []
    assert await blobs(world) == set()


async def layers(world: World) -> list[str]:
    """Keys of the layers; each has its archive."""
    keys = await world.records.layer_keys(used=False)
    found = [key for key in keys if not key.endswith(ARCHIVE)]
    assert keys == {*found, *(key + ARCHIVE for key in found)}
    return found


async def test_a_layer_in_use_is_not_removed(world: World) -> None:
    await world.create(setup=setup_of(commands=("echo x > f",)))
    await world.settled()
    task = asyncio.create_task(world.command("until [ -e go ]; do sleep 0.02; done; cat f"))

    async def running() -> bool:
        return (await world.sessions.get("s")).running

    await until(running)
    await world.sessions.retry_setup("s", setup_of(commands=("echo y > f",)))
    await world.settled()
    await world.sessions._sweeper.sweep()
    assert len(await layers(world)) == 2
    await world.sessions.cancel("s")
    await task
    await world.sessions._sweeper.sweep()
    assert len(await layers(world)) == 1
    assert (await world.command("cat f")).stdout == "y\n"
