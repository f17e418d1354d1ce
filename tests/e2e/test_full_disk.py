"""A disk that is full or takes no writes: the contract's errors, and nothing that was kept is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api import Api, RefusedError
from tests.e2e.conftest import StartServer

pytestmark = [
    pytest.mark.xdist_group("full-disk"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system"),
]

ROOM_MIB = 8


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of its own at `path`."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_MIB}m", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def refused(client: Api, path: str, content: bytes) -> tuple[int, str]:
    with pytest.raises(RefusedError) as caught:
        client.upload("s", path, content)
    assert str(client.url) not in str(caught.value.body)
    return caught.value.status, caught.value.body["code"]


def assert_kept(client: Api, files: dict[str, bytes], count: int) -> None:
    state = client.call("GET", "/api/sessions/s?files=1")
    assert {entry["path"] for entry in state["files"]} == files.keys()
    assert state["data"] == {"count": count}
    for path, content in files.items():
        assert client.download("s", path) == content


def test_a_full_disk_under_the_files(start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    with small_disk(server.state_dir / "blobs"):
        server.start()
        client = Api(server.url)
        client.call("POST", "/api/sessions", id="s", language="python", data={"count": 1})
        client.upload("s", "kept", b"k" * 1000)
        large = b"l" * ((ROOM_MIB + 2) << 20)
        assert refused(client, "large", large) == (507, "storage_full")
        assert refused(client, "kept", large) == (507, "storage_full")
        assert_kept(client, {"kept": b"k" * 1000}, 1)
        code = (
            f"open('made', 'w').write('m' * ({ROOM_MIB + 2} << 20)); open('small', 'w').write('s')\n"
            "open('.session_data.json', 'w').write('{\"count\": 2}')"
        )
        # No file of the run is kept, its data is.
        assert client.run("s", code)["files_error"] == "storage_full"
        assert_kept(client, {"kept": b"k" * 1000}, 2)
        # There is room for what is small, and nothing is in its way.
        client.upload("s", "later", b"later")
        assert_kept(client, {"kept": b"k" * 1000, "later": b"later"}, 2)
        server.stop()


def test_a_disk_that_takes_no_writes(start_server: StartServer) -> None:
    server = start_server()
    server.stop()
    blobs = server.state_dir / "blobs"
    with small_disk(blobs):
        server.start()
        client = Api(server.url)
        client.call("POST", "/api/sessions", id="s", language="python", data={"count": 1})
        client.upload("s", "kept", b"kept")
        assert client.run("s", "print(open('kept').read())")["stdout"] == "kept\n"
        subprocess.run(["mount", "-o", "remount,ro", blobs], check=True)
        try:
            status, code = refused(client, "new", b"new")
            assert (status, code) == (500, "internal")
            with pytest.raises(RefusedError) as caught:
                client.call("POST", "/api/sessions/s/run", code="open('new', 'w').write('n')")
            assert caught.value.status == 500
            assert_kept(client, {"kept": b"kept"}, 1)
            # What leaves no new bytes goes on as ever.
            client.run("s", "print(open('.session_data.json', 'w').write('{\"count\": 3}'))")
            assert_kept(client, {"kept": b"kept"}, 3)
        finally:
            subprocess.run(["mount", "-o", "remount,rw", blobs], check=True)
        client.upload("s", "new", b"new")
        assert_kept(client, {"kept": b"kept", "new": b"new"}, 3)
        server.stop()
