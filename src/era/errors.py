"""The one tree of errors, their stable codes, and what the reader can do about them.

    EraError
    ├── InputError        the request is wrong: mend it; sending it again as it is will fail again
    ├── NotFoundError     the thing named does not exist (any more)
    ├── ConflictError     the state of the thing forbids it now
    ├── TooLargeError     a limit in bytes or entries
    ├── BusyError         try again after `retry_after_seconds`
    ├── UnavailableError  the service cannot do this here, or at this time
    └── InternalError     the service itself failed; nothing was committed

Each code belongs to exactly one class and one HTTP status (`CODES`).  A program that exits
with a failure is not an error: it is the result of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final


@dataclass(frozen=True, slots=True)
class Code:
    """One stable error code: its HTTP status, its exact text, and advice for the reader.

    `text` may hold `{placeholders}`; the raiser then gives the finished text itself.
    """

    name: str
    status: int
    text: str
    advice: str


def _table(*codes: Code) -> dict[str, Code]:
    return {code.name: code for code in codes}


CODES: Final[Mapping[str, Code]] = _table(
    Code("invalid_json", 400, "invalid JSON body", "Send a body that is valid JSON."),
    Code("invalid_body", 400, "request body must be a JSON object", "Send a JSON object: {...}."),
    Code("missing_field", 400, "{field} is required", "Add the field."),
    Code("invalid_field", 400, "{field} must be {expectation}", "Mend the field's value."),
    Code(
        "invalid_default_timeout",
        400,
        "invalid default_timeout",
        "Give a positive number of seconds up to the maximum.",
    ),
    Code(
        "timeout_too_large",
        400,
        "timeout exceeds the maximum of {seconds} seconds",
        "Ask for a shorter timeout, or raise ERA_MAX_TIMEOUT.",
    ),
    Code("unknown_field", 400, "unknown field: {name}", "Remove the field."),
    Code(
        "no_fields",
        400,
        "At least one field must be provided to update",
        "Name at least one field to change.",
    ),
    Code("conflicting_fields", 400, "{a} and {b} differ", "Give only one of the two."),
    Code(
        "invalid_id",
        400,
        "session_id must contain only letters, numbers, hyphens, and underscores",
        "Choose 1 to 128 of A-Z a-z 0-9 - _.",
    ),
    Code(
        "unsupported_language",
        400,
        "unsupported language: {value}",
        "Choose one of `supported`; `era doctor` lists what this server has.",
    ),
    Code(
        "no_code",
        400,
        "no code provided and no stored code found",
        "Use PUT /api/sessions/{id}/code to store default code",
    ),
    Code(
        "invalid_path",
        400,
        "invalid file path",
        "`details` says what is wrong; paths are relative to the workspace.",
    ),
    Code(
        "reserved_path",
        400,
        "reserved file path",
        "Use the session's `data` member for .session_data.json; names below .era/ are ours.",
    ),
    Code("port_required", 400, "port parameter required", "Add ?port=8000."),
    Code("invalid_port", 400, "invalid port number", "Choose a port from 1 to 65535."),
    Code("invalid_proxy_path", 400, "invalid proxy path", "Use /proxy/{session_id}/{port}/{path}."),
    Code("invalid_setup", 400, "invalid setup: {entry}", "Mend the entry named."),
    Code("field_not_supported", 400, "{field} is not supported", "Leave the field out."),
    Code("unauthorized", 401, "unauthorized", "Send `Authorization: Bearer <key>`."),
    Code(
        "public_access_disabled",
        403,
        "public access disabled for this session",
        'PATCH the session with {"allowPublicAccess": true}, or send the API key.',
    ),
    Code(
        "foreign_request",
        403,
        "the request does not come from a page of the dashboard",
        "Open the page anew, and send it from there.",
    ),
    Code("session_not_found", 404, "Session not found", "Create the session first."),
    Code("file_not_found", 404, "File not found", "List the files of the session."),
    Code("code_not_found", 404, "no code stored", "Use PUT /api/sessions/{id}/code to store code."),
    Code("vm_not_found", 404, "vm not found", "List the VMs with GET /api/vms."),
    Code("not_found", 404, "not found", "See the API reference for the paths there are."),
    Code("method_not_allowed", 405, "method not allowed", "Use a method named in `Allow`."),
    Code("session_exists", 409, "session id already exists", "Choose another id, or delete it."),
    Code(
        "session_deleted",
        409,
        "session was deleted during the run",
        "Nothing was kept; create the session again if it is needed.",
    ),
    Code(
        "setup_pending",
        409,
        "session setup is not finished",
        "Poll GET /api/sessions/{id}/setup until it is completed.",
    ),
    Code("vm_not_running", 409, "vm is not running", "Create a new VM."),
    Code(
        "body_too_large", 413, "request body exceeds {limit} bytes", "Send less, or upload files."
    ),
    Code("code_too_large", 413, "code exceeds {limit} bytes", "Put the bulk into session files."),
    Code("data_too_large", 413, "data exceeds {limit} bytes", "Keep bulk in session files."),
    Code("metadata_too_large", 413, "metadata exceeds {limit} bytes", "Store less metadata."),
    Code("file_too_large", 413, "file exceeds {limit} bytes", "Split the file."),
    Code("quota_exceeded", 413, "session files exceed {limit} bytes", "Delete files first."),
    Code(
        "session_queue_full",
        429,
        "too many queued runs for this session",
        "Wait for runs of the session to finish.",
    ),
    Code("server_busy", 429, "server is busy", "Try again after Retry-After seconds."),
    Code(
        "execution_failed",
        500,
        "Failed to execute code",
        "The service failed, not the program; the log has the request id.",
    ),
    Code("internal", 500, "internal error", "The log of the service has the request id."),
    Code("not_implemented", 501, "not implemented", "This part is reserved and not built yet."),
    Code("no_server", 502, "no server is listening on port {port}", "Start a server in a run."),
    Code("shutting_down", 503, "server is shutting down", "Try again shortly."),
    Code("session_busy", 503, "session is busy", "Try again after the run in progress."),
    Code(
        "isolation_unavailable",
        503,
        "no isolation tier available",
        "Run `era doctor` on the server; it names what is missing.",
    ),
    Code("relay_timeout", 504, "stored code timed out", "Raise the session's default_timeout."),
    Code("storage_full", 507, "storage is full", "Free disk space on the server; nothing changed."),
)
"""Every code of the service: the single source for status, text and advice."""


class EraError(Exception):
    """Root of every error the service raises on purpose.

    `code` is a key of `CODES`; `text` is the human-readable `error` member; `extra` holds further
    members of the answer (`message`, `hint`, `details`, `supported`, ...).
    """

    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        code: str | None = None,
        text: str | None = None,
        *,
        retry_after_seconds: int | None = None,
        **extra: Any,
    ) -> None:
        self.code: Final = code or self.default_code
        self.text: Final = text or CODES[self.code].text
        self.retry_after_seconds: Final = retry_after_seconds
        self.extra: Final[dict[str, Any]] = {k: v for k, v in extra.items() if v is not None}
        super().__init__(self.text)

    @property
    def status(self) -> int:
        """The HTTP status of this error."""
        return CODES[self.code].status

    def body(self) -> dict[str, Any]:
        """The JSON object sent to a client: `error`, `code`, then the further members."""
        return {"error": self.text, "code": self.code, **self.extra}


class InputError(EraError):
    """The request is wrong; sending it again unchanged fails again."""

    default_code = "invalid_field"


class NotFoundError(EraError):
    """The thing named does not exist."""

    default_code = "not_found"


class ConflictError(EraError):
    """The state of the thing forbids the request now."""

    default_code = "session_exists"


class TooLargeError(EraError):
    """A limit in bytes or entries was passed; `limit` is the bound in bytes where there is one."""

    default_code = "body_too_large"

    def __init__(self, code: str, limit: int, text: str | None = None, **extra: Any) -> None:
        super().__init__(code, text or CODES[code].text.format(limit=limit), **extra)
        self.limit: Final = limit


class BusyError(EraError):
    """Nothing was started; try again after `retry_after_seconds`."""

    default_code = "server_busy"

    def __init__(
        self, code: str, text: str | None = None, *, retry_after_seconds: int = 1, **extra: Any
    ) -> None:
        super().__init__(code, text, retry_after_seconds=retry_after_seconds, **extra)


class UnavailableError(EraError):
    """The service cannot do this on this host, or at this time."""

    default_code = "isolation_unavailable"


class InternalError(EraError):
    """The service itself failed; nothing was committed.  The text names no host path or secret."""

    default_code = "internal"


def missing_field(field: str) -> InputError:
    """`<field> is required`."""
    return InputError("missing_field", f"{field} is required")


def invalid_field(field: str, expectation: str, **extra: Any) -> InputError:
    """`<field> must be <expectation>`."""
    return InputError("invalid_field", f"{field} must be {expectation}", **extra)


def session_not_found() -> NotFoundError:
    """The 404 of an unknown session."""
    return NotFoundError("session_not_found")


def vm_not_found() -> NotFoundError:
    """The 404 of an unknown VM."""
    return NotFoundError("vm_not_found")


def file_not_found() -> NotFoundError:
    """The 404 of an unknown session file."""
    return NotFoundError("file_not_found")
