"""The SDK against the real service, with real boxes; both worlds where they differ."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import pytest

from era import (
    AsyncEra,
    ConflictError,
    Era,
    InputError,
    NotFoundError,
    ProgramFailedError,
    Setup,
    SetupFailedError,
    SetupInfo,
    TooLargeError,
    Upload,
)
from tests.e2e.harness import WatchedServer

pytestmark = pytest.mark.xdist_group("sdk")

COUNT = """
import json
data = json.load(open(".session_data.json"))
data["count"] += 1
json.dump(data, open(".session_data.json", "w"))
"""


@pytest.fixture
def era(server: WatchedServer) -> Iterator[Era]:
    with Era(server.url) as era:
        yield era
        era.delete_sessions()


@pytest.fixture
async def aera(server: WatchedServer, anyio_backend: str) -> AsyncIterator[AsyncEra]:
    async with AsyncEra(server.url) as era:
        yield era
        await era.delete_sessions()


def test_execute(era: Era) -> None:
    code = (
        "import os, sys\n"
        "print(sys.stdin.read(), sys.argv[1:], os.environ['WHO'], open('in/a.bin', 'rb').read())\n"
        "print('careful', file=sys.stderr)"
    )
    files: dict[str, str | bytes] = {"in/a.bin": b"\xff\0", "text": "é"}
    result = era.execute(
        code, language="py", stdin="in", args=["--x", "y z"], env={"WHO": "me"}, files=files
    ).check()
    assert result.stdout == "in ['--x', 'y z'] me b'\\xff\\x00'\n"
    assert result.stderr == "careful\n"
    assert (result.language, result.session_id, result.isolation) == ("python", None, "namespaces")
    assert result.usage.peak_memory_bytes is None or result.usage.peak_memory_bytes > 1 << 20


def test_a_program_that_fails_is_a_result(era: Era) -> None:
    result = era.execute("import sys; sys.exit('no good')", language="python")
    assert (result.ok, result.exit_code) == (False, 1)
    with pytest.raises(ProgramFailedError, match="exit code 1") as info:
        result.check()
    assert info.value.result is result
    assert "no good" in info.value.__notes__[0]
    slow = era.execute("while True: pass", language="python", timeout=0.3)
    assert (slow.exit_code, slow.timed_out) == (124, True)


def test_a_session_from_its_making_to_its_end(era: Era) -> None:
    session = era.create_session(
        "python", id="whole", data={"count": 0}, metadata={"for": "test"}, default_timeout=9.5
    )
    info = session.info()
    assert (info.id, info.language, info.data, info.metadata) == (
        "whole",
        "python",
        {"count": 0},
        {"for": "test"},
    )
    assert info.last_run_at is None
    assert isinstance(info.created_at, datetime)
    assert info.default_timeout == 9.5
    assert session.run(COUNT).check().data == {"count": 1}
    assert session.run(COUNT, update_data={"count": 41}).data == {"count": 42}
    assert session.run(command="echo $A > made").check().files_modified == ("made",)
    assert session.files.read_text("made") == "\n"
    changed = session.update(data=[1], allow_public=True, default_timeout=None)
    assert (changed.data, changed.allow_public, changed.default_timeout) == ([1], True, None)
    copy = session.duplicate("copy", data=None)
    assert copy.info().source_session_id == "whole"
    assert [info.id for info in era.list_sessions("c")] == ["copy"]
    session.delete()
    with pytest.raises(NotFoundError) as gone:
        session.info()
    assert gone.value.code == "session_not_found"
    assert copy.files.read("made") == b"\n"
    assert era.delete_sessions() == ["copy"]
    assert era.list_sessions() == []


def test_refusals_are_the_errors_of_the_service(era: Era) -> None:
    era.create_session("python", id="twice")
    with pytest.raises(ConflictError) as conflict:
        era.create_session("python", id="twice")
    assert (conflict.value.code, conflict.value.status) == ("session_exists", 409)
    with pytest.raises(InputError) as language:
        era.create_session("cobol")
    assert language.value.code == "unsupported_language"
    assert "python" in language.value.extra["supported"]
    with pytest.raises(TooLargeError) as large:
        era.session("twice").update(data="x" * 200_000)
    assert (large.value.code, large.value.limit) == ("data_too_large", 131072)
    with pytest.raises(InputError, match="unknown field"):
        era.request("PATCH", "/api/sessions/twice", {"persistent": True})
    with pytest.raises(NotFoundError):
        era.session("../health").info()
    with pytest.raises(NotFoundError):
        era.session("..").info()


def test_stored_code_and_host(era: Era) -> None:
    session = era.create_session("node")
    with pytest.raises(InputError) as missing:
        session.run()
    assert missing.value.code == "no_code"
    session.store_code("console.log('stored é')", description="greets")
    assert session.run().stdout == "stored é\n"
    stored = session.code()
    assert (stored.code_length, stored.description) == (23, "greets")
    session.delete_code()
    with pytest.raises(NotFoundError):
        session.code()
    host = session.host(8000)
    assert host.url == f"{era.url}/proxy/{session.id}/8000"
    assert (host.public, "allowPublicAccess" in str(host.hint)) == (False, True)


def test_a_stream(era: Era) -> None:
    session = era.create_session("python")
    code = (
        "import sys\nfor i in range(3): print(i, flush=True)\nprint('e\u2028x', file=sys.stderr)\n"
        "input()"
    )
    events = list(session.stream(code, stdin="x"))
    assert {event.kind for event in events[:-1]} == {"stdout", "stderr"}
    assert "".join(e.text for e in events if e.kind == "stdout") == "0\n1\n2\n"
    result = events[-1].result
    assert result is not None
    assert (result.exit_code, result.stdout, result.stderr) == (0, "0\n1\n2\n", "e\u2028x\n")
    with pytest.raises(InputError):
        next(session.stream("x", timeout=-1))


@pytest.mark.parametrize(
    "path",
    ["a b/c#d?e=f&g.txt", "100%25 %2e%2e%2f", "back\\slash", "é/日本", "+;:@$,'!()*~", "a//b"[0:1]],
)
def test_any_path_comes_back(era: Era, path: str) -> None:
    session = era.create_session("python")
    stored = session.files.write(path, path)
    assert (stored.path, stored.size) == (path, len(path.encode()))
    assert session.files.read_text(path) == path
    assert [entry.path for entry in session.files.list()] == [path]
    session.files.delete(path)
    assert session.files.list() == []


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\0b"])
def test_paths_that_are_none(era: Era, path: str) -> None:
    """Refused before they could be another address."""
    with pytest.raises(InputError) as refusal:
        era.session("any").files.read(path)
    assert refusal.value.code == "invalid_path"


def test_files_from_and_to_the_disk(era: Era, tmp_path: Path) -> None:
    session = era.create_session("python")
    content = os.urandom(5 << 20)
    (tmp_path / "big.bin").write_bytes(content)
    assert session.files.upload(tmp_path / "big.bin").path == "big.bin"
    session.files.write("pieces", iter([b"a", b"", b"b" * 3_000_000]), content_type="text/x-b")
    digests = session.run(command="sha256sum big.bin; wc -c < pieces").check().stdout
    assert digests.split()[0] == hashlib.sha256(content).hexdigest()
    assert digests.split()[-1] == "3000001"
    session.files.download("big.bin", tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == content
    with pytest.raises(NotFoundError):
        session.files.download("nothing", tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"big.bin", "again.bin"}
    session.run(command="mkdir d; touch d/a d/b").check()
    session.files.delete("d", recursive=True)
    assert [entry.path for entry in session.files.list()] == ["big.bin", "pieces"]
    assert session.files.list("p")[0].modified_at is not None


def folder_with_everything(folder: Path) -> None:
    for name in ("a.txt", "sub dir/b%20.txt", "build.txt"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)
    for name in ("node_modules/x", ".git/config", "sub dir/__pycache__/y", "z.pyc", ".env"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("secret")
    (folder / "to_dir").symlink_to(folder / "sub dir")
    (folder / "to_file").symlink_to("a.txt")
    (folder / "to_nothing").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")


def test_a_directory(era: Era, tmp_path: Path) -> None:
    root = tmp_path / "build"  # skipped names count below the directory only
    folder_with_everything(root)
    session = era.create_session("python")
    told: list[Upload] = []
    uploads = session.files.upload_directory(root, progress=told.append)
    assert [(u.path, u.error) for u in uploads] == [
        ("a.txt", None),
        ("build.txt", None),
        ("sub dir/b%20.txt", None),
        ("to_file", None),
    ]
    assert sorted(u.path for u in told) == [u.path for u in uploads]
    assert session.files.read_text("sub dir/b%20.txt") == "sub dir/b%20.txt"
    assert [u.path for u in session.files.upload_directory(root / "sub dir", "x/")] == [
        "x/b%20.txt"
    ]
    with pytest.raises(NotADirectoryError):
        session.files.upload_directory(root / "a.txt")
    session.delete()
    failed = session.files.upload_directory(root)
    assert {type(u.error) for u in failed} == {NotFoundError}


def test_a_setup_with_its_progress(era: Era) -> None:
    setup = Setup(commands=["sleep 0.5; echo one; echo $TOKEN > /tmp/note"], env={"TOKEN": "t"})
    session = era.create_session("python", setup=setup)
    seen: list[SetupInfo] = []
    state = session.wait_for_setup(seen.append, poll_seconds=0.05)
    assert state.setup_status == "completed"
    assert state.result is not None
    assert state.result["success"] is True
    assert seen[-1] is state
    assert session.run("print(open('/tmp/note').read())").stdout.split() == ["t"]
    assert session.info().setup_status == "completed"
    with pytest.raises(NotFoundError):
        era.create_session("python").wait_for_setup()
    with pytest.raises(InputError) as refusal:
        era.create_session("python", setup={"pip": ["-r x"]})
    assert refusal.value.code == "invalid_setup"


def test_a_setup_that_fails(era: Era) -> None:
    session = era.create_session("python", setup=Setup(commands=["echo why >&2; false"]))
    with pytest.raises(SetupFailedError, match="Custom command failed") as info:
        session.wait_for_setup(poll_seconds=0.05)
    assert info.value.setup.result is not None
    assert info.value.setup.result["step"] == "commands"
    assert "why" in info.value.__notes__[0]
    assert str(info.value).endswith("(exit code 1): echo why >&2; false")
    session.retry_setup(Setup(commands=["echo on its output; exit 3"]))
    with pytest.raises(SetupFailedError, match=r"\(exit code 3\)") as info:
        session.wait_for_setup(poll_seconds=0.05)
    assert info.value.__notes__ == ["on its output"]
    session.retry_setup(Setup(commands=["true"]))
    assert session.wait_for_setup(poll_seconds=0.05).finished


def test_health(era: Era) -> None:
    health = era.health()
    assert (health.status, health.isolation.tier) == ("healthy", "namespaces")
    assert {"python", "node"} <= set(health.languages)


async def test_the_asynchronous_sdk(aera: AsyncEra, tmp_path: Path) -> None:
    session = await aera.create_session("python", data={"count": 0})
    await asyncio.gather(*(session.run(COUNT) for _ in range(10)))
    assert (await session.info()).data == {"count": 10}
    folder_with_everything(tmp_path / "src")
    uploads = await session.files.upload_directory(tmp_path / "src")
    assert len(uploads) == 4

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"1", b"2"):
            yield piece

    await session.files.write("pieces", pieces())
    await session.files.download("pieces", tmp_path / "pieces")
    assert (tmp_path / "pieces").read_bytes() == b"12"
    assert await session.files.read_text("a.txt") == "a.txt"


async def test_cancelling(aera: AsyncEra) -> None:
    session = await aera.create_session("python")
    assert not await session.cancel()
    code = "print('on', flush=True)\nopen('kept', 'w').close()\nimport time; time.sleep(60)"
    async with aclosing(session.stream(code)) as events:
        first = await anext(events)
        assert first.text.startswith("on")
        assert await session.cancel()
        last = [event async for event in events][-1]
    assert last.result is not None
    assert last.result.cancelled
    assert last.result.exit_code in (137, 143)


async def test_leaving_a_stream_hangs_up(aera: AsyncEra) -> None:
    session = await aera.create_session("python")
    code = "print('on', flush=True)\nimport time; time.sleep(60)"
    async with aclosing(session.stream(code, cancel_on_disconnect=True)) as events:
        assert (await anext(events)).text.startswith("on")
    assert (await session.run("print(1)")).stdout == "1\n"
