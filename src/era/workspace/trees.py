"""Sessions' files as directories: what a run sees below its own changes.

    <root>/<uid>/files       the tree, one revision of the session's manifest
    <root>/<uid>/revision    which one, and for whom; missing while the tree is being changed

A tree is a cache.  It is brought from its own revision to the wanted one in time that follows the
difference, and made anew when its revision is unknown.  The `revision` file is removed before the
first change and written after the last, so a killed server leaves an unknown one.  It names the
boot of the machine, so after a power failure, which may keep later writes and lose earlier ones,
no tree is believed; therefore nothing here waits for a disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Final

import structlog

from era import ids
from era.errors import EraError, InternalError, NotFoundError
from era.models import FileKind, SessionRecord
from era.storage.base import Blobs, Export, ManifestDiff, Records
from era.workspace import beneath
from era.workspace.failures import settled, threaded, translated
from era.workspace.patch import IMPLIED, Patch

_BATCH: Final = 128
"""Files placed at once; as many directories may be open."""

_FILES: Final = "files"
_REVISION: Final = "revision"
_FORM: Final = 2
"""Counts changes in how trees are laid out; trees of another form are made anew."""

_log = structlog.get_logger("era.trees")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A session's files as the directory `path`, as they are at `revision`; never to be written."""

    path: str
    revision: int

    def open(self) -> int:
        """The directory, open for reading; the caller closes it."""
        with translated():
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """The trees below the directory `root`, which is theirs alone.

    `owner` is uid and gid of the files in them; None leaves the service's own.  Calls of `ensure` for
    the same session must not overlap, and nobody may look at its tree while it is at work.
    """

    root: str
    records: Records
    blobs: Blobs
    owner: int | None = None
    _following: dict[int, asyncio.Task[None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """By uid, what `follow` has begun."""

    async def ensure(self, record: SessionRecord) -> Tree:
        """The session's tree at `record.files_revision`, or at a later revision if there is one.

        Raises:
            NotFoundError: `session_not_found`.
            UnavailableError: `storage_full`.
            InternalError: stored bytes are missing, or the file system fails.
        """
        await self._followed(record.uid)
        return await self._ensured(record)

    def follow(self, record: SessionRecord) -> None:
        """Begin to `ensure` in the background what was committed, for the next who asks; whoever comes
        before it is done waits for it.  Nobody may look at the tree any more.

        A tree is a cache: what fails here is done again, and told, when the tree is needed.
        """
        if record.uid not in self._following:
            task = asyncio.ensure_future(self._follow(record))
            self._following[record.uid] = task
            task.add_done_callback(lambda _: self._following.pop(record.uid, None))

    async def close(self) -> None:
        """Wait for what `follow` has begun."""
        for uid in tuple(self._following):
            await self._followed(uid)

    async def _follow(self, record: SessionRecord) -> None:
        try:
            await self._ensured(record)
        except NotFoundError:  # deleted meanwhile
            pass
        except EraError as error:
            _log.info("a tree stays behind", session=record.id, error=error.code)

    async def _followed(self, uid: int) -> None:
        """Wait, without ending it when the caller is cancelled."""
        if (task := self._following.get(uid)) is not None:
            await asyncio.wait((task,))

    async def _ensured(self, record: SessionRecord) -> Tree:
        uid = record.uid
        with translated():
            at = self._revision(uid)
            if at == record.files_revision:
                return self._tree(uid, at)
            if at is not None and at < record.files_revision:
                diff = await self.records.manifest_diff(uid, at)
                if diff is not None and await self._amended(uid, diff):
                    return self._tree(uid, diff.revision)
            return await self._made_anew(uid)

    def revision(self, uid: int) -> int | None:
        """Which revision a session's tree is at; None when that is unknown or there is no tree."""
        return self._revision(uid)

    async def drop(self, uid: int) -> None:
        """Remove a session's tree, if there is one."""
        await self._followed(uid)
        with translated():
            await threaded(self._drop, str(uid))

    async def uids(self) -> tuple[int, ...]:
        """The sessions that have a tree here, or a part of one; what else is there is removed."""
        with translated():
            return await threaded(self._uids)

    async def _amended(self, uid: int, diff: ManifestDiff) -> bool:
        """Whether the tree could be brought to `diff.revision` from its own."""
        try:
            await self._apply(uid, diff, anew=False)
        except OSError:  # also modes that shut out a service that is not root: make it anew
            return False
        return True

    async def _made_anew(self, uid: int) -> Tree:
        diff = await self.records.manifest_diff(uid, 0)
        if diff is None:
            raise InternalError(text="the session's files cannot be read")
        await self._apply(uid, diff, anew=True)
        return self._tree(uid, diff.revision)

    async def _apply(self, uid: int, diff: ManifestDiff, *, anew: bool) -> None:
        """Change the tree by `diff`; on failure its revision is unknown afterwards."""
        written = sorted(diff.written, key=lambda entry: entry.path)
        files = (entry for entry in written if entry.kind is FileKind.FILE)
        with ExitStack() as opened:

            def begin(batch: ExitStack) -> tuple[Patch, list[Export]]:
                patch = self._begin(uid, anew, opened)
                patch.remove(diff.removed, written)
                patch.make_dirs_and_links(written)
                return patch, patch.exports(list(islice(files, _BATCH)), batch)

            def go_on(batch: ExitStack) -> list[Export]:
                return patch.exports(list(islice(files, _BATCH)), batch)

            def finish() -> None:
                patch.finish()
                self._mark(uid, diff.revision)

            with ExitStack() as batch:
                patch, items = await threaded(begin, batch)
                await self._export(items)
            while len(items) == _BATCH:
                with ExitStack() as batch:
                    items = await threaded(go_on, batch)
                    await self._export(items)
            await threaded(finish)

    async def _export(self, items: Sequence[Export]) -> None:
        if not items:
            return
        try:
            await settled(self.blobs.export(items))
        except NotFoundError as error:
            raise InternalError(text="stored bytes of a file are missing") from error

    # What follows blocks; only `_revision` is short enough for the event loop.

    def _tree(self, uid: int, revision: int) -> Tree:
        return Tree(path=f"{self.root}/{uid}/{_FILES}", revision=revision)

    def _stamp(self, revision: int | str) -> bytes:
        return f"{_FORM} {_boot_id()} {self.owner} {revision}\n".encode()

    def _revision(self, uid: int) -> int | None:
        """The revision a tree is at; None when it is unknown or there is no tree."""
        try:
            with open(f"{self.root}/{uid}/{_REVISION}", "rb") as file:
                raw = file.read(200)
        except FileNotFoundError:
            return None
        number = raw.rpartition(b" ")[2].strip()
        if not number.isdigit() or raw != self._stamp(int(number)):
            return None
        return int(number)

    def _mark(self, uid: int, revision: int) -> None:
        root = self._open_root()
        try:
            beneath.write_file(root, f"{uid}/{_REVISION}", self._stamp(revision))
        finally:
            os.close(root)

    def _open_root(self) -> int:
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        return os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _begin(self, uid: int, anew: bool, opened: ExitStack) -> Patch:
        """Make the revision unknown, then open the tree."""
        root = self._open_root()
        opened.callback(os.close, root)
        home = beneath.make_dirs(root, str(uid), mode=0o700)
        opened.callback(os.close, home)
        with suppress(FileNotFoundError):
            os.unlink(_REVISION, dir_fd=home)
        if anew:
            beneath.remove_tree(home, _FILES)
        files = beneath.make_dirs(home, _FILES, owner=self.owner, mode=IMPLIED[0])
        opened.callback(os.close, files)
        return Patch(dir_fd=files, owner=self.owner, anew=anew)

    def _drop(self, name: str | bytes) -> None:
        root = self._open_root()
        try:
            _remove_home(root, name)
        finally:
            os.close(root)

    def _uids(self) -> tuple[int, ...]:
        root = self._open_root()
        try:
            names = [name for name, _ in beneath.iterate(root)]
            for name in names:
                if not name.isdigit():
                    _remove_home(root, name)
        finally:
            os.close(root)
        return tuple(int(name) for name in names if name.isdigit())


def _remove_home(root: int, name: str | bytes) -> None:
    """Revision first: what is removed in part is not to be believed."""
    raw = name.encode() if isinstance(name, str) else name
    beneath.remove_tree(root, raw + b"/" + _REVISION.encode())
    beneath.remove_tree(root, raw)


@cache
def _boot_id() -> str:
    """Names this boot of the machine; where the kernel does not say, this process alone."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode().strip()
    except OSError:
        return ids.new_token()
