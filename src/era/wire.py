"""The service's answers as JSON: the objects of the API, and their bytes.

Optional members are absent when they have no value.  JSON that the service only carries (`data`,
`metadata`, a setup) is spliced in as the text it is, so no digit of a number is touched.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from era import jsontext
from era.durations import go_duration, rfc3339_seconds, rounded_ms, timestamp
from era.ids import vm_id_of
from era.models import (
    FileEntry,
    FileKind,
    JsonText,
    Page,
    RunResult,
    SessionRecord,
    SessionView,
    SetupProgress,
    SetupState,
    StoredCode,
    VmState,
)

Json = dict[str, Any]
"""A JSON object under construction; `msgspec.Raw` members are finished JSON text."""

MAX_FILES_LISTED: Final = 1000
"""Paths in each of `files_modified` and `files_deleted`."""
MAX_FILES_SKIPPED: Final = 100

_ENCODER: Final = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    """Compact JSON bytes of `value`, always valid: lone surrogates become `\\udXXX` escapes."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return _text(value).encode()


def raw(text: JsonText) -> msgspec.Raw:
    """JSON text as a member to splice in."""
    return msgspec.Raw(text.encode())


def _text(value: Any) -> str:
    """What `encode` writes, for values whose strings are not all valid Unicode."""
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(k)}:{_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return jsontext.dumps(value)


def number(value: float) -> int | float:
    """A number as people write it: 30 rather than 30.0."""
    return int(value) if value == int(value) else value


def session_object(view: SessionView, *, now_ms: int, full: bool = True) -> Json:
    """The session object, or without `full` its summary.  `now_ms` dates a setup's progress."""
    record = view.record
    out = _settings(record, full)
    if record.default_timeout_seconds is not None:
        out["default_timeout"] = number(record.default_timeout_seconds)
    if record.cpu_count is not None:
        out["cpu_count"] = record.cpu_count
    if record.memory_mib is not None:
        out["memory_mib"] = record.memory_mib
    out["has_code"] = record.has_code
    out["running"] = view.running
    out["queued_runs"] = view.queued_runs
    if record.setup is not None:
        if full:
            out["setup"] = raw(record.setup.request)
            out.update(setup_object(record.setup, now_ms=now_ms))
        else:
            out["setup_status"] = record.setup.status.value
    if record.source_id is not None:
        out["source_session_id"] = record.source_id
    if full and view.files is not None:
        out["files"] = [file_object(entry) for entry in view.files]
    return out


def _settings(record: SessionRecord, full: bool) -> Json:
    out: Json = {
        "id": record.id,
        "session_id": record.id,
        "created_at": timestamp(record.created_at_ms),
        "updated_at": timestamp(record.updated_at_ms),
        "last_run_at": timestamp(record.last_run_at_ms),
        "language": record.language,
        "persistent": record.persistent,
        "file_count": record.file_count,
        "total_size_bytes": record.total_size_bytes,
        "metadata": raw(record.metadata),
    }
    if full:
        out["data"] = raw(record.data)
    out["allowInternetAccess"] = record.allow_internet
    out["allowPublicAccess"] = record.allow_public
    return out


def setup_object(setup: SetupState, *, now_ms: int) -> Json:
    """`setup_status`, with `setup_progress` while it runs and `setup_result` once it is over."""
    out: Json = {"setup_status": setup.status.value}
    if setup.progress is not None and not setup.status.finished:
        out["setup_progress"] = _progress(setup.progress, now_ms)
    if setup.result is not None and setup.status.finished:
        out["setup_result"] = raw(setup.result)
    return out


def _progress(progress: SetupProgress, now_ms: int) -> Json:
    return {
        "step": progress.step,
        "step_index": progress.step_index,
        "steps_total": progress.steps_total,
        "started_at": timestamp(progress.started_at_ms),
        "elapsed_ms": max(0, now_ms - progress.started_at_ms),
        "last_line": progress.last_line,
    }


def file_object(entry: FileEntry) -> Json:
    """One entry of a file list."""
    out: Json = {
        "path": str(entry.path),
        "size": entry.size,
        "uploaded": timestamp(entry.uploaded_at_ms),
        "modified_at": timestamp(entry.mtime_ns // 1_000_000),
        "mode": f"{entry.mode:04o}",
    }
    if entry.kind is FileKind.LINK:
        out["symlink"] = entry.target
    return out


def page_object(name: str, items: list[Json], page: Page[Any]) -> Json:
    """A list answer: the items under `name`, then the counts, `next_cursor` when more follow."""
    out: Json = {name: items, "count": len(items), "total_count": page.total}
    if page.next_cursor is not None:
        out["next_cursor"] = page.next_cursor
    return out


def code_object(code: StoredCode) -> Json:
    """Stored code as GET shows it."""
    return {
        "code": code.code,
        "description": code.description,
        "updated_at": timestamp(code.updated_at_ms),
        "code_length": len(code.code),
    }


def run_object(result: RunResult, *, session: bool) -> Json:
    """The result of a run: of one in a session, or of a one-shot execution."""
    out = _outcome(result)
    if session:
        out.update(_commit(result))
    else:
        out["language"] = result.language
    if result.warnings:
        out["warnings"] = list(result.warnings)
    return out


def vm_object(record: SessionRecord) -> Json:
    """The record of a managed VM."""
    out = vm_info(record)
    out["status"] = "stopped" if _vm(record).stopped else "running"
    out["rootfs_image"] = _vm(record).image
    return out


def vm_info(record: SessionRecord) -> Json:
    """The record of a managed VM as the second family of paths shows it."""
    vm = _vm(record)
    return {
        "id": vm_id_of(record.id),
        "language": record.language,
        "status": "stopped" if vm.stopped else "ready",
        "cpu_count": record.cpu_count,
        "memory_mib": record.memory_mib,
        "network_mode": vm.network_mode,
        "persist": vm.persist,
        "created_at": rfc3339_seconds(record.created_at_ms),
        "last_run_at": rfc3339_seconds(record.last_run_at_ms),
    }


def _vm(record: SessionRecord) -> VmState:
    assert record.vm is not None
    return record.vm


def vm_run_object(result: RunResult) -> Json:
    """The result of a command in a VM; what of its files could not be kept, if anything."""
    out = _outcome(result)
    del out["session_id"]
    _unkept(out, result)
    if result.warnings:
        out["warnings"] = list(result.warnings)
    return out


def _unkept(out: Json, result: RunResult) -> None:
    if result.files_skipped:
        skipped = result.files_skipped[:MAX_FILES_SKIPPED]
        out["files_skipped"] = [{"path": str(s.path), "reason": s.reason} for s in skipped]
    if result.files_error is not None:
        out["files_error"] = result.files_error


def _outcome(result: RunResult) -> Json:
    out: Json = {
        "exit_code": result.exit_code,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "duration": go_duration(result.duration_ns),
        "execution_time_ms": rounded_ms(result.duration_ns),
        "timed_out": result.timed_out,
        "oom_killed": result.oom_killed,
        "signal": result.signal,
        "stdout_truncated": result.stdout_truncated,
        "stderr_truncated": result.stderr_truncated,
        "usage": {
            "cpu_ms": result.usage.cpu_ms,
            "peak_memory_bytes": result.usage.peak_memory_bytes,
        },
        "isolation": result.isolation,
        "session_id": result.session_id,
        "vm_id": result.vm_id,
        "run_id": result.run_id,
        "queued_ms": result.queued_ms,
    }
    if result.cancelled:
        out["cancelled"] = True
    return out


def _commit(result: RunResult) -> Json:
    out: Json = {}
    if result.data is not None:
        out["data"] = raw(result.data)
    if result.data_error is not None:
        out["data_error"] = result.data_error
    # msgspec takes no subclass of str such as RelPath.
    out["files_modified"] = [str(path) for path in result.files_modified[:MAX_FILES_LISTED]]
    out["files_deleted"] = [str(path) for path in result.files_deleted[:MAX_FILES_LISTED]]
    _unkept(out, result)
    if result.setup_status is not None:
        out["setup_status"] = result.setup_status.value
    return out
