"""The data file after a run: each row of the table, and what a program may do to break it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from era import jsontext
from era.relpath import DATA_FILE
from era.workspace import data
from era.workspace.data import DataOutcome
from era.workspace.stage import data_text

pytestmark = pytest.mark.usefixtures("nothing_left_open")

LIMIT = 128 * 1024
INJECTED = data_text('{"count":1}')


def left(room: str, room_fd: int, content: bytes, limit: int = LIMIT) -> DataOutcome:
    with open(f"{room}/{DATA_FILE}", "wb") as file:
        file.write(content)
    return data.read(room_fd, INJECTED, limit)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ('{ "count": 2 }\n', '{"count":2}'),
        ("[1, 2.50, 1e3]", "[1,2.5,1000.0]"),
        ('{"b":1,"a":[{}],"b":2}', '{"b":2,"a":[{}]}'),
        ('"\\ud800 \\u00e9"', '"\\ud800 é"'),
        ("{}", "{}"),
        ("0", "0"),
        ("false", "false"),
        (f'{{"n":{"9" * 5000}}}', f'{{"n":{"9" * 5000}}}'),
        ('{"count":1}', '{"count":1}'),
        ("[" * 500 + "]" * 500, "[" * 500 + "]" * 500),
    ],
)
def test_valid_data_is_kept(room: str, room_fd: int, content: str, kept: str) -> None:
    assert left(room, room_fd, content.encode()) == DataOutcome(data=kept)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"a":1,}', "invalid_json"),
        (b"{'a':1}", "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),
        (b"[Infinity]", "invalid_json"),
        (b"-Infinity", "invalid_json"),
        (b"1e400", "invalid_json"),
        (b'"\xff"', "invalid_json"),
        (b'"\xed\xa0\x80"', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        ('{"a":1}'.encode("utf-16"), "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"[" * 501 + b"]" * 501, "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (b'"' * 1_000_000, "invalid_json"),
        (b"null", "null"),
        (b" null\n", "null"),
        (b"[" + b"[]," * LIMIT + b"[]]", "too_large"),
    ],
)
def test_what_is_not_kept(room: str, room_fd: int, content: bytes, error: str) -> None:
    assert left(room, room_fd, content) == DataOutcome(error=error)


def test_unchanged_bytes_are_no_change(room: str, room_fd: int) -> None:
    assert left(room, room_fd, INJECTED) == DataOutcome()
    assert left(room, room_fd, INJECTED + b" ") == DataOutcome(data='{"count":1}')


@pytest.mark.parametrize("character", ["x", "é", "\ud800", "\n"])
def test_the_limit_is_of_the_compact_form_and_inclusive(
    room: str, room_fd: int, character: str
) -> None:
    value = {"a": [1, {"b": character * 100}]}
    limit = len(jsontext.dumps(value).encode())
    for indent in (None, 4, 40):
        content = json.dumps(value, indent=indent).encode()
        kept = left(room, room_fd, content, limit)
        assert kept == DataOutcome(data=jsontext.dumps(value))
        assert left(room, room_fd, content, limit - 1) == DataOutcome(error="too_large")


@given(
    st.recursive(
        st.integers() | st.text(st.characters(exclude_categories=())),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_limit_is_exact_whatever_the_value(room: str, room_fd: int, value: Any) -> None:
    kept = jsontext.dumps(jsontext.loads(jsontext.dumps(value)))
    size = len(kept.encode())
    content = data_text(kept)
    assert left(room, room_fd, content, size) in (DataOutcome(data=kept), DataOutcome())
    assert left(room, room_fd, content + b"\n", size - 1) == DataOutcome(error="too_large")


def test_a_file_too_long_to_be_data_is_not_read(room: str, room_fd: int) -> None:
    bound = data.file_bound(LIMIT)
    assert left(room, room_fd, b'{"a":1}' + b" " * (bound - 7)) == DataOutcome(data='{"a":1}')
    assert left(room, room_fd, b'{"a":1}' + b" " * (bound - 6)) == DataOutcome(error="too_large")


def test_what_can_only_be_too_large_is_not_parsed(
    room: str, room_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parsed value takes some fifty times the memory of its text."""
    monkeypatch.setattr(jsontext, "loads", None)
    for content in (b"[" + b"{}," * LIMIT + b"1]", b'{"a":' * (LIMIT + 1), b"[" * (LIMIT + 1)):
        assert left(room, room_fd, content) == DataOutcome(error="too_large")


@pytest.mark.timeout(20)
def test_a_sparse_file_of_a_pebibyte(room: str, room_fd: int) -> None:
    os.mknod(f"{room}/{DATA_FILE}", 0o644)
    os.truncate(f"{room}/{DATA_FILE}", 1 << 50)
    assert data.read(room_fd, INJECTED, LIMIT) == DataOutcome(error="too_large")


def whiteout(path: str) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, "missing"),
        (whiteout, "missing"),
        (os.mkdir, "unreadable"),
        (os.mkfifo, "unreadable"),
        (lambda path: os.symlink("other.json", path), "unreadable"),
        (lambda path: os.symlink("/etc/passwd", path), "unreadable"),
        (lambda path: os.symlink("/dev/zero", path), "unreadable"),
        (lambda path: os.symlink("nowhere", path), "unreadable"),
        (lambda path: os.symlink(DATA_FILE, path), "unreadable"),
        (lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)), "unreadable"),
    ],
)
def test_what_is_no_file(room: str, room_fd: int, make: Callable[[str], None], error: str) -> None:
    with open(f"{room}/other.json", "w") as file:
        file.write('{"stolen":true}')
    make(f"{room}/{DATA_FILE}")
    assert data.read(room_fd, INJECTED, LIMIT) == DataOutcome(error=error)


def test_data_longer_than_the_bound_for_files_is_known_unchanged(room: str, room_fd: int) -> None:
    injected = data_text('"' + "x" * data.file_bound(1) + '"')
    with open(f"{room}/{DATA_FILE}", "wb") as file:
        file.write(injected)
    assert data.read(room_fd, injected, 1) == DataOutcome()
