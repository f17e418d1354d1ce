"""The values that cross rooms: frozen, typed, without behaviour that touches the world.

Times are whole milliseconds since the epoch, named `..._at_ms`; sizes are bytes.  JSON that the
service only carries (`data`, `metadata`) travels as compact JSON text, so numbers keep every digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, TypeVar

from era.relpath import RelPath

JsonText = str
"""Compact JSON text, valid on its own."""


class Network(StrEnum):
    """What a box may reach outside itself."""

    OFFLINE = "offline"
    REGISTRIES = "registries"
    INTERNET = "internet"


VM_NETWORKS: Final[Mapping[str, Network]] = {
    "none": Network.OFFLINE,
    "bridge": Network.INTERNET,
    "host": Network.INTERNET,
    "allow_all": Network.INTERNET,
    "full": Network.INTERNET,
}
"""What each `network_mode` of a managed VM means; none is the host's own network."""


class SetupStatus(StrEnum):
    """Where a setup stands; it moves forwards only, except to `pending` on resume and retry."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (SetupStatus.COMPLETED, SetupStatus.FAILED)


class FileKind(StrEnum):
    """What a stored workspace entry is."""

    FILE = "file"
    LINK = "link"
    DIR = "dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One entry of a session's manifest.

    A FILE has `blob` (SHA-256, 64 hex digits) and `size`; a LINK has `target` (inside the
    workspace, as the program wrote it); a DIR has neither.  `mode` is masked with 0o777.
    """

    path: RelPath
    kind: FileKind = FileKind.FILE
    blob: str | None = None
    size: int = 0
    mode: int = 0o644
    mtime_ns: int = 0
    target: str | None = None
    content_type: str | None = None
    uploaded_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A change of a run that was not kept, and why (`secret_name`, `special_file`, ...)."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a run did to the workspace, relative to the snapshot it started from.

    `removed` holds paths; each stands for the entry itself and everything below it *as of the
    snapshot*.  It is applied before `written`, so a directory that was replaced is in both.
    """

    written: tuple[FileEntry, ...] = ()
    removed: tuple[RelPath, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupProgress:
    """How far a running setup is."""

    step: str
    step_index: int
    steps_total: int
    started_at_ms: int
    last_line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupState:
    """A session's setup as stored.

    `request` is the setup as asked, `envs` values replaced by `***`; `result` is the finished
    `setup_result` object; both compact JSON.  `layer` is the key of the layer that runs see.
    """

    request: JsonText
    status: SetupStatus
    attempts: int = 0
    progress: SetupProgress | None = None
    result: JsonText | None = None
    layer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmState:
    """What a managed VM has besides what every stored workspace has.  `network_mode` is a key of
    VM_NETWORKS; `persist` lets the operator keep the workspace when the VM is deleted."""

    network_mode: str
    persist: bool
    image: str
    stopped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session as stored; or, with `vm`, a managed VM, whose `id` is an `ids.vm_key` then.

    The manifest of a session is its workspace.  That of a VM holds workspace, HOME and /tmp under
    their paths in the box, without the slash in front.

    `uid` is the store's own identity: a session deleted and created again under the same id has
    another one.  `files_revision` counts changes of the manifest, whoever made them.
    """

    uid: int
    id: str
    language: str
    persistent: bool
    created_at_ms: int
    updated_at_ms: int
    last_run_at_ms: int | None
    metadata: JsonText
    data: JsonText
    data_revision: int
    allow_internet: bool
    allow_public: bool
    default_timeout_seconds: float | None
    cpu_count: int | None
    memory_mib: int | None
    has_code: bool
    file_count: int
    total_size_bytes: int
    files_revision: int
    source_id: str | None = None
    setup: SetupState | None = None
    vm: VmState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCode:
    """Default code of a session."""

    code: str
    description: str
    updated_at_ms: int


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list: `total` matches in all, `next_cursor` when more follow."""

    items: tuple[T, ...]
    total: int
    next_cursor: str | None = None
    total_size_bytes: int = 0


# --- what a client asks for -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupSpec:
    """A checked setup request.  An empty tuple or None means the step is not there.

    `pip` and `npm` are package specifiers, `go` is `module[@version]`; the text forms are a
    requirements file, a package.json and a go.mod.
    """

    pip: tuple[str, ...] = ()
    requirements: str | None = None
    npm: tuple[str, ...] = ()
    package_json: str | None = None
    go: tuple[str, ...] = ()
    go_mod: str | None = None
    commands: tuple[str, ...] = ()
    envs: Mapping[str, str] = field(default_factory=dict)
    request: JsonText = "{}"
    """The request as the client wrote it, `envs` values replaced by `***`."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.pip
            or self.requirements
            or self.npm
            or self.package_json
            or self.go
            or self.go_mod
            or self.commands
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A checked request to create a session; None means the server's default."""

    id: str | None
    language: str
    persistent: bool = True
    metadata: JsonText = "{}"
    data: JsonText = "{}"
    setup: SetupSpec | None = None
    allow_internet: bool | None = None
    allow_public: bool = False
    default_timeout_seconds: float | None = None
    cpu_count: int | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVm:
    """A checked request to create a managed VM."""

    language: str
    cpu_count: int = 1
    memory_mib: int = 256
    network_mode: str = "none"
    persist: bool = False
    image: str = ""

    @property
    def reaches_internet(self) -> bool:
        """Whether its boxes may reach public addresses."""
        return VM_NETWORKS[self.network_mode] is Network.INTERNET


class Unset:
    """The type of `UNSET`: a member the client did not name, where None means something else."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPatch:
    """A checked PATCH: only the members that are not UNSET change."""

    default_timeout_seconds: float | Unset | None = UNSET
    allow_internet: bool | Unset = UNSET
    allow_public: bool | Unset = UNSET
    metadata: JsonText | Unset = UNSET
    data: JsonText | Unset = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCopy:
    """A checked request to duplicate a session; None means "as the source"."""

    id: str | None = None
    data: JsonText | None = None
    include_files: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request that stored code is to answer.  `path` begins with `/` and is percent-encoded as it
    came; `query` begins with `?` or is empty; names of headers are lower-case."""

    method: str
    path: str = "/"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A checked request to run code, in a session or without one.

    Exactly one of `code` and `command` is given, or neither (a session's stored code).
    `timeout_seconds` None means the defaults in their order.  `files` (path to bytes),
    `language`, `allow_internet` and the limits are used by one-shot execution only.
    """

    code: str | None = None
    command: str | None = None
    language: str | None = None
    timeout_seconds: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    args: tuple[str, ...] = ()
    files: Mapping[RelPath, bytes] = field(default_factory=dict)
    update_data: JsonText | None = None
    wait_for_setup: bool = True
    cancel_on_disconnect: bool = False
    allow_internet: bool | None = None
    cpu_count: int | None = None
    memory_mib: int | None = None
    base_url: str = ""
    """`<base>` of this request, for ERA_BASE_URL and ERA_PROXY_URL."""
    http: HttpRequest | None = None
    """The request that the run answers; its code is the stored one."""
    turn_seconds: float | None = None
    """How long it may wait until it begins; None: as long as it takes."""
    warnings: tuple[str, ...] = ()
    """Ignored fields, carried into the result."""


# --- what a client gets -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the whole process tree of a run used; None where the host cannot measure it."""

    cpu_ms: int | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The result of a run: the program's outcome, then what was committed."""

    run_id: str
    vm_id: str
    language: str
    isolation: str
    exit_code: int
    stdout: str
    stderr: str
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    duration_ns: int = 0
    timed_out: bool = False
    oom_killed: bool = False
    cancelled: bool = False
    signal: str | None = None
    usage: Usage = Usage()
    queued_ms: int = 0
    warnings: tuple[str, ...] = ()
    session_id: str | None = None
    data: JsonText | None = None
    data_error: str | None = None
    files_modified: tuple[str, ...] = ()
    files_deleted: tuple[str, ...] = ()
    files_skipped: tuple[SkippedFile, ...] = ()
    files_error: str | None = None
    setup_status: SetupStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as a client sees it: the committed record and what is going on right now."""

    record: SessionRecord
    running: bool = False
    queued_runs: int = 0
    files: tuple[FileEntry, ...] | None = None
