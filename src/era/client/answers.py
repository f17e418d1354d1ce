"""What the service answers, as frozen values.

Each has the answer itself as `raw`, exactly as it came, so that members which are newer than this SDK
are there too.  Members that the service left out are None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Self, TypeVar

import msgspec

from era.client.errors import AnswerError, ProgramFailedError, SetupFailedError

Raw = dict[str, Any]
SetupStatus = Literal["pending", "running", "completed", "failed"]

T = TypeVar("T")

_NAMES: Final[Mapping[str, str]] = {
    "allowInternetAccess": "allow_internet",
    "allowPublicAccess": "allow_public",
    "setup_progress": "progress",
    "setup_result": "result",
}
_NEVER: Final = ("", "0001-01-01T00:00:00Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes of a run used together; None where the server cannot measure it."""

    cpu_ms: int | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A file change of a run that was not kept, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a program ended, and what of it was kept.

    A program that fails is a result like any other; `check()` turns it into an error.
    """

    exit_code: int
    stdout: str = ""
    stderr: str = ""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    duration: str = "0s"
    execution_time_ms: int = 0
    timed_out: bool = False
    oom_killed: bool = False
    cancelled: bool = False
    signal: str | None = None
    usage: Usage = field(default_factory=Usage)
    isolation: str = ""
    run_id: str = ""
    queued_ms: int = 0
    language: str | None = None
    session_id: str | None = None
    vm_id: str | None = None
    data: Any = None
    data_error: str | None = None
    files_modified: tuple[str, ...] = ()
    files_deleted: tuple[str, ...] = ()
    files_skipped: tuple[SkippedFile, ...] = ()
    files_error: str | None = None
    setup_status: SetupStatus | None = None
    warnings: tuple[str, ...] = ()
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the program exited with 0."""
        return self.exit_code == 0

    def check(self) -> Self:
        """This result, if the program exited with 0.

        Raises:
            ProgramFailedError: it did not; its standard error stands below the traceback.
        """
        if not self.ok:
            raise ProgramFailedError(self)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a stream: output as it appears, and at the end `done` with the result."""

    kind: Literal["stdout", "stderr", "done"]
    text: str = ""
    result: Result | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupProgress:
    """How far a running setup is; steps count from 1."""

    step: str
    step_index: int
    steps_total: int
    started_at: datetime
    elapsed_ms: int = 0
    last_line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupInfo:
    """How a setup stands; `result` is there once it is finished."""

    setup_status: SetupStatus
    progress: SetupProgress | None = None
    result: Raw | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def finished(self) -> bool:
        """Whether it is over, well or not."""
        return self.setup_status in ("completed", "failed")

    def check(self) -> Self:
        """This setup, unless it failed.

        Raises:
            SetupFailedError: it did; what it printed stands below the traceback.
        """
        if self.setup_status == "failed":
            raise SetupFailedError(self)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A stored file; a file of a VM has neither times nor mode."""

    path: str
    size: int
    uploaded: datetime | None = None
    modified_at: datetime | None = None
    mode: str | None = None
    symlink: str | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """A session as it was last committed.  In lists `data` and `setup` are absent."""

    id: str
    language: str
    persistent: bool
    created_at: datetime
    updated_at: datetime
    last_run_at: datetime | None = None
    file_count: int = 0
    total_size_bytes: int = 0
    metadata: Raw = field(default_factory=dict)
    data: Any = None
    allow_internet: bool = False
    allow_public: bool = False
    default_timeout: float | None = None
    cpu_count: int | None = None
    memory_mib: int | None = None
    has_code: bool = False
    running: bool = False
    queued_runs: int = 0
    setup: Raw | None = None
    setup_status: SetupStatus | None = None
    progress: SetupProgress | None = None
    result: Raw | None = None
    source_session_id: str | None = None
    warnings: tuple[str, ...] = ()
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCode:
    """The default code of a session."""

    code: str
    code_length: int
    updated_at: datetime
    description: str = ""
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Where a server in a run of the session answers; `hint` says what keeps others out."""

    url: str
    base_url: str
    port: int
    public: bool
    hint: str | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmInfo:
    """A managed VM."""

    id: str
    language: str
    status: str
    cpu_count: int
    memory_mib: int
    network_mode: str
    persist: bool
    created_at: datetime
    rootfs_image: str | None = None
    last_run_at: datetime | None = None
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """The isolation tier of a server, and what that cannot enforce there."""

    tier: str
    unenforced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a server says of itself."""

    status: str
    version: str
    uptime_seconds: int
    isolation: Isolation
    languages: dict[str, str]
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


def decode(kind: type[T], answer: Raw) -> T:
    """The value that an answer holds.

    Raises:
        AnswerError: it does not hold one.
    """
    members = {_NAMES.get(name, name): value for name, value in answer.items()}
    if members.get("last_run_at") in _NEVER:
        members["last_run_at"] = None
    try:
        return msgspec.convert(members | {"raw": answer}, kind)
    except msgspec.ValidationError as error:
        raise AnswerError(f"the answer is not understood: {error}", status=200) from error
