"""Laying out a workspace: the files are there, exactly, and nothing else is touched."""

from __future__ import annotations

import json
import os
import stat

import pytest

from era.errors import InputError
from era.workspace import stage

pytestmark = pytest.mark.usefixtures("nothing_left_open", "resolver")


def test_files_are_placed_with_the_directories_above(room: str, room_fd: int) -> None:
    files = {
        ".session_data.json": b"{}",
        "a/b/c.txt": b"\x00\xff",
        "a/é \n": b"",
        "x" * 255: b"long",
    }
    stage.place(room_fd, files, owner=1234)
    for path, content in files.items():
        with open(f"{room}/{path}", "rb") as file:
            assert file.read() == content
            status = os.fstat(file.fileno())
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o644)
    for path in ("a", "a/b"):
        status = os.stat(f"{room}/{path}")
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o755)


def test_mode_and_own_owner(room: str, room_fd: int) -> None:
    stage.place(room_fd, {"run": b"#!"}, owner=None, mode=0o755)
    status = os.stat(f"{room}/run")
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o755)


@pytest.mark.parametrize("files", [{"a": b"", "a/b": b""}, {"a/b": b"", "a/b/c/d": b""}])
def test_files_in_each_others_way(room_fd: int, files: dict[str, bytes]) -> None:
    with pytest.raises(InputError) as caught:
        stage.place(room_fd, files, owner=None)
    assert caught.value.code == "invalid_path"


def test_what_is_there_is_not_written_through(room: str, room_fd: int) -> None:
    os.mkdir(f"{room}/outside")
    with open(f"{room}/outside/file", "w") as file:
        file.write("kept")
    os.symlink("outside/file", f"{room}/l")
    os.symlink("outside", f"{room}/m")
    for path in ("l", "m/file", "m/new", "outside/file", "outside"):
        with pytest.raises(InputError):
            stage.place(room_fd, {path: b"written"}, owner=None)
    assert os.listdir(f"{room}/outside") == ["file"]
    with open(f"{room}/outside/file") as file:
        assert file.read() == "kept"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("{}", "{}"),
        ('{"a":[],"b":{}}', '{\n  "a": [],\n  "b": {}\n}'),
        (f'{{"n":{"9" * 5000}}}', f'{{\n  "n": {"9" * 5000}\n}}'),
        ('["\\ud800é"]', '[\n  "\\ud800é"\n]'),
        ("12345678901234567890123", "12345678901234567890123"),
    ],
)
def test_data_is_written_for_reading(data: str, text: str) -> None:
    assert stage.data_text(data) == text.encode()


def test_data_looks_as_python_writes_it() -> None:
    value = {"name": "x", "list": [1, 2.5, None, True, {"deep": ["y", {}]}], "empty": []}
    compact = json.dumps(value, separators=(",", ":"))
    assert stage.data_text(compact).decode() == json.dumps(value, indent=2)


def test_indentation_is_bounded() -> None:
    """128 KiB of data must not become 64 MiB in every run."""
    data = "[" * 499 + "[" + ",".join(["1"] * 60_000) + "]" + "]" * 499
    text = stage.data_text(data)
    assert len(text) <= stage.MAX_PRETTY_BYTES
    assert text == data.encode()
    flat = "[" + ",".join(["1"] * 60_000) + "]"
    assert stage.data_text(flat) == json.dumps(json.loads(flat), indent=2).encode()
