"""The promises of the stores.

`Records` keeps sessions, their manifests, code and setups; `Blobs` keeps bytes by their hash.
Neither knows of boxes or HTTP.  Every method is atomic: it happened whole, or not at all, also
when the process is killed in the middle.  Every keeper passes `tests/contracts`.

How manifests are kept: each entry belongs to a revision interval `[since, until)` of its session.
A change closes the old entry and adds a new one, so a commit writes what changed, and an earlier
revision can still be read until `prune_history` drops it.  A copy shares the entries of one revision
with its source and writes none; what either changes afterwards is its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from era.models import (
    Changes,
    FileEntry,
    JsonText,
    NewSession,
    NewVm,
    Page,
    SessionPatch,
    SessionRecord,
    SetupProgress,
    SetupState,
    SetupStatus,
    StoredCode,
)
from era.relpath import RelPath


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Bounds of one session's files; 0 means none."""

    total_bytes: int
    count: int

    @property
    def text(self) -> str:
        """The bounds, for who has passed one of them."""
        bounds = [f"{self.total_bytes} bytes"] if self.total_bytes else []
        bounds += [f"{self.count} files"] if self.count else []
        return f"the files of a session may be at most {' and '.join(bounds)}; no change was kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommit:
    """What one run makes visible, all in one step.

    `snapshot_revision` is the `files_revision` the run started from: a removal touches only what
    was there then.  `data` is None when the run left it alone.
    """

    uid: int
    snapshot_revision: int
    finished_at_ms: int
    data: JsonText | None = None
    changes: Changes = Changes()
    epoch: int | None = None
    """That of the session's lease, under which the run began; None where no other node is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The outcome of a commit: the session afterwards, the paths really changed (sorted), and
    `files_error` (`quota_exceeded`) when no file change was kept."""

    session: SessionRecord
    modified: tuple[RelPath, ...] = ()
    deleted: tuple[RelPath, ...] = ()
    files_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestDiff:
    """How to turn a tree at one revision into the tree at `revision`: remove, then write.

    `removed` holds exact paths, deepest first: entries that are gone or of another kind now, and
    directories, stored or implied, that no longer are.  `written` is in path order, so that a
    directory comes before what is in it; it also makes the directories above each entry.
    """

    revision: int
    removed: tuple[RelPath, ...]
    written: tuple[FileEntry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupJob:
    """A claimed setup.  `spec` is its full specification as JSON, secrets still sealed."""

    uid: int
    session_id: str
    language: str
    spec: JsonText
    attempts: int
    epoch: int = 0
    """Tells this claim from every other one of the same setup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """A stored setup layer: `blob` is its archive."""

    key: str
    blob: str
    size: int
    created_at_ms: int
    result: JsonText
    """The `setup_result` of the setup that made it."""


class Records(Protocol):
    """Sessions and everything about them except the bytes of files.

    A `uid` that is gone raises NotFoundError `session_not_found` everywhere.
    Any method may raise UnavailableError `storage_full`; nothing changed then.
    """

    async def close(self) -> None:
        """Finish what is under way and let go of the store."""

    async def check(self) -> None:
        """Return when the store can be written; raise InternalError when not.  Cheap."""

    # -- sessions --

    async def create(
        self, session_id: str, new: NewSession, now_ms: int, setup_spec: JsonText | None
    ) -> SessionRecord:
        """Create a session.  `new.setup` decides the setup's state: None, an empty one (completed at
        once, with the result object `{"success":true,"duration_ms":0,"cached":false}`), or pending
        with `setup_spec` as its sealed specification.  `new.allow_internet` is never None here.

        Raises:
            ConflictError: `session_exists`, with `id`.  Of simultaneous creates exactly one wins.
        """

    async def get(self, session_id: str) -> SessionRecord:
        """The committed state.

        Raises:
            NotFoundError: `session_not_found`.
        """

    async def list(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        """Oldest first.  A session that exists for the whole walk comes exactly once.

        Raises:
            InputError: `invalid_field` for a cursor that this store did not give.
        """

    async def existing(self, uids: Sequence[int]) -> frozenset[int]:
        """Those of `uids` whose sessions are there."""

    async def patch(self, session_id: str, patch: SessionPatch, now_ms: int) -> SessionRecord:
        """Change settings; raises NotFoundError."""

    async def delete(self, session_id: str) -> SessionRecord:
        """Remove the session with its manifest, code and setup; the last record is returned.
        The id is free when this returns.  Raises NotFoundError."""

    async def delete_all(self, prefix: str = "") -> tuple[SessionRecord, ...]:
        """Remove every session that exists now and whose id begins with `prefix`, in one step."""

    async def duplicate(
        self,
        source_id: str,
        copy_id: str,
        now_ms: int,
        *,
        data: JsonText | None,
        include_files: bool | None,
    ) -> SessionRecord:
        """Copy one committed state of `source_id`: settings, data, code, manifest (`include_files`
        None: when the source is persistent), setup with its layer.  A setup that is unfinished is
        pending in the copy, with no attempts.  Writes no blob.

        Raises:
            NotFoundError: `session_not_found` for the source.
            ConflictError: `session_exists`, with `id`.
        """

    # -- managed VMs --

    async def create_vm(self, vm_id: str, new: NewVm, now_ms: int, most: int) -> SessionRecord:
        """Create a managed VM, running and empty.  Its record is kept under `ids.vm_key(vm_id)`, and
        every method that takes a session's id takes that: `get`, `delete`, files, commits, leases.
        Lists of sessions, and what is done to all of them, pass VMs over.

        Raises:
            BusyError: `server_busy`, when there are `most` already.
            ConflictError: `session_exists`.
        """

    async def vms(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        """The managed VMs, oldest first.

        Raises:
            InputError: `invalid_field` for a cursor that this store did not give.
        """

    async def change_vm(
        self,
        vm_id: str,
        now_ms: int,
        *,
        network_mode: str | None = None,
        stopped: bool | None = None,
    ) -> SessionRecord:
        """Change what is not None; raises NotFoundError `session_not_found`."""

    # -- files --

    async def files(
        self,
        session_id: str,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[FileEntry]:
        """Files and links by path (byte order); directories are not in it.  `total` and
        `total_size_bytes` are of all that match `prefix`.  A link's `size` is that of the file it
        leads to inside the workspace, 0 when it leads nowhere."""

    async def file(self, session_id: str, path: RelPath) -> FileEntry:
        """The entry at `path` (any kind).

        Raises:
            NotFoundError: `session_not_found` or `file_not_found`.
        """

    async def put_file(
        self, session_id: str, entry: FileEntry, quota: Quota, now_ms: int
    ) -> FileEntry:
        """Store an uploaded file, replacing the whole entry at its path (a link is replaced, never
        followed).  An existing file's mode is kept; else the entry's is used.

        Raises:
            InputError: `invalid_path` when a parent is a file or link, or the target a directory
                (a directory is one that is stored or implied by a path below it).
            TooLargeError: `quota_exceeded`.
            NotFoundError: `session_not_found`.
        """

    async def delete_file(
        self, session_id: str, path: RelPath, *, recursive: bool, now_ms: int
    ) -> None:
        """Remove one file or link, or with `recursive` a directory and all below.

        Raises:
            NotFoundError: `session_not_found`, `file_not_found`.
            InputError: `invalid_path` for a directory without `recursive`.
        """

    async def manifest_diff(self, uid: int, since: int) -> ManifestDiff | None:
        """What changed in the manifest after revision `since`; None when history no longer reaches
        back that far.  `since` 0 is the empty tree and always works."""

    async def commit_run(self, commit: RunCommit, quota: Quota) -> Committed:
        """Make a run's effects visible in one step: data, file changes, `last_run_at`, counts.

        Only the paths the run touched change; what others changed meanwhile stays.  Written
        directories replace no file of another writer silently: the commit is the later write and
        wins, removing what stands in its way (an entry at a parent path that is no directory).
        Unchanged writes (same kind, bytes, mode, target) are not reported as modified.
        Over quota: no file change is kept, the rest is, and `files_error` says so.

        Raises:
            NotFoundError: `session_not_found` when this uid was deleted meanwhile; nothing is kept.
            InternalError: `execution_failed` when the lease has another epoch; nothing is kept.
        """

    async def prune_history(self, keep: Callable[[int], int]) -> int:
        """Forget closed manifest entries that ended at or before revision `keep(uid)`; how many.
        What copies share stays as long as they have it, also when its session is gone."""

    # -- stored code --

    async def put_code(
        self, session_id: str, code: str, description: str | None, now_ms: int
    ) -> StoredCode:
        """Store default code; `description` None keeps the old one.  Raises NotFoundError."""

    async def code(self, session_id: str) -> StoredCode:
        """Raises NotFoundError: `session_not_found` or `code_not_found`."""

    async def delete_code(self, session_id: str, now_ms: int) -> None:
        """Raises NotFoundError: `session_not_found` or `code_not_found`."""

    # -- setups and layers --

    async def claim_setup(
        self, owner: str = "", ttl_seconds: float | None = None
    ) -> SetupJob | None:
        """Take the oldest pending setup: it is `running` afterwards and its attempts count one more.
        It is the node `owner`'s for `ttl_seconds`, and longer when renewed; None: for ever."""

    async def renew_setups(
        self, owner: str, uids: Sequence[int], ttl_seconds: float
    ) -> frozenset[int]:
        """Keep these running setups for that long from now; those that are `owner`'s still."""

    async def reset_running_setups(
        self, max_attempts: int, result: JsonText, owner: str | None = ""
    ) -> int:
        """Running setups whose time is over, and those of all nodes whose names begin with `owner`
        (not None), become pending again, or failed with `result` after `max_attempts` attempts.
        How many are pending again."""

    async def setup_progress(self, uid: int, progress: SetupProgress) -> None:
        """Record progress of a running setup; does nothing when it is not running."""

    async def finish_setup(
        self,
        uid: int,
        status: SetupStatus,
        result: JsonText,
        layer: str | None,
        epoch: int | None = None,
    ) -> SetupState:
        """End a setup and erase its sealed specification.  `layer` None keeps the old layer.

        Raises:
            ConflictError: `setup_pending`, with an `epoch`, when its claim is no longer that one;
                nothing changes.
            NotFoundError: `not_found`, with an `epoch`, when the layer is gone; nothing changes.
        """

    async def restart_setup(
        self, session_id: str, request: JsonText, spec: JsonText, now_ms: int
    ) -> SessionRecord:
        """Make a finished (or missing) setup pending again with a new specification.

        Raises:
            ConflictError: `setup_pending` while one is unfinished, with `setup_status`.
        """

    async def layer(self, key: str) -> LayerRecord | None:
        """A stored layer by its key."""

    async def put_layer(self, layer: LayerRecord) -> LayerRecord:
        """Store a layer; if the key is there already, the stored one stays and is returned."""

    async def layer_keys(self, *, used: bool) -> frozenset[str]:
        """Keys of the layers, or only of those that a session refers to."""

    async def delete_layer(self, key: str) -> LayerRecord | None:
        """Remove a layer that no session refers to; None when it is used or unknown."""

    async def unreferenced(self, blobs: Sequence[str]) -> tuple[str, ...]:
        """Which of `blobs` no manifest entry (of any kept revision) and no layer refers to.  Nothing
        that can still be read is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Stored bytes: `hash` is the SHA-256 of the content in hex."""

    hash: str
    size: int


class Blobs(Protocol):
    """Bytes by their hash: created once, never changed, deleted only by the sweep."""

    async def put(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        """Store a stream.  Nothing is visible before all of it is durable.

        Raises:
            TooLargeError: `file_too_large` once more than `limit` bytes came; nothing is kept.
            UnavailableError: `storage_full`.
        """

    async def put_fds(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        """Store the contents of open regular files, from offset 0 to their end as found while
        reading.  The descriptors stay open.  `fds` is gone through once, on a thread, so what gives
        them may block.  Raises UnavailableError `storage_full`, and what `fds` raises."""

    def open(self, blob: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes `[start, end)`, in chunks of at most 1 MiB.

        Raises:
            NotFoundError: `file_not_found` when the blob is missing (on the first step).
        """

    async def export(self, items: Iterable[Export]) -> None:
        """Place contents as files into directories given by descriptor.  A file of that name must
        not exist.  Where the keeper can, no second copy of the bytes is made; the file must
        therefore never be written in place.  Raises NotFoundError, UnavailableError."""

    async def exists(self, blob: str) -> bool:
        """Whether the blob is stored."""

    async def delete(self, blob: str, *, age_seconds: float = 0) -> bool:
        """Remove a blob, unless it was stored (or stored again) less than `age_seconds` ago;
        whether it is gone.  A missing one is.  A sweep gives its grace period here too: what a
        commit stored again after the sweep had looked then stays."""

    def older_than(self, age_seconds: float) -> AsyncIterator[str]:
        """Hashes of blobs stored (or stored again) at least `age_seconds` ago: candidates of a sweep."""

    async def tidy(self, age_seconds: float) -> None:
        """Remove what no blob needs any more: space of deleted ones, and what writes left that were
        broken off at least `age_seconds` ago."""

    async def close(self) -> None:
        """Let go of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One file to place: `name` in the open directory `dir_fd`, owned by `owner` (None: whoever
    the service is)."""

    blob: str
    dir_fd: int
    name: str
    mode: int
    mtime_ns: int
    owner: int | None = None
    separate: bool = False
    """Whether a file that has these bytes may lie beside it: it is never the same inode then, which
    programs would take for one file with two names."""
