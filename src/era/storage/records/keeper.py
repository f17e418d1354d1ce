"""The promises of `Records`, each kept by one unit of work; how units are run is the keeper's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from era.models import (
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
from era.storage.base import (
    Committed,
    LayerRecord,
    ManifestDiff,
    Quota,
    RunCommit,
    SetupJob,
)
from era.storage.index import Place
from era.storage.leases import Activity, Holder, Lease, Node
from era.storage.records.units import blobs as index
from era.storage.records.units import code as stored_code
from era.storage.records.units import commits, files, leases, sessions, setups, vms

P = ParamSpec("P")
R = TypeVar("R")
Unit = Callable[Concatenate[Connection, P], R]


# ruff: noqa: D102 - what each method promises stands in `Records`, once.


class DatabaseRecords(ABC):
    """`Records`, `LeaseStore` and `BlobIndex` over a database: the promises are made there."""

    @abstractmethod
    async def _read(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `unit` in a transaction that sees one state of the store and changes nothing."""

    @abstractmethod
    async def _write(self, unit: Unit[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `unit` in a transaction; when this returns its effects are durable."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def check(self) -> None: ...

    # -- sessions --

    async def create(
        self, session_id: str, new: NewSession, now_ms: int, setup_spec: JsonText | None
    ) -> SessionRecord:
        return await self._write(sessions.create, session_id, new, now_ms, setup_spec)

    async def get(self, session_id: str) -> SessionRecord:
        return await self._read(sessions.get, session_id)

    async def list(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        return await self._read(sessions.page, prefix, limit, cursor)

    async def existing(self, uids: Sequence[int]) -> frozenset[int]:
        return await self._read(sessions.existing, tuple(uids)) if uids else frozenset()

    async def patch(self, session_id: str, patch: SessionPatch, now_ms: int) -> SessionRecord:
        return await self._write(sessions.patch, session_id, patch, now_ms)

    async def delete(self, session_id: str) -> SessionRecord:
        return await self._write(sessions.delete, session_id)

    async def delete_all(self, prefix: str = "") -> tuple[SessionRecord, ...]:
        return await self._write(sessions.delete_all, prefix)

    async def duplicate(
        self,
        source_id: str,
        copy_id: str,
        now_ms: int,
        *,
        data: JsonText | None,
        include_files: bool | None,
    ) -> SessionRecord:
        return await self._write(
            sessions.duplicate, source_id, copy_id, now_ms, data, include_files
        )

    # -- managed VMs --

    async def create_vm(self, vm_id: str, new: NewVm, now_ms: int, most: int) -> SessionRecord:
        return await self._write(vms.create, vm_id, new, now_ms, most)

    async def vms(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        return await self._read(vms.page, limit, cursor)

    async def change_vm(
        self,
        vm_id: str,
        now_ms: int,
        *,
        network_mode: str | None = None,
        stopped: bool | None = None,
    ) -> SessionRecord:
        return await self._write(vms.change, vm_id, now_ms, network_mode, stopped)

    # -- files --

    async def files(
        self,
        session_id: str,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[FileEntry]:
        return await self._read(files.page, session_id, prefix, limit, cursor)

    async def file(self, session_id: str, path: RelPath) -> FileEntry:
        return await self._read(files.file, session_id, path)

    async def put_file(
        self, session_id: str, entry: FileEntry, quota: Quota, now_ms: int
    ) -> FileEntry:
        return await self._write(files.put, session_id, entry, quota, now_ms)

    async def delete_file(
        self, session_id: str, path: RelPath, *, recursive: bool, now_ms: int
    ) -> None:
        await self._write(files.delete, session_id, path, recursive, now_ms)

    async def manifest_diff(self, uid: int, since: int) -> ManifestDiff | None:
        return await self._read(files.diff, uid, since)

    async def commit_run(self, commit: RunCommit, quota: Quota) -> Committed:
        return await self._write(commits.commit_run, commit, quota)

    async def prune_history(self, keep: Callable[[int], int]) -> int:
        # `keep` belongs to the caller's thread, so it is asked here and not inside a unit.  What it
        # allows to forget stays allowed: revisions only grow.
        while await self._write(sessions.settle_last_copy):
            pass
        bounds = {uid: keep(uid) for uid in await self._read(files.with_history)}
        return await self._write(files.prune, bounds) if bounds else 0

    async def unreferenced(self, blobs: Sequence[str]) -> tuple[str, ...]:
        return await self._read(files.unreferenced, tuple(blobs)) if blobs else ()

    # -- stored code --

    async def put_code(
        self, session_id: str, code: str, description: str | None, now_ms: int
    ) -> StoredCode:
        return await self._write(stored_code.put, session_id, code, description, now_ms)

    async def code(self, session_id: str) -> StoredCode:
        return await self._read(stored_code.get, session_id)

    async def delete_code(self, session_id: str, now_ms: int) -> None:
        await self._write(stored_code.delete, session_id, now_ms)

    # -- setups and layers --

    async def claim_setup(
        self, owner: str = "", ttl_seconds: float | None = None
    ) -> SetupJob | None:
        ttl_ms = None if ttl_seconds is None else int(ttl_seconds * 1000)
        return await self._write(setups.claim, owner, ttl_ms)

    async def renew_setups(
        self, owner: str, uids: Sequence[int], ttl_seconds: float
    ) -> frozenset[int]:
        if not uids:
            return frozenset()
        return await self._write(setups.renew, owner, tuple(uids), int(ttl_seconds * 1000))

    async def reset_running_setups(
        self, max_attempts: int, result: JsonText, owner: str | None = ""
    ) -> int:
        return await self._write(setups.reset_running, max_attempts, result, owner)

    async def setup_progress(self, uid: int, progress: SetupProgress) -> None:
        await self._write(setups.progress, uid, progress)

    async def finish_setup(
        self,
        uid: int,
        status: SetupStatus,
        result: JsonText,
        layer: str | None,
        epoch: int | None = None,
    ) -> SetupState:
        return await self._write(setups.finish, uid, status, result, layer, epoch)

    async def restart_setup(
        self, session_id: str, request: JsonText, spec: JsonText, now_ms: int
    ) -> SessionRecord:
        return await self._write(setups.restart, session_id, request, spec, now_ms)

    async def layer(self, key: str) -> LayerRecord | None:
        return await self._read(setups.layer, key)

    async def put_layer(self, layer: LayerRecord) -> LayerRecord:
        return await self._write(setups.put_layer, layer)

    async def layer_keys(self, *, used: bool) -> frozenset[str]:
        return await self._read(setups.layer_keys, used)

    async def delete_layer(self, key: str) -> LayerRecord | None:
        return await self._write(setups.delete_layer, key)

    # -- leases --

    async def take_lease(self, session_id: str, node: Node, ttl_seconds: float) -> Lease | Holder:
        return await self._write(leases.take, session_id, node, int(ttl_seconds * 1000))

    async def renew_leases(self, node: Node, ttl_seconds: float) -> Mapping[int, int]:
        return await self._write(leases.renew, node, int(ttl_seconds * 1000))

    async def release_leases(self, node: Node, uids: Sequence[int]) -> None:
        if uids:
            await self._write(leases.release, node, tuple(uids))

    async def release_nodes(self, prefix: str) -> None:
        await self._write(leases.release_nodes, prefix)

    async def tell(self, node: Node, activity: Mapping[int, Activity]) -> None:
        if activity:
            await self._write(leases.tell, node, dict(activity))

    async def holders(self, node: Node, session_id: str | None = None) -> Sequence[Holder]:
        return await self._read(leases.holders, node, session_id)

    # -- the index of blobs --

    async def announce(self, objects: Sequence[str], now_ms: int | None = None) -> None:
        if objects:
            await self._write(index.announce, tuple(objects), now_ms)

    async def fill(self, places: Sequence[Place], now_ms: int | None = None) -> None:
        if places:
            await self._write(index.fill, tuple(places), now_ms)

    async def places(
        self, blobs: Sequence[str], *, renew: bool = False, now_ms: int | None = None
    ) -> tuple[Place, ...]:
        if not blobs:
            return ()
        run = self._write if renew else self._read
        return await run(index.find, tuple(blobs), renew, now_ms)

    async def aged(
        self, age_seconds: float, after: str, limit: int, now_ms: int | None = None
    ) -> tuple[str, ...]:
        return await self._read(index.aged, int(age_seconds * 1000), after, limit, now_ms)

    async def drop(self, blob: str, age_seconds: float, now_ms: int | None = None) -> bool:
        return await self._write(index.drop, blob, int(age_seconds * 1000), now_ms)

    async def abandon(
        self, emptied_seconds: float, unfilled_seconds: float, now_ms: int | None = None
    ) -> tuple[str, ...]:
        return await self._write(
            index.abandon, int(emptied_seconds * 1000), int(unfilled_seconds * 1000), now_ms
        )

    async def sparse(
        self, age_seconds: float, after: str, limit: int, now_ms: int | None = None
    ) -> tuple[Place, ...]:
        return await self._read(index.sparse, int(age_seconds * 1000), after, limit, now_ms)

    async def move(self, places: Sequence[Place], now_ms: int | None = None) -> None:
        if places:
            await self._write(index.move, tuple(places), now_ms)

    async def removed(self, objects: Sequence[str]) -> None:
        if objects:
            await self._write(index.removed, tuple(objects))

    # -- the database itself --

    async def fact(self, name: str, value: str) -> str:
        """What the database says about itself under `name`; `value` when it said nothing yet."""
        return await self._write(index.fact, name, value)

    async def known_fact(self, name: str) -> str | None:
        """What the database says about itself under `name`, None for nothing."""
        return await self._read(index.known_fact, name)

    async def holds_files(self) -> bool:
        """Whether anything refers to stored bytes."""
        return await self._read(index.holds_files)
