"""`Records` in memory: every revision is a whole dictionary, every sum is added up anew.

Slow and simple on purpose: it is what the database keepers are compared with, and what the other
rooms are tested on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from era.errors import (
    BusyError,
    ConflictError,
    InputError,
    NotFoundError,
    TooLargeError,
    file_not_found,
    invalid_field,
    session_not_found,
)
from era.ids import vm_key
from era.models import (
    FileEntry,
    FileKind,
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
    Unset,
    VmState,
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
from era.storage.links import root_of
from tests.fakes.leases import MemoryLeases
from tests.fakes.manifests import (
    Kept,
    Tree,
    below,
    clean,
    directories,
    forget,
    is_dir,
    over,
    put,
    set_setup,
    shown,
    size,
)


@dataclass(slots=True)
class Claim:
    """Whose a setup or a session is, until when, and for the how-manieth time."""

    owner: str
    until: float
    epoch: int


class MemoryRecords(MemoryLeases):
    """Keeps `era.storage.base.Records` for as long as it lives."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[str, Kept] = {}
        self._layers: dict[str, LayerRecord] = {}
        self._claims: dict[int, Claim] = {}
        self._last_uid = 0
        self._given: set[str] = set()
        self.closed = False

    async def close(self) -> None:
        self.closed = True

    async def check(self) -> None:
        return None

    async def _find(self, session_id: str) -> Kept:
        await asyncio.sleep(0)
        if session_id not in self._sessions:
            raise session_not_found()
        return self._sessions[session_id]

    async def _find_uid(self, uid: int) -> Kept:
        await asyncio.sleep(0)
        for kept in self._sessions.values():
            if kept.record.uid == uid:
                return kept
        raise session_not_found()

    async def uids(self) -> frozenset[int]:
        return frozenset(kept.record.uid for kept in self._sessions.values())

    def _uid(self) -> int:
        self._last_uid += 1
        return self._last_uid

    # -- sessions --

    async def create(
        self, session_id: str, new: NewSession, now_ms: int, setup_spec: JsonText | None
    ) -> SessionRecord:
        await asyncio.sleep(0)
        if session_id in self._sessions:
            raise ConflictError("session_exists", id=session_id)
        record = SessionRecord(
            uid=self._uid(),
            id=session_id,
            language=new.language,
            persistent=new.persistent,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            last_run_at_ms=None,
            metadata=new.metadata,
            data=new.data,
            data_revision=0,
            allow_internet=bool(new.allow_internet),
            allow_public=new.allow_public,
            default_timeout_seconds=new.default_timeout_seconds,
            cpu_count=new.cpu_count,
            memory_mib=new.memory_mib,
            has_code=False,
            file_count=0,
            total_size_bytes=0,
            files_revision=0,
        )
        kept = Kept(record, queued=now_ms)
        if new.setup is not None and new.setup.empty:
            done = '{"success":true,"duration_ms":0,"cached":false}'
            state = SetupState(request=new.setup.request, status=SetupStatus.COMPLETED, result=done)
            kept.record = replace(record, setup=state)
        elif new.setup is not None:
            state = SetupState(request=new.setup.request, status=SetupStatus.PENDING)
            kept.record, kept.spec = replace(record, setup=state), setup_spec
        self._sessions[session_id] = kept
        return kept.record

    async def get(self, session_id: str) -> SessionRecord:
        return (await self._find(session_id)).record

    async def list(
        self, *, prefix: str = "", limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        await asyncio.sleep(0)
        records = sorted((kept.record for kept in self._sessions.values()), key=lambda r: r.uid)
        found = [each for each in records if each.vm is None and each.id.startswith(prefix)]
        after = int(self._key("s", cursor)) if cursor is not None else 0
        rest = [record for record in found if record.uid > after]
        items = rest[: len(rest) if limit is None else limit]
        return Page(
            items=tuple(items),
            total=len(found),
            next_cursor=self._cursor("s", str(items[-1].uid)) if len(rest) > len(items) else None,
        )

    def _cursor(self, kind: str, key: str) -> str:
        cursor = (kind + key).encode().hex()
        self._given.add(cursor)
        return cursor

    def _key(self, kind: str, cursor: str) -> str:
        key = bytes.fromhex(cursor).decode() if cursor in self._given else ""
        if not key.startswith(kind):
            raise invalid_field("cursor", "a next_cursor of this list")
        return key.removeprefix(kind)

    async def existing(self, uids: Sequence[int]) -> frozenset[int]:
        await asyncio.sleep(0)
        return frozenset(uids) & await self.uids()

    async def patch(self, session_id: str, patch: SessionPatch, now_ms: int) -> SessionRecord:
        kept = await self._find(session_id)
        fields = ("default_timeout_seconds", "allow_internet", "allow_public", "metadata", "data")
        named = {name: getattr(patch, name) for name in fields}
        changes = {name: value for name, value in named.items() if not isinstance(value, Unset)}
        old = kept.record
        kept.record = replace(old, updated_at_ms=now_ms, **changes)
        if kept.record.data != old.data:
            kept.record = replace(kept.record, data_revision=old.data_revision + 1)
        return kept.record

    async def delete(self, session_id: str) -> SessionRecord:
        await self._find(session_id)
        return self._sessions.pop(session_id).record

    async def delete_all(self, prefix: str = "") -> tuple[SessionRecord, ...]:
        found = (await self.list(prefix=prefix)).items
        for record in found:
            del self._sessions[record.id]
        return found

    async def duplicate(
        self,
        source_id: str,
        copy_id: str,
        now_ms: int,
        *,
        data: JsonText | None,
        include_files: bool | None,
    ) -> SessionRecord:
        source = await self._find(source_id)
        if copy_id in self._sessions:
            raise ConflictError("session_exists", id=copy_id)
        old = source.record
        state = old.setup
        if state is not None and not state.status.finished:
            state = replace(state, status=SetupStatus.PENDING, attempts=0, progress=None)
        record = replace(
            old,
            uid=self._uid(),
            id=copy_id,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            last_run_at_ms=None,
            data=old.data if data is None else data,
            data_revision=0,
            files_revision=0,
            file_count=0,
            total_size_bytes=0,
            source_id=source_id,
            setup=state,
        )
        copy = Kept(record, code=source.code, spec=source.spec, queued=now_ms)
        if (old.persistent if include_files is None else include_files) and source.head:
            copy.advance({path: (entry, -1) for path, (entry, _) in source.head.items()})
        self._sessions[copy_id] = copy
        return copy.record

    # -- managed VMs --

    async def create_vm(self, vm_id: str, new: NewVm, now_ms: int, most: int) -> SessionRecord:
        stored = NewSession(
            id=None,
            language=new.language,
            allow_internet=new.network_mode != "none",
            cpu_count=new.cpu_count,
            memory_mib=new.memory_mib,
        )
        record = await self.create(vm_key(vm_id), stored, now_ms, None)
        # Nothing is waited for between the two, so nobody sees one too many.
        if sum(kept.record.vm is not None for kept in self._sessions.values()) >= most:
            del self._sessions[record.id]
            raise BusyError("server_busy")
        state = VmState(network_mode=new.network_mode, persist=new.persist, image=new.image)
        kept = self._sessions[record.id]
        kept.record = replace(record, vm=state)
        return kept.record

    async def vms(
        self, *, limit: int | None = None, cursor: str | None = None
    ) -> Page[SessionRecord]:
        await asyncio.sleep(0)
        found = [kept.record for kept in self._sessions.values() if kept.record.vm is not None]
        after = int(self._key("v", cursor)) if cursor is not None else 0
        rest = sorted((each for each in found if each.uid > after), key=lambda each: each.uid)
        items = rest[: len(rest) if limit is None else limit]
        return Page(
            items=tuple(items),
            total=len(found),
            next_cursor=self._cursor("v", str(items[-1].uid)) if len(rest) > len(items) else None,
        )

    async def change_vm(
        self,
        vm_id: str,
        now_ms: int,
        *,
        network_mode: str | None = None,
        stopped: bool | None = None,
    ) -> SessionRecord:
        kept = await self._find(vm_key(vm_id))
        assert kept.record.vm is not None
        vm = kept.record.vm
        if network_mode is not None:
            vm = replace(vm, network_mode=network_mode)
        if stopped is not None:
            vm = replace(vm, stopped=stopped)
        internet = vm.network_mode != "none"
        kept.record = replace(kept.record, vm=vm, updated_at_ms=now_ms, allow_internet=internet)
        return kept.record

    # -- files --

    async def files(
        self,
        session_id: str,
        *,
        prefix: str = "",
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[FileEntry]:
        tree = (await self._find(session_id)).head
        after = self._key("f", cursor) if cursor is not None else ""
        found = {
            path: value
            for path, value in tree.items()
            if path.startswith(prefix) and not is_dir(tree, path)
        }
        rest = sorted((path for path in found if path > after), key=lambda path: path.encode())
        items = rest[: len(rest) if limit is None else limit]
        return Page(
            items=tuple(shown(tree, path, root_of(session_id)) for path in items),
            total=len(found),
            total_size_bytes=size(found),
            next_cursor=self._cursor("f", items[-1]) if len(rest) > len(items) else None,
        )

    async def file(self, session_id: str, path: RelPath) -> FileEntry:
        tree = (await self._find(session_id)).head
        if path not in tree:
            raise file_not_found()
        return shown(tree, path, root_of(session_id))

    async def put_file(
        self, session_id: str, entry: FileEntry, quota: Quota, now_ms: int
    ) -> FileEntry:
        kept = await self._find(session_id)
        path, tree = entry.path, kept.head
        if any(parent in tree and not is_dir(tree, parent) for parent in path.parents):
            raise InputError("invalid_path", details="a parent of the path is no directory")
        if path in directories(tree):
            raise InputError("invalid_path", details="there is a directory at the path")
        new = clean(entry, now_ms)
        if path in tree and tree[path][0].kind is FileKind.FILE:
            new = replace(new, mode=tree[path][0].mode)
        after = {**tree, path: (new, -1)}
        if (what := over(tree, after, quota)) is not None:
            bound = quota.total_bytes if what == "bytes" else quota.count
            text = None if what == "bytes" else f"session files exceed {bound} {what}"
            raise TooLargeError("quota_exceeded", bound, text)
        kept.advance(after)
        kept.record = replace(kept.record, updated_at_ms=now_ms)
        return new

    async def delete_file(
        self, session_id: str, path: RelPath, *, recursive: bool, now_ms: int
    ) -> None:
        kept = await self._find(session_id)
        if path in directories(kept.head) and not recursive:
            raise InputError("invalid_path", details="there is a directory at the path")
        gone = {path, *below(kept.head, path)} & kept.head.keys()
        if not gone:
            raise file_not_found()
        kept.advance({p: value for p, value in kept.head.items() if p not in gone})
        kept.record = replace(kept.record, updated_at_ms=now_ms)

    async def manifest_diff(self, uid: int, since: int) -> ManifestDiff | None:
        kept = await self._find_uid(uid)
        head = kept.record.files_revision
        if since > head or (since and since < kept.floor):
            return None
        old: Tree = kept.trees[since] if since else {}
        now = kept.head
        changed = {
            path for path in old if path not in now or now[path][0].kind is not old[path][0].kind
        }
        lost_dirs = directories(old) - directories(now)
        removed = {p for p in changed if not is_dir(old, p)} | lost_dirs
        return ManifestDiff(
            revision=head,
            removed=tuple(str.__new__(RelPath, path) for path in sorted(removed, reverse=True)),
            written=tuple(now[p][0] for p in sorted(now) if old.get(p) != now[p]),
        )

    async def commit_run(self, commit: RunCommit, quota: Quota) -> Committed:
        kept = await self._find_uid(commit.uid)
        if commit.epoch is not None:
            self.fence(commit.uid, commit.epoch)
        now = commit.finished_at_ms
        before = kept.head
        after = dict(before)
        for path in commit.changes.removed:
            for gone in {path, *below(before, path)} & after.keys():
                if before[gone][1] <= commit.snapshot_revision:
                    del after[gone]
        quiet: set[str] = set()
        for entry in sorted(commit.changes.written, key=lambda entry: entry.path):
            put(before, after, clean(entry, now), quiet)
        error = "quota_exceeded" if over(before, after, quota) is not None else None
        if error is not None:
            after = before
        if after != before:
            kept.advance(after)
        kept.record = replace(kept.record, updated_at_ms=now, last_run_at_ms=now)
        if commit.data is not None and commit.data != kept.record.data:
            revision = kept.record.data_revision + 1
            kept.record = replace(kept.record, data=commit.data, data_revision=revision)
        return Committed(
            session=kept.record,
            modified=tuple(
                str.__new__(RelPath, path)
                for path in sorted(after)
                if after[path] != before.get(path) and path not in quiet and not is_dir(after, path)
            ),
            deleted=tuple(
                str.__new__(RelPath, path)
                for path in sorted(before)
                if not is_dir(before, path) and (path not in after or is_dir(after, path))
            ),
            files_error=error,
        )

    async def prune_history(self, keep: Callable[[int], int]) -> int:
        await asyncio.sleep(0)
        return sum(forget(kept, keep(kept.record.uid)) for kept in self._sessions.values())

    async def unreferenced(self, blobs: Sequence[str]) -> tuple[str, ...]:
        await asyncio.sleep(0)
        used = {layer.blob for layer in self._layers.values()}
        for kept in self._sessions.values():
            for revision, tree in kept.trees.items():
                if revision >= kept.floor:
                    used |= {entry.blob for entry, _ in tree.values() if entry.blob}
        return tuple(blob for blob in dict.fromkeys(blobs) if blob not in used)

    # -- stored code --

    async def put_code(
        self, session_id: str, code: str, description: str | None, now_ms: int
    ) -> StoredCode:
        kept = await self._find(session_id)
        if description is None:
            description = kept.code.description if kept.code else ""
        kept.code = StoredCode(code=code, description=description, updated_at_ms=now_ms)
        kept.record = replace(kept.record, has_code=True, updated_at_ms=now_ms)
        return kept.code

    async def code(self, session_id: str) -> StoredCode:
        kept = await self._find(session_id)
        if kept.code is None:
            raise NotFoundError("code_not_found")
        return kept.code

    async def delete_code(self, session_id: str, now_ms: int) -> None:
        await self.code(session_id)
        kept = self._sessions[session_id]
        kept.code = None
        kept.record = replace(kept.record, has_code=False, updated_at_ms=now_ms)

    # -- setups and layers --

    def _with(self, status: SetupStatus) -> Sequence[Kept]:
        found = [
            kept
            for kept in self._sessions.values()
            if kept.record.setup is not None and kept.record.setup.status is status
        ]
        return sorted(found, key=lambda kept: (kept.queued, kept.record.uid))

    async def claim_setup(
        self, owner: str = "", ttl_seconds: float | None = None
    ) -> SetupJob | None:
        await asyncio.sleep(0)
        for kept in self._with(SetupStatus.PENDING):
            state = kept.record.setup
            assert state is not None
            attempts = state.attempts + 1
            set_setup(kept, status=SetupStatus.RUNNING, attempts=attempts, progress=None)
            uid = kept.record.uid
            epoch = self._claims[uid].epoch + 1 if uid in self._claims else 1
            until = math.inf if ttl_seconds is None else time.time() + ttl_seconds
            self._claims[uid] = Claim(owner, until, epoch)
            return SetupJob(
                epoch=epoch,
                uid=kept.record.uid,
                session_id=kept.record.id,
                language=kept.record.language,
                spec=kept.spec or "{}",
                attempts=attempts,
            )
        return None

    async def renew_setups(
        self, owner: str, uids: Sequence[int], ttl_seconds: float
    ) -> frozenset[int]:
        await asyncio.sleep(0)
        running = {kept.record.uid for kept in self._with(SetupStatus.RUNNING)} & set(uids)
        mine = {uid for uid in running if self._claims[uid].owner == owner}
        for uid in mine:
            self._claims[uid].until = time.time() + ttl_seconds
        return frozenset(mine)

    async def reset_running_setups(
        self, max_attempts: int, result: JsonText, owner: str | None = ""
    ) -> int:
        await asyncio.sleep(0)
        resumed = 0
        for kept in self._with(SetupStatus.RUNNING):
            assert kept.record.setup is not None
            claim = self._claims[kept.record.uid]
            whose = owner is not None and claim.owner.startswith(owner)
            if not whose and claim.until > time.time():
                continue
            if kept.record.setup.attempts >= max_attempts:
                set_setup(kept, status=SetupStatus.FAILED, result=result, progress=None)
                kept.spec = None
            else:
                set_setup(kept, status=SetupStatus.PENDING, progress=None)
                resumed += 1
        return resumed

    async def setup_progress(self, uid: int, progress: SetupProgress) -> None:
        kept = await self._find_uid(uid)
        state = kept.record.setup
        if state is not None and state.status is SetupStatus.RUNNING:
            set_setup(kept, progress=progress)

    async def finish_setup(
        self,
        uid: int,
        status: SetupStatus,
        result: JsonText,
        layer: str | None,
        epoch: int | None = None,
    ) -> SetupState:
        kept = await self._find_uid(uid)
        if epoch is not None:
            state = kept.record.setup
            running = state is not None and state.status is SetupStatus.RUNNING
            if not running or self._claims[uid].epoch != epoch:
                raise ConflictError("setup_pending", details="another node does it now")
            if layer is not None and layer not in self._layers:
                raise NotFoundError("not_found", "the layer was removed meanwhile")
        if kept.record.setup is None:
            raise NotFoundError("not_found")
        kept.spec = None
        layer = layer or kept.record.setup.layer
        return set_setup(kept, status=status, result=result, layer=layer, progress=None)

    async def restart_setup(
        self, session_id: str, request: JsonText, spec: JsonText, now_ms: int
    ) -> SessionRecord:
        kept = await self._find(session_id)
        state = kept.record.setup
        if state is not None and not state.status.finished:
            raise ConflictError("setup_pending", setup_status=state.status.value)
        fresh = SetupState(
            request=request, status=SetupStatus.PENDING, layer=state.layer if state else None
        )
        kept.record, kept.spec, kept.queued = replace(kept.record, setup=fresh), spec, now_ms
        return kept.record

    async def layer(self, key: str) -> LayerRecord | None:
        await asyncio.sleep(0)
        return self._layers.get(key)

    async def put_layer(self, layer: LayerRecord) -> LayerRecord:
        await asyncio.sleep(0)
        return self._layers.setdefault(layer.key, layer)

    async def layer_keys(self, *, used: bool) -> frozenset[str]:
        await asyncio.sleep(0)
        states = [kept.record.setup for kept in self._sessions.values()]
        referred = {state.layer for state in states if state is not None}
        return frozenset(key for key in self._layers if not used or key in referred)

    async def delete_layer(self, key: str) -> LayerRecord | None:
        if key in await self.layer_keys(used=True):
            return None
        return self._layers.pop(key, None)
