"""What tools say: results of runs and of sessions as text."""

from __future__ import annotations

from typing import Any

from era import wire
from era.durations import go_duration
from era.errors import CODES, EraError, InternalError
from era.models import FileEntry, RunResult, SessionView


def run_text(result: RunResult) -> str:
    """How a program ended and what it wrote; empty blocks are left out."""
    blocks = [
        ("Stdout", result.stdout),
        ("Stderr", result.stderr),
        ("Duration", go_duration(result.duration_ns)),
        ("Note", "\n".join(_notes(result))),
    ]
    parts = [f"Exit Code: {result.exit_code}"]
    parts += [f"{name}:\n{text}" for name, text in blocks if text]
    return "\n\n".join(part.removesuffix("\n") for part in parts)


def _notes(result: RunResult) -> list[str]:
    """What an exit code does not tell by itself."""
    found = []
    if result.timed_out:
        found.append("the run was ended at its timeout")
    if result.oom_killed:
        found.append("the run was ended at its memory limit")
    if result.stdout_truncated or result.stderr_truncated:
        found.append("the output was cut at its limit")
    if result.files_error is not None:
        found.append(f"no file of this run was kept: {result.files_error}")
    if result.data_error is not None:
        found.append(f"the data of this run was not kept: {result.data_error}")
    return [*found, *result.warnings]


def session_text(view: SessionView, now_ms: int) -> str:
    """A session as JSON."""
    return json_text(wire.session_object(view, now_ms=now_ms))


def created_text(view: SessionView) -> str:
    """A session that was just created."""
    record = view.record
    lines = [
        "Session created successfully!",
        f"Session ID: {record.id}",
        f"Language: {record.language}",
    ]
    if record.setup is not None:
        lines.append(f"Setup: {record.setup.status.value}")
    return json_text(
        {
            "id": record.id,
            "session_id": record.id,
            "language": record.language,
            "persistent": record.persistent,
            "message": "\n".join(lines),
        }
    )


def files_text(entries: tuple[FileEntry, ...]) -> str:
    """Files of a session as JSON."""
    listed = [wire.file_object(entry) for entry in entries]
    return json_text({"files": listed, "count": len(listed)})


def json_text(value: Any) -> str:
    """Compact JSON."""
    return wire.encode(value).decode()


def error_text(error: EraError) -> str:
    """A refusal, and what to do about it."""
    if isinstance(error, InternalError):  # what failed inside is for the log
        error = EraError(error.code)
    parts = [f"Error: {error.text} ({error.code})"]
    parts += [str(error.extra[name]) for name in ("message", "details") if name in error.extra]
    parts.append(str(error.extra.get("hint") or CODES[error.code].advice))
    return "\n".join(dict.fromkeys(parts))
