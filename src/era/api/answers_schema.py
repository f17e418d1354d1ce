"""The shapes of the answers, for the OpenAPI document; the tests hold real answers to them.

Members that default to None are absent when they have no value.
"""

# ruff: noqa: N815 - these are wire names

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from era.api.answers_parts import Answer, Progress, SetupResult


class Error(BaseModel):
    """Every answer of 400 and above; some codes add members."""

    model_config = ConfigDict(strict=True, extra="allow")

    error: str
    code: str
    message: str | None = None
    details: Any = None
    hint: str | None = None


class Index(Answer):
    """GET /."""

    service: str
    version: str
    health: str


class HealthData(Answer):
    """The short form inside the health answer."""

    status: str
    service: str
    version: str


class Isolation(Answer):
    """The tier in use, and what it cannot enforce here."""

    tier: str
    unenforced: list[str]


class Health(HealthData):
    """GET /health."""

    time: str
    timestamp: str
    uptime_seconds: int
    isolation: Isolation
    in_progress: int
    """Runs, setups and what follows on them."""
    languages: dict[str, str]
    success: bool
    data: HealthData
    status_code: int
    checks: dict[str, str] | None = None
    error: str | None = None
    code: str | None = None


class Usage(Answer):
    """What the process tree used; null where it cannot be measured."""

    cpu_ms: int | None
    peak_memory_bytes: int | None


class Outcome(Answer):
    """What every run answers."""

    exit_code: int
    stdout: str
    stderr: str
    duration: str
    execution_time_ms: int
    timed_out: bool
    oom_killed: bool
    signal: str | None
    stdout_truncated: bool
    stderr_truncated: bool
    usage: Usage
    isolation: str
    vm_id: str
    run_id: str
    queued_ms: int
    cancelled: bool | None = None
    warnings: list[str] | None = None


class ExecuteResult(Outcome):
    """POST /api/execute."""

    session_id: None
    language: str


class Cancelled(Answer):
    """POST /api/sessions/{id}/cancel."""

    cancelled: bool
    run_id: str | None = None


class Skipped(Answer):
    """A change of a run that was not kept."""

    path: str
    reason: str


class RunResult(Outcome):
    """POST /api/sessions/{id}/run."""

    session_id: str
    data: Any
    data_error: str | None = None
    files_modified: list[str]
    files_deleted: list[str]
    files_skipped: list[Skipped] | None = None
    files_error: str | None = None
    setup_status: str | None = None


class Setup(Answer):
    """GET /api/sessions/{id}/setup."""

    setup_status: Literal["pending", "running", "completed", "failed"]
    setup_progress: Progress | None = None
    setup_result: SetupResult | None = None


class File(Answer):
    """One entry of a file list."""

    path: str
    size: int
    uploaded: str
    modified_at: str
    mode: str
    symlink: str | None = None


class Summary(Answer):
    """A session in the list."""

    id: str
    session_id: str
    created_at: str
    updated_at: str
    last_run_at: str
    language: str
    persistent: bool
    file_count: int
    total_size_bytes: int
    metadata: dict[str, Any]
    allowInternetAccess: bool
    allowPublicAccess: bool
    default_timeout: float | None = None
    cpu_count: int | None = None
    memory_mib: int | None = None
    has_code: bool
    running: bool
    queued_runs: int
    setup_status: Literal["pending", "running", "completed", "failed"] | None = None
    source_session_id: str | None = None


class Session(Summary):
    """A session; `warnings` only after creating it."""

    data: Any
    setup: dict[str, Any] | None = None
    setup_progress: Progress | None = None
    setup_result: SetupResult | None = None
    files: list[File] | None = None
    warnings: list[str] | None = None


class SessionList(Answer):
    """GET /api/sessions."""

    sessions: list[Summary]
    count: int
    total_count: int
    next_cursor: str | None = None


class Patched(Answer):
    """PATCH /api/sessions/{id}; `metadata` is the whole session."""

    success: bool
    id: str
    session_id: str
    metadata: Session
    updated_at: str


class DeletedSession(Answer):
    """DELETE /api/sessions/{id}."""

    deleted: str
    success: bool
    id: str
    session_id: str
    deleted_at: str


class DeletedSessions(Answer):
    """DELETE /api/sessions."""

    success: bool
    deleted_count: int
    deleted_sessions: list[str]
    deleted_at: str


class Host(Answer):
    """GET /api/sessions/{id}/host."""

    url: str
    base_url: str
    session_id: str
    port: int
    public: bool
    hint: str | None = None


class StoredCodeReceipt(Answer):
    """PUT /api/sessions/{id}/code."""

    success: bool
    session_id: str
    code_length: int
    updated_at: str


class StoredCode(Answer):
    """GET /api/sessions/{id}/code."""

    code: str
    description: str
    updated_at: str
    code_length: int


class Deleted(Answer):
    """What was deleted."""

    deleted: str


class FileList(Answer):
    """GET /api/sessions/{id}/files."""

    files: list[File]
    count: int
    total_count: int
    total_size_bytes: int
    next_cursor: str | None = None


class StoredFile(Answer):
    """PUT /api/sessions/{id}/files/{path}."""

    path: str
    size: int


class VmRunResult(Outcome):
    """POST /api/vm/{id}/run; `files_skipped` and `files_error` say what of its files is not kept."""

    files_skipped: list[Skipped] | None = None
    files_error: str | None = None


class VmInfo(Answer):
    """A VM as the second family of paths shows it; `status` is `ready` or `stopped`."""

    id: str
    language: str
    status: Literal["ready", "running", "stopped"]
    cpu_count: int
    memory_mib: int
    network_mode: str
    persist: bool
    created_at: str
    last_run_at: str
    warnings: list[str] | None = None


class Vm(VmInfo):
    """A VM; `status` is `running` or `stopped`."""

    rootfs_image: str


class VmList(Answer):
    """GET /api/vms."""

    vms: list[Vm]
    count: int
    total_count: int
    next_cursor: str | None = None


class VmDone(Answer):
    """What was done to a VM."""

    status: Literal["stopped", "deleted"]
    vm_id: str
    message: str


class VmFile(Answer):
    """One file of a VM's workspace."""

    path: str
    size: int
    is_dir: Literal[False]


class VmFileList(Answer):
    """GET /api/vm/{id}/files."""

    files: list[VmFile]
    count: int
    total_count: int
    next_cursor: str | None = None


class Envelope(Answer):
    """The answers of the second family of paths of VMs."""

    success: Literal[True]
    status_code: int


class EnvelopedError(Error):
    """Every answer of 400 and above of the second family of paths of VMs."""

    success: Literal[False]
    status_code: int


class VmCreated(Envelope):
    """POST /api/vm/create."""

    data: VmInfo


class VmExecuted(Envelope):
    """POST /api/vm/execute and /api/vm/temp."""

    data: VmRunResult


class VmsListed(Envelope):
    """GET /api/vm/list."""

    data: list[VmInfo]


class VmSaid(Answer):
    """What was done to one VM, or to how many."""

    vm_id: str | None = None
    message: str | None = None
    stopped: int | None = None
    cleaned: int | None = None


class VmsStopped(Envelope):
    """POST /api/vm/stop."""

    data: VmSaid


class VmsCleaned(Envelope):
    """POST /api/vm/clean."""

    data: VmSaid
