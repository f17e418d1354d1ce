"""Every use-case of managed VMs.

A managed VM is kept as a session is, under a key that no session can have: a record, a manifest of
files, a lease.  What differs is what its manifest holds (workspace, HOME and /tmp) and what a run of
it commits (all of them, and no data).  So runs are those of the one pipeline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Protocol

from era import layout
from era.errors import ConflictError, NotFoundError, invalid_field
from era.ids import new_vm_id, vm_id_of, vm_key
from era.languages.table import check_available
from era.models import FileEntry, NewVm, Page, RunRequest, RunResult, SessionRecord
from era.relpath import RelPath, under, user_path
from era.sessions.active import TextSink
from era.sessions.files import Files, OpenFile
from era.sessions.parts import Parts
from era.sessions.runs import Runs
from era.sessions.settings import SessionLimits
from era.workspace.keep import keep

_TOP = layout.WORKSPACE[1:]
"""Where a VM's manifest has the workspace."""


class Forget(Protocol):
    """Ends everything that goes on in sessions or VMs that are gone."""

    async def __call__(self, *records: SessionRecord) -> None:
        """Return when it is over."""


@contextmanager
def _of_vm() -> Iterator[None]:
    """Errors of sessions in the words of VMs."""
    try:
        yield
    except NotFoundError as error:
        if error.code != "session_not_found":
            raise
        raise NotFoundError("vm_not_found") from None
    except ConflictError as error:
        if error.code != "session_deleted":
            raise
        raise ConflictError(
            error.code, "vm was deleted during the run", **{**error.extra, "hint": _CREATE}
        ) from None


_CREATE = "Nothing was kept; create another VM if one is needed."


class Vms:
    """The managed VMs of this server.  Each method that names one raises NotFoundError `vm_not_found`
    when there is none."""

    def __init__(
        self,
        parts: Parts,
        limits: SessionLimits,
        runs: Runs,
        files: Files,
        forget: Forget,
        refuse_when_closing: Callable[[], None],
    ) -> None:
        self._parts = parts
        self._records = parts.records
        self._limits = limits
        self._runs = runs
        self._files = files
        self._forget = forget
        self._refuse_when_closing = refuse_when_closing

    # -- the VMs --

    async def create(self, new: NewVm) -> SessionRecord:
        """Create a VM.

        Raises:
            InputError: `unsupported_language`; `invalid_field` for an image.
            BusyError: `server_busy`, when there are as many as there may be.
        """
        self._refuse_when_closing()
        self._check(new)
        while True:
            # Another server may have given an id in the same nanosecond.
            with suppress(ConflictError):
                return await self._records.create_vm(
                    new_vm_id(new.language), new, self._parts.clock(), self._limits.max_vms
                )

    def _check(self, new: NewVm) -> None:
        check_available(new.language, self._parts.tools)
        if new.image:
            raise invalid_field("image", "empty or the name of an image that the operator set up")

    async def get(self, vm_id: str) -> SessionRecord:
        """A VM as it was last committed."""
        with _of_vm():
            return await self._records.get(vm_key(vm_id))

    async def list(
        self, limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        """VMs, oldest first."""
        return await self._records.vms(limit=limit, cursor=cursor)

    async def change_network(self, vm_id: str, network_mode: str) -> SessionRecord:
        """Let later runs reach something else."""
        with _of_vm():
            return await self._records.change_vm(
                vm_id, self._parts.clock(), network_mode=network_mode
            )

    async def stop(self, vm_id: str) -> SessionRecord:
        """Refuse later runs, and end the one in progress; what it did is kept."""
        with _of_vm():
            record = await self._records.change_vm(vm_id, self._parts.clock(), stopped=True)
        for run in self._runs.registry.of(record.uid):
            run.cancel()
        return record

    async def delete(self, vm_id: str, keep_persist: bool = False) -> None:
        """Remove a VM with all that is in it, and end its run.  With `keep_persist` the workspace of
        one that is to persist stays in the state directory, as it was last committed."""
        record = await self.get(vm_id)
        with _of_vm():
            if keep_persist and record.vm is not None and record.vm.persist:
                await self._keep(record)
            await self._forget(await self._records.delete(record.id))

    async def _keep(self, record: SessionRecord) -> None:
        directory = self._parts.kept_vms_dir
        found = await self._records.manifest_diff(record.uid, 0)
        if directory is None or found is None:
            return
        top = f"{_TOP}/"
        entries = tuple(_stripped(entry) for entry in found.written if entry.path.startswith(top))
        await keep(entries, self._parts.blobs, directory, vm_id_of(record.id))

    # -- runs --

    async def run(
        self,
        vm_id: str,
        request: RunRequest,
        sink: TextSink | None = None,
        accepted: Callable[[], None] | None = None,
    ) -> RunResult:
        """Run the request's `command`; otherwise as a run of a session.

        Raises:
            ConflictError: `vm_not_running`; `session_deleted`, when the VM was.
        """
        self._refuse_when_closing()
        with _of_vm():
            return await self._runs.run(vm_key(vm_id), request, sink, accepted)

    async def temp(self, new: NewVm, request: RunRequest) -> RunResult:
        """Run the request's `command` in a box that is gone with its answer, and counts nowhere."""
        self._refuse_when_closing()
        self._check(new)
        return await self._runs.execute(
            replace(
                request,
                language=new.language,
                cpu_count=new.cpu_count,
                memory_mib=new.memory_mib,
                allow_internet=new.reaches_internet,
            )
        )

    # -- files of the workspace --

    async def files(
        self, vm_id: str, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> Page[FileEntry]:
        """Files of the workspace by path."""
        with _of_vm():
            page = await self._files.page(vm_key(vm_id), f"{_TOP}/{prefix}", limit, cursor)
        return replace(page, items=tuple(map(_stripped, page.items)))

    async def open_file(self, vm_id: str, path: str) -> OpenFile:
        """A file, to be read; a link is followed wherever in the VM it leads.

        Raises:
            InputError: `invalid_path`, `reserved_path`.
            NotFoundError: `file_not_found`, also for a directory.
        """
        with _of_vm():
            return await self._files.open(vm_key(vm_id), _path(path))

    async def put_file(
        self,
        vm_id: str,
        path: str,
        chunks: AsyncIterator[bytes],
        content_type: str | None = None,
    ) -> FileEntry:
        """Store a file; nothing of it is seen before all of it is there.

        Raises:
            InputError: `invalid_path`, `reserved_path`.
            TooLargeError: `file_too_large`, `quota_exceeded`.
        """
        self._refuse_when_closing()
        with _of_vm():
            entry = await self._files.put(
                vm_key(vm_id), _path(path), chunks, content_type, self._limits.vm_quota
            )
        return _stripped(entry)

    async def delete_file(self, vm_id: str, path: str, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a directory.

        Raises:
            InputError: `invalid_path`, `reserved_path`.
            NotFoundError: `file_not_found`.
        """
        with _of_vm():
            await self._files.delete(vm_key(vm_id), _path(path), recursive)


def _path(text: str) -> RelPath:
    return under(_TOP, user_path(text))


def _stripped(entry: FileEntry) -> FileEntry:
    """An entry of the workspace under its path there."""
    return replace(entry, path=str.__new__(RelPath, entry.path[len(_TOP) + 1 :]))
