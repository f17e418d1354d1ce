"""After the program: what a run left is read, and committed in one step.

What is read follows what the run was in.  A session has data and a workspace; a managed VM has a
workspace, HOME and /tmp, and everything in them is its own.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final, Literal

from era import layout
from era.errors import UnavailableError
from era.models import Changes, JsonText, SessionRecord, SetupStatus, SkippedFile
from era.relpath import RelPath, under
from era.sandbox.base import Box
from era.sessions.active import Active
from era.sessions.parts import Parts
from era.sessions.settings import SessionLimits
from era.sessions.snapshots import Snapshot, vm_lower
from era.storage.base import RunCommit
from era.workspace import data as data_file
from era.workspace.collect import CollectContext, CollectResult, collect

MAX_REPORTED: Final = 1000
"""Paths of each kind that a result names."""
MAX_SKIPPED: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a run has changed, after the commit."""

    data: JsonText | None = None
    data_error: str | None = None
    modified: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    files_error: str | None = None
    setup_status: SetupStatus | None = None
    session: SessionRecord | None = None
    """As the commit left it."""


class Keeping:
    """Keeps what runs leave."""

    def __init__(self, parts: Parts, limits: SessionLimits) -> None:
        self._parts = parts
        self._limits = limits

    async def keep(self, run: Active, box: Box, snapshot: Snapshot) -> Kept:
        """Read what the program left, and commit it."""
        record = snapshot.record
        if record is None:
            return Kept()
        if record.vm is not None:
            return await self._keep_vm(run, box, snapshot, record)
        outcome = await asyncio.to_thread(
            data_file.read, box.workspace_fd, snapshot.injected, self._limits.data_bytes
        )
        found = await self._collect(box, snapshot) if record.persistent else _NOTHING_FOUND
        committed = await self._parts.records.commit_run(
            self._commit(
                run,
                snapshot,
                record,
                found.changes,
                snapshot.merged if outcome.data is None else outcome.data,
            ),
            self._limits.quota,
        )
        setup = committed.session.setup
        return Kept(
            data=committed.session.data,
            data_error=outcome.error,
            modified=committed.modified[:MAX_REPORTED],
            deleted=committed.deleted[:MAX_REPORTED],
            skipped=found.changes.skipped[:MAX_SKIPPED],
            files_error=found.error or committed.files_error,
            setup_status=setup.status if setup is not None else None,
            session=committed.session,
        )

    async def _keep_vm(
        self, run: Active, box: Box, snapshot: Snapshot, record: SessionRecord
    ) -> Kept:
        found = await self._collect_vm(box, snapshot)
        committed = await self._parts.records.commit_run(
            self._commit(run, snapshot, record, found.changes, None), self._limits.vm_quota
        )
        return Kept(
            skipped=found.changes.skipped[:MAX_SKIPPED],
            files_error=found.error or committed.files_error,
            session=committed.session,
        )

    def _commit(
        self,
        run: Active,
        snapshot: Snapshot,
        record: SessionRecord,
        changes: Changes,
        data: JsonText | None,
    ) -> RunCommit:
        return RunCommit(
            uid=record.uid,
            snapshot_revision=snapshot.revision,
            finished_at_ms=self._parts.clock(),
            data=data,
            changes=changes,
            epoch=run.epoch,
        )

    # -- reading --

    async def _collect(self, box: Box, snapshot: Snapshot) -> CollectResult:
        with ExitStack() as stack:
            context = CollectContext(
                tree_fd=_opened(stack, snapshot.tree.path if snapshot.tree else None),
                layer_fd=_opened(stack, *snapshot.layer.workspace),
                own_names=snapshot.own_names,
                max_bytes=self._limits.quota.total_bytes,
                xattr_prefix=_prefix(box),
            )
            return await self._changes(box.workspace_fd, context)

    async def _collect_vm(self, box: Box, snapshot: Snapshot) -> CollectResult:
        """What was written in each of the VM's directories, under their paths in the box."""
        assert snapshot.tree is not None
        every = []
        for target in layout.VM_PLACES:
            with ExitStack() as stack:
                fd = box.workspace_fd if target == layout.WORKSPACE else box.changes(target)
                if fd is None:
                    continue
                if fd != box.workspace_fd:
                    stack.callback(os.close, fd)
                context = CollectContext(
                    tree_fd=_opened(stack, *vm_lower(snapshot.tree, target)),
                    everything=True,
                    max_bytes=self._limits.vm_quota.total_bytes,
                    xattr_prefix=_prefix(box),
                )
                found = await self._changes(fd, context)
            if found.error is not None:
                return replace(found, changes=_placed(target, found.changes))
            every.append(_placed(target, found.changes))
        return CollectResult(changes=_together(every))

    async def _changes(self, dir_fd: int, context: CollectContext) -> CollectResult:
        try:
            return await collect(dir_fd, blobs=self._parts.blobs, context=context)
        except UnavailableError as error:
            if error.code != "storage_full":
                raise
            # The rest of the commit is small and may still fit where the files did not.
            return CollectResult(changes=Changes(), error=error.code)


_NOTHING_FOUND: Final = CollectResult(changes=Changes())


def _placed(target: str, changes: Changes) -> Changes:
    """Changes in the directory `target` of a VM's box."""
    top = target[1:]

    def below(path: RelPath) -> RelPath:
        return under(top, path)

    return Changes(
        written=tuple(replace(entry, path=below(entry.path)) for entry in changes.written),
        removed=tuple(map(below, changes.removed)),
        skipped=tuple(replace(each, path=f"{target}/{each.path}") for each in changes.skipped),
    )


def _together(every: list[Changes]) -> Changes:
    return Changes(
        written=tuple(entry for changes in every for entry in changes.written),
        removed=tuple(path for changes in every for path in changes.removed),
        skipped=tuple(each for changes in every for each in changes.skipped),
    )


def _opened(stack: ExitStack, path: str | None = None, *_: str) -> int | None:
    """`path` as an open directory that is closed with `stack`."""
    if path is None:
        return None
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _prefix(box: Box) -> Literal["user", "trusted"]:
    return "user" if box.owner is None else "trusted"
