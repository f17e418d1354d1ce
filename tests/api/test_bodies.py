"""Bodies from clients into the service's values: every refusal with its exact text."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from era.api import parse
from era.api.body import parse as parse_json
from era.api.options import Bounds
from era.errors import EraError
from era.models import UNSET, RunRequest

BOUNDS = Bounds()
EXECUTE = {"code": "x", "language": "python"}


def execute(**members: Any) -> RunRequest:
    return parse.execute({**EXECUTE, **members}, BOUNDS)


def run(**members: Any) -> RunRequest:
    return parse.run(members, BOUNDS, "http://b")


REFUSED_EXECUTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"code": ...}, "missing_field", "code is required"),
    ({"code": ""}, "missing_field", "code is required"),
    ({"language": ...}, "missing_field", "language is required"),
    ({"code": 1}, "invalid_field", "code must be a string"),
    ({"code": "\ud800"}, "invalid_field", "code must be valid Unicode text"),
    ({"code": "é" * (1 << 19) + "x"}, "code_too_large", "code exceeds 1048576 bytes"),
    ({"language": True}, "invalid_field", "language must be a string"),
    ({"language": "cobol"}, "unsupported_language", "unsupported language: cobol"),
    ({"language": ""}, "unsupported_language", "unsupported language: "),
    ({"timeout": "10"}, "invalid_field", "timeout must be a number of seconds, 0 or more"),
    ({"timeout": True}, "invalid_field", "timeout must be a number of seconds, 0 or more"),
    ({"timeout": -1}, "invalid_field", "timeout must be a number of seconds, 0 or more"),
    ({"timeout": 10**400}, "invalid_field", "timeout must be a number of seconds, 0 or more"),
    ({"timeout": 3600.5}, "timeout_too_large", "timeout exceeds the maximum of 3600 seconds"),
    ({"timeout_ms": 3600001}, "timeout_too_large", "timeout exceeds the maximum of 3600 seconds"),
    ({"timeout_ms": -5}, "invalid_field", "timeout_ms must be a number of milliseconds, 0 or more"),
    ({"timeout": 1, "timeout_ms": 1001}, "conflicting_fields", "timeout and timeout_ms differ"),
    ({"timeout": 0, "timeout_ms": 1000}, "conflicting_fields", "timeout and timeout_ms differ"),
    ({"env": {"A": "1"}, "envs": {"A": "2"}}, "conflicting_fields", "env and envs differ"),
    ({"env": []}, "invalid_field", "env must be an object of strings"),
    ({"envs": "A=1"}, "invalid_field", "envs must be an object of strings"),
    ({"stdin": 5}, "invalid_field", "stdin must be a string"),
    ({"stdin": "\udfff"}, "invalid_field", "stdin must be valid Unicode text"),
    ({"args": "a"}, "invalid_field", "args must be an array of strings"),
    ({"args": ["a", 1]}, "invalid_field", "args must be an array of strings"),
    ({"args": ["a\0b"]}, "invalid_field", "args must be an array of strings without NUL"),
    ({"args": ["a"] * 1025}, "invalid_field", "args must be an array of at most 1024 strings"),
    ({"args": ["é" * 65537]}, "invalid_field", "args must be at most 131072 bytes in total"),
    (
        {"args": ["a" * 131072]},
        "invalid_field",
        "args must be an array of strings of at most 131071 bytes",
    ),
    ({"files": {"../x": ""}}, "invalid_path", "invalid file path"),
    ({"files": {"": ""}}, "invalid_path", "invalid file path"),
    ({"files": {"a\0": ""}}, "invalid_path", "invalid file path"),
    ({"files": {"a": "", "a/b": ""}}, "invalid_path", "invalid file path"),
    ({"files": {".era/x": ""}}, "reserved_path", "reserved file path"),
    ({"files": {".session_data.json": "{}"}}, "reserved_path", "reserved file path"),
    (
        {"files": {"a": 1}},
        "invalid_field",
        'files must be an object of path to text, or to {"content","encoding":"utf-8"|"base64"}',
    ),
    (
        {"files": {"a": {"content": "!", "encoding": "base64"}}},
        "invalid_field",
        'files must be base64 text where "encoding" is "base64"',
    ),
    ({"allowInternetAccess": 1}, "invalid_field", "allowInternetAccess must be a boolean"),
    ({"cpu_count": 2.5}, "invalid_field", "cpu_count must be an integer"),
    ({"cpu_count": 0}, "invalid_field", "cpu_count must be an integer from 1 to 4"),
    ({"cpu_count": True}, "invalid_field", "cpu_count must be an integer"),
    ({"memory_mib": 63}, "invalid_field", "memory_mib must be an integer from 64 to 8192"),
    ({"memory_mib": 10**50}, "invalid_field", "memory_mib must be an integer from 64 to 8192"),
]


@pytest.mark.parametrize(("change", "code", "text"), REFUSED_EXECUTIONS)
def test_executions_refused(change: dict[str, Any], code: str, text: str) -> None:
    members = {name: v for name, v in {**EXECUTE, **change}.items() if v is not ...}
    with pytest.raises(EraError) as caught:
        parse.execute(members, BOUNDS)
    assert (caught.value.code, caught.value.text) == (code, text)


def test_an_integer_is_one_however_it_is_written() -> None:
    assert parse.execute({**EXECUTE, "cpu_count": 2.0}, BOUNDS).cpu_count == 2


def test_of_several_faults_the_first_in_the_models_order_is_named() -> None:
    with pytest.raises(EraError, match=r"^code must be a string$"):
        parse.execute({"memory_mib": "x", "timeout": "y", "language": 3, "code": 4}, BOUNDS)


def test_an_execution_with_everything() -> None:
    request = execute(
        timeout=1.5,
        timeout_ms=1500,
        env={"A": "1"},
        envs={"A": "1"},
        files={"a/b": "t\n", "c d%#?": {"content": "AP8=", "encoding": "base64"}},
        stdin="in",
        args=["-x", ""],
        allowInternetAccess=True,
        cpu_count=4,
        memory_mib=64,
        tiemout=3,
    )
    assert request.timeout_seconds == 1.5
    assert request.env == {"A": "1"}
    assert request.files == {"a/b": b"t\n", "c d%#?": b"\x00\xff"}
    assert (request.stdin, request.args) == ("in", ("-x", ""))
    assert (request.allow_internet, request.cpu_count, request.memory_mib) == (True, 4, 64)
    assert request.warnings == ("unknown field ignored: tiemout",)


@pytest.mark.parametrize("members", [{}, {"timeout": 0}, {"timeout_ms": 0, "timeout": 0.0}])
def test_no_timeout_or_zero_is_the_default(members: dict[str, Any]) -> None:
    assert execute(**members).timeout_seconds is None


def test_code_of_the_largest_size_passes() -> None:
    assert len(execute(code="x" * BOUNDS.code_bytes).code or "") == BOUNDS.code_bytes


REFUSED_RUNS: list[tuple[dict[str, Any], str, str]] = [
    ({"code": "x", "command": "ls"}, "conflicting_fields", "code and command differ"),
    ({"command": 3}, "invalid_field", "command must be a string"),
    ({"command": "a\0b"}, "invalid_field", "command must be a string without NUL"),
    ({"command": "a" * 131072}, "invalid_field", "command must be at most 131071 bytes"),
    ({"update_data": []}, "invalid_field", "update_data must be an object"),
    ({"update_data": {"a": "x" * 131072}}, "data_too_large", "data exceeds 131072 bytes"),
    ({"wait_for_setup": 0}, "invalid_field", "wait_for_setup must be a boolean"),
    ({"cancel_on_disconnect": "no"}, "invalid_field", "cancel_on_disconnect must be a boolean"),
]


@pytest.mark.parametrize(("members", "code", "text"), REFUSED_RUNS)
def test_runs_refused(members: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(EraError) as caught:
        run(**members)
    assert (caught.value.code, caught.value.text) == (code, text)


def test_a_run_with_nothing_uses_stored_code_and_the_defaults() -> None:
    request = run(code=" \n\t")
    assert (request.code, request.command, request.timeout_seconds) == (None, None, None)
    assert (request.wait_for_setup, request.cancel_on_disconnect) == (True, False)
    assert (request.base_url, request.warnings) == ("http://b", ())


def test_what_only_executions_have_is_a_warning_in_a_run() -> None:
    assert run(language="go").warnings == ("unknown field ignored: language",)


def test_a_run_with_everything() -> None:
    request = run(
        command="ls",
        update_data={"n": 1, "u": "é"},
        wait_for_setup=False,
        cancel_on_disconnect=True,
    )
    assert request.command == "ls"
    assert request.update_data == '{"n":1,"u":"é"}'
    assert (request.wait_for_setup, request.cancel_on_disconnect) == (False, True)


REFUSED_SESSIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"language": ...}, "missing_field", "language is required"),
    ({"language": "cobol"}, "unsupported_language", "unsupported language: cobol"),
    ({"id": 5}, "invalid_field", "id must be a string"),
    (
        {"id": ""},
        "invalid_id",
        "session_id must contain only letters, numbers, hyphens, and underscores",
    ),
    (
        {"session_id": "a/b"},
        "invalid_id",
        "session_id must contain only letters, numbers, hyphens, and underscores",
    ),
    ({"id": "a" * 129}, "invalid_id", "session_id must be at most 128 characters"),
    ({"id": "a", "session_id": "b"}, "conflicting_fields", "id and session_id differ"),
    ({"persistent": "yes"}, "invalid_field", "persistent must be a boolean"),
    ({"metadata": []}, "invalid_field", "metadata must be an object"),
    ({"metadata": {"k": "x" * 65536}}, "metadata_too_large", "metadata exceeds 65536 bytes"),
    ({"data": "x" * 131071}, "data_too_large", "data exceeds 131072 bytes"),
    ({"setup": "numpy"}, "invalid_setup", "setup must be an object"),
    ({"allowPublicAccess": "1"}, "invalid_field", "allowPublicAccess must be a boolean"),
    ({"default_timeout": 0}, "invalid_default_timeout", "invalid default_timeout"),
    ({"default_timeout": "9"}, "invalid_default_timeout", "invalid default_timeout"),
    ({"cpu_count": 5}, "invalid_field", "cpu_count must be an integer from 1 to 4"),
]


@pytest.mark.parametrize(("change", "code", "text"), REFUSED_SESSIONS)
def test_sessions_refused(change: dict[str, Any], code: str, text: str) -> None:
    members = {name: v for name, v in {"language": "py", **change}.items() if v is not ...}
    with pytest.raises(EraError) as caught:
        parse.create(members, BOUNDS)
    assert (caught.value.code, caught.value.text) == (code, text)


def test_a_session_with_nothing_has_the_defaults() -> None:
    new, warnings = parse.create({"language": " PY "}, BOUNDS)
    assert (new.language, new.id, new.persistent, new.setup) == ("python", None, True, None)
    assert (new.data, new.metadata) == ("{}", "{}")
    assert new.allow_internet is None
    assert warnings == ()


@pytest.mark.parametrize("data", [0, False, "", [], 1.5, {"a": None}, 10**30])
def test_any_json_value_but_null_is_data(data: Any) -> None:
    new, _ = parse.create({"language": "go", "data": data}, BOUNDS)
    assert json.loads(new.data) == data


def test_data_of_exactly_the_limit_passes() -> None:
    new, _ = parse.create({"language": "go", "data": "x" * 131070}, BOUNDS)
    assert len(new.data) == 131072


@pytest.mark.parametrize(
    ("members", "code", "text", "message"),
    [
        ({}, "no_fields", "At least one field must be provided to update", None),
        ({"data": None}, "no_fields", "At least one field must be provided to update", None),
        ({"id": "x"}, "unknown_field", "unknown field: id", None),
        ({"persistent": True}, "unknown_field", "unknown field: persistent", None),
        ({"data": 1, "language": "go"}, "unknown_field", "unknown field: language", None),
        ({"metadata": 1}, "invalid_field", "metadata must be an object", None),
        (
            {"default_timeout": -1},
            "invalid_default_timeout",
            "invalid default_timeout",
            "default_timeout must be a positive number",
        ),
        (
            {"default_timeout": True},
            "invalid_default_timeout",
            "invalid default_timeout",
            "default_timeout must be a positive number",
        ),
        (
            {"default_timeout": 3601},
            "invalid_default_timeout",
            "invalid default_timeout",
            "default_timeout must be at most 3600 seconds",
        ),
    ],
)
def test_changes_refused(
    members: dict[str, Any], code: str, text: str, message: str | None
) -> None:
    with pytest.raises(EraError) as caught:
        parse.patch(members, BOUNDS)
    assert (caught.value.code, caught.value.text) == (code, text)
    assert caught.value.extra.get("message") == message


def test_a_null_timeout_unsets_it_and_what_is_not_named_stays() -> None:
    change = parse.patch({"default_timeout": None}, BOUNDS)
    assert change.default_timeout_seconds is None
    assert change.data is change.metadata is change.allow_internet is UNSET
    change = parse.patch({"data": 0, "allowPublicAccess": False}, BOUNDS)
    assert (change.data, change.allow_public) == ("0", False)
    assert change.default_timeout_seconds is UNSET


@pytest.mark.parametrize(
    ("members", "code", "text"),
    [
        ({"id": "a", "new_id": "b"}, "conflicting_fields", "id and new_id differ"),
        ({"session_id": "a", "new_id": "b"}, "conflicting_fields", "session_id and new_id differ"),
        (
            {"new_id": "a b"},
            "invalid_id",
            "new id must contain only letters, numbers, hyphens, and underscores",
        ),
        ({"include_files": 1}, "invalid_field", "include_files must be a boolean"),
    ],
)
def test_copies_refused(members: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(EraError) as caught:
        parse.copy(members, BOUNDS)
    assert (caught.value.code, caught.value.text) == (code, text)


def test_a_copy() -> None:
    assert parse.copy({}, BOUNDS) == parse.copy({"more": 1}, BOUNDS)
    copy = parse.copy({"id": "x", "new_id": "x", "data": [1], "include_files": False}, BOUNDS)
    assert (copy.id, copy.data, copy.include_files) == ("x", "[1]", False)


@pytest.mark.parametrize(
    ("members", "code", "text"),
    [
        ({}, "missing_field", "code field required"),
        ({"code": ""}, "missing_field", "code field required"),
        ({"code": []}, "invalid_field", "code must be a string"),
        ({"code": False}, "invalid_field", "code must be a string"),
        ({"code": "x", "description": 1}, "invalid_field", "description must be a string"),
        ({"code": "x" * 1048577}, "code_too_large", "code exceeds 1048576 bytes"),
    ],
)
def test_stored_code_refused(members: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(EraError) as caught:
        parse.stored_code(members, BOUNDS)
    assert (caught.value.code, caught.value.text) == (code, text)


@pytest.mark.parametrize(
    ("raw", "place", "hint"),
    [
        (b'{"a": }', "line 1 column 7", False),
        (b'{\n  "a": 1,\n  b: 2}', "line 3 column 3", False),
        (b'{"a": 1 // why\n}', "line 1 column 9", True),
        (b"# top\n{}", "line 1 column 1", True),
        (b'{"a": "http://x", }', "line 1 column", False),
        (b'{"a": NaN}', "line 1 column 7", False),
        (b'{"a": -Infinity}', "line 1 column 7", False),
        (b"\xff{}", "line 1 column 1", False),
        (b"[" * 100_000, "", False),
    ],
)
def test_text_that_is_not_json_says_where(raw: bytes, place: str, hint: bool) -> None:
    with pytest.raises(EraError) as caught:
        parse_json(raw)
    assert (caught.value.code, caught.value.text) == ("invalid_json", "invalid JSON body")
    assert place in caught.value.extra["message"]
    assert ("JSON has no comments" in caught.value.extra.get("hint", "")) is hint


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100])
def test_base64_files_keep_every_byte(size: int) -> None:
    content = bytes(range(256))[:size]
    encoded = {"content": base64.b64encode(content).decode(), "encoding": "base64"}
    assert execute(files={"f": encoded}).files == {"f": content}
