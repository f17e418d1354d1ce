"""The answers as JSON: what is optional is absent, what is carried keeps every digit."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from era import jsontext, wire
from era.models import (
    FileEntry,
    FileKind,
    RunResult,
    SessionRecord,
    SessionView,
    SetupProgress,
    SetupState,
    SetupStatus,
    SkippedFile,
    Usage,
)
from era.relpath import RelPath

RECORD = SessionRecord(
    uid=1,
    id="s",
    language="python",
    persistent=True,
    created_at_ms=1761254666901,
    updated_at_ms=1761254666902,
    last_run_at_ms=None,
    metadata='{"n":12345678901234567890123}',
    data='{"pi":3.14,"u":"\\ud800"}',
    data_revision=0,
    allow_internet=False,
    allow_public=True,
    default_timeout_seconds=None,
    cpu_count=None,
    memory_mib=None,
    has_code=False,
    file_count=2,
    total_size_bytes=10,
    files_revision=3,
)
RESULT = RunResult(
    run_id="run_1_x",
    vm_id="python-1",
    language="python",
    isolation="namespaces",
    exit_code=0,
    stdout="hé\n",
    stderr="",
    duration_ns=15_315_250,
    usage=Usage(cpu_ms=12, peak_memory_bytes=None),
)


def text(value: Any) -> str:
    return wire.encode(value).decode()


def session(**changes: Any) -> dict[str, Any]:
    view = SessionView(record=replace(RECORD, **changes))
    return dict(json.loads(text(wire.session_object(view, now_ms=0))))


def test_a_session_has_exactly_the_members_of_the_contract() -> None:
    assert text(wire.session_object(SessionView(record=RECORD), now_ms=0)) == (
        '{"id":"s","session_id":"s","created_at":"2025-10-23T21:24:26.901Z",'
        '"updated_at":"2025-10-23T21:24:26.902Z","last_run_at":"","language":"python",'
        '"persistent":true,"file_count":2,"total_size_bytes":10,'
        '"metadata":{"n":12345678901234567890123},"data":{"pi":3.14,"u":"\\ud800"},'
        '"allowInternetAccess":false,"allowPublicAccess":true,"has_code":false,'
        '"running":false,"queued_runs":0}'
    )


def test_optional_members_come_when_they_have_a_value() -> None:
    full = session(default_timeout_seconds=30.0, cpu_count=2, memory_mib=512, source_id="src")
    assert full["default_timeout"] == 30
    assert '"default_timeout":30,' in text(
        wire.session_object(
            SessionView(record=replace(RECORD, default_timeout_seconds=30.0)), now_ms=0
        )
    )
    assert (full["cpu_count"], full["memory_mib"], full["source_session_id"]) == (2, 512, "src")


def test_a_summary_leaves_out_what_can_be_large() -> None:
    setup = SetupState(request='{"pip":["x"]}', status=SetupStatus.COMPLETED, result="{}")
    view = SessionView(record=replace(RECORD, setup=setup), files=())
    full = wire.session_object(view, now_ms=0)
    summary = wire.session_object(view, now_ms=0, full=False)
    assert set(full) - set(summary) == {"data", "setup", "setup_result", "files"}
    assert summary["setup_status"] == "completed"


PROGRESS = SetupProgress(step="pip", step_index=1, steps_total=2, started_at_ms=1000)


@pytest.mark.parametrize(
    ("status", "present"),
    [
        (SetupStatus.PENDING, set()),
        (SetupStatus.RUNNING, {"setup_progress"}),
        (SetupStatus.COMPLETED, {"setup_result"}),
        (SetupStatus.FAILED, {"setup_result"}),
    ],
)
def test_progress_while_a_setup_runs_and_its_result_afterwards(
    status: SetupStatus, present: set[str]
) -> None:
    running = status is SetupStatus.RUNNING
    setup = SetupState(
        request="{}",
        status=status,
        progress=PROGRESS if running else None,
        result='{"success":true}' if status.finished else None,
    )
    shown = json.loads(text(wire.setup_object(setup, now_ms=3500)))
    assert set(shown) == {"setup_status"} | present
    if running:
        assert shown["setup_progress"]["elapsed_ms"] == 2500
        assert shown["setup_progress"]["started_at"] == "1970-01-01T00:00:01.000Z"


def test_an_execution_names_its_language_and_no_session() -> None:
    assert text(wire.run_object(RESULT, session=False)) == (
        '{"exit_code":0,"stdout":"hé\\n","stderr":"","duration":"15.31525ms",'
        '"execution_time_ms":15,"timed_out":false,"oom_killed":false,"signal":null,'
        '"stdout_truncated":false,"stderr_truncated":false,'
        '"usage":{"cpu_ms":12,"peak_memory_bytes":null},"isolation":"namespaces",'
        '"session_id":null,"vm_id":"python-1","run_id":"run_1_x","queued_ms":0,'
        '"language":"python"}'
    )


def test_a_run_shows_what_was_committed() -> None:
    result = replace(
        RESULT,
        session_id="s",
        data='{"count":5}',
        files_modified=("data.txt",),
        files_skipped=(SkippedFile(path=".env", reason="secret_name"),),
        cancelled=True,
        setup_status=SetupStatus.FAILED,
        warnings=("w",),
    )
    shown = json.loads(text(wire.run_object(result, session=True)))
    assert "language" not in shown
    assert shown["data"] == {"count": 5}
    assert shown["files_modified"] == ["data.txt"]
    assert shown["files_deleted"] == []
    assert shown["files_skipped"] == [{"path": ".env", "reason": "secret_name"}]
    assert (shown["cancelled"], shown["setup_status"], shown["warnings"]) == (True, "failed", ["w"])


def test_long_lists_of_paths_are_cut() -> None:
    many = tuple(f"f{n}" for n in range(1500))
    skipped = tuple(SkippedFile(path=path, reason="bad_name") for path in many)
    result = replace(RESULT, files_modified=many, files_deleted=many, files_skipped=skipped)
    shown = wire.run_object(result, session=True)
    lengths = [len(shown[k]) for k in ("files_modified", "files_deleted", "files_skipped")]
    assert lengths == [1000, 1000, 100]


def test_a_link_shows_where_it_leads() -> None:
    entry = FileEntry(
        path=RelPath("a/l"), kind=FileKind.LINK, target="b", size=3, mode=0o7, mtime_ns=10**9 + 1
    )
    assert wire.file_object(entry) == {
        "path": "a/l",
        "size": 3,
        "uploaded": "1970-01-01T00:00:00.000Z",
        "modified_at": "1970-01-01T00:00:01.000Z",
        "mode": "0007",
        "symlink": "b",
    }


anything = st.text(st.characters(exclude_categories=()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | anything,
    lambda inner: st.lists(inner) | st.dictionaries(anything, inner),
    max_leaves=20,
)


@given(values)
def test_any_value_is_valid_json_text(value: Any) -> None:
    spliced = wire.encode({"plain": value, "raw": wire.raw(jsontext.dumps(value))})
    read = json.loads(spliced.decode())
    assert read["plain"] == read["raw"] == json.loads(json.dumps(value))


def test_lone_surrogates_are_escaped_everywhere() -> None:
    value = {"k\udcff": ["\ud800", msgspec.Raw(b"[1]")], "n": 1}
    assert text(value) == '{"k\\udcff":["\\ud800",[1]],"n":1}'


def test_numbers_beyond_a_double_survive_in_carried_json() -> None:
    huge = jsontext.dumps({"n": Decimal("1" * 700)})
    assert "1" * 700 in text({"data": wire.raw(huge)})
