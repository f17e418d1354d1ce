"""Setup layers: a directory for each, which runs see below space of their own and nothing changes.

A layer is made in a draft beside its place and is there from the moment it is renamed.  It serves at
once; behind that it is archived in the blob store, which is what lasts, and its Python modules are
compiled, into a directory that is laid over it.  The directories are caches: a missing one is made
again from the archive.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog

from era import layout
from era.errors import EraError, InternalError
from era.languages.packages import LAYER_GO_CACHE, compile_modules
from era.models import JsonText, Network
from era.sandbox.base import Bind, Box, BoxSpec, Overlay, Program
from era.sessions import archives, folders
from era.sessions.parts import Parts
from era.storage.base import LayerRecord
from era.waiting import within
from era.workspace import beneath
from era.workspace.failures import settled

BYTECODE: Final = ".bytecode"
"""End of the name of the directory with a layer's compiled modules."""
ARCHIVE: Final = ".archive"
"""End of the key under which the archive of a layer is recorded, once it is stored."""
_COMPILE_SECONDS: Final = 600.0
_ARCHIVING_MS: Final = 60_000
"""Whoever looks for the archive of a layer that was made longer ago looks in vain."""
_LOOK_SECONDS: Final = 0.2
_REMOVE_AFTER_SECONDS: Final = 1.0
"""What is no longer needed goes when those who wait have their answer."""
_CLOSE_SECONDS: Final = 10.0
"""A server that stops lets archives that are under way be finished for so long."""

_log = structlog.get_logger("era.layers")


class LayerLostError(InternalError):
    """Neither the directory nor the archive of a layer is there: the machine went down within
    seconds of the setup's end, or somebody deleted them."""

    default_code = "execution_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """How a layer is shown to a run: lowers of the workspace, and overlays, since whatever a run
    writes is its own.  `go_cache` is a lower of Go's build cache, `directory` the whole layer."""

    workspace: tuple[str, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    go_cache: str | None = None
    directory: str | None = None


NOTHING: Final = Attachment()
"""A run without a layer."""


class Layers:
    """The layers of this machine, below the directory `parts.layers_dir`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._root = parts.layers_dir
        self._unpacking: dict[str, asyncio.Task[str]] = {}
        self._pins: dict[str, int] = {}
        self._archiving: dict[str, asyncio.Task[None]] = {}
        self._compiling: dict[str, asyncio.Task[None]] = {}
        self._removals: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._turn = asyncio.Lock()
        """Archives and compilations are made one after the other: runs go before."""

    async def start(self) -> None:
        """Remove what an interrupted making left; after a reboot of the machine, everything, since
        directories are never flushed to the disk.  Go on with what was left to do."""
        await asyncio.to_thread(folders.clean, self._root)
        known = await self._parts.records.layer_keys(used=False)
        names = set(await asyncio.to_thread(os.listdir, self._root))
        there = known & names
        for name in names - there:
            if name.removesuffix(BYTECODE) not in there and not name.startswith(folders.BOOT):
                await self._remove(name)
        for key in sorted(there):
            self._finish(key)

    async def close(self) -> None:
        """Finish the archives under way, within reason, and stop."""
        self._closing.set()
        for task in self._compiling.values():
            task.cancel()
        if self._archiving:
            await asyncio.wait(tuple(self._archiving.values()), timeout=_CLOSE_SECONDS)
        tasks = (*self._archiving.values(), *self._compiling.values())
        for task in tasks:
            task.cancel()
        if tasks or self._removals:
            await asyncio.wait((*tasks, *self._removals))

    @property
    def busy(self) -> bool:
        """Whether something is done in the background."""
        return bool(self._archiving or self._compiling or self._removals)

    @contextmanager
    def pinned(self, key: str) -> Iterator[None]:
        """Keep the layer from being removed, though no session refers to it yet."""
        self._pins[key] = self._pins.get(key, 0) + 1
        try:
            yield
        finally:
            self._pins[key] -= 1
            if not self._pins[key]:
                del self._pins[key]

    def is_pinned(self, key: str) -> bool:
        """Whether someone works with the layer right now."""
        return key in self._pins

    # -- for runs --

    async def directory(self, key: str) -> str:
        """The directory of the layer; unpacks it when this machine has not yet.

        Raises:
            LayerLostError: the layer is lost.
            UnavailableError: `storage_full`, `isolation_unavailable`.
        """
        path = os.path.join(self._root, key)
        if os.path.isdir(path):
            return path
        task = self._unpacking.get(key)
        if task is None:
            task = asyncio.create_task(self._unpack(key))
            self._unpacking[key] = task
            task.add_done_callback(lambda task: self._unpacked(key, task))
        return await asyncio.shield(task)

    async def is_lost(self, key: str) -> bool:
        """Whether nothing of the layer is left.  The server that has made it may still be archiving
        it, so that of a young one is waited for."""
        while not os.path.isdir(os.path.join(self._root, key)):
            if await self._archive(key) is not None:
                return False
            layer = await self._parts.records.layer(key)
            now = self._parts.clock()
            if layer is None or now - layer.created_at_ms > _ARCHIVING_MS:
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def _unpacked(self, key: str, task: asyncio.Task[str]) -> None:
        del self._unpacking[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have left; it is looked at here

    async def _unpack(self, key: str) -> str:
        lost, blob = await self.is_lost(key), await self._archive(key)
        if lost or blob is None:
            raise LayerLostError("execution_failed")
        async with self.draft(key) as draft:
            async with self.showing(draft, writable=True) as box:
                await archives.unpack(box, self._parts.blobs, blob)
            return self._keep(draft, key)

    async def _archive(self, key: str) -> str | None:
        """The blob with the archive of a layer, if there is one."""
        archived = await self._parts.records.layer(key + ARCHIVE)
        if archived is not None:
            return archived.blob
        layer = await self._parts.records.layer(key)
        return layer.blob if layer is not None and layer.size else None

    # -- making one --

    @asynccontextmanager
    async def draft(self, key: str) -> AsyncIterator[str]:
        """A new directory for the layer `key`, removed at the end unless it was kept."""
        name = folders.unfinished(key)
        path = os.path.join(self._root, name)
        os.mkdir(path, 0o755)
        try:
            yield path
        finally:
            await self._remove(name)

    @asynccontextmanager
    async def showing(self, directory: str, *, writable: bool = False) -> AsyncIterator[Box]:
        """A box that sees the directory at `archives.SHOWN`, and nothing else."""
        spec = BoxSpec(
            network=Network.OFFLINE,
            binds=(Bind(source=directory, target=archives.SHOWN, writable=writable),),
        )
        async with self._parts.driver.box(spec) as box:
            if writable:
                given(directory, box)
            yield box

    def drop(self, draft: str, name: str) -> None:
        """Remove an entry of a draft; it is gone at once, its room in a while."""
        gone = folders.move_out(draft, name, self._root)
        if gone is not None:
            task = asyncio.create_task(self._remove_later(gone))
            self._removals.add(task)
            task.add_done_callback(self._removals.discard)

    async def _remove_later(self, name: str) -> None:
        with suppress(TimeoutError):
            async with within(_REMOVE_AFTER_SECONDS):
                await self._closing.wait()
        await self._remove(name)

    async def keep(self, draft: str, key: str, result: JsonText = "{}") -> LayerRecord:
        """Make the draft the layer `key`; if there is one already, that stays.  `result` is kept
        with it."""
        # No archive yet: an empty blob stands for it.
        empty = await self._parts.blobs.put(_nothing())
        now = self._parts.clock()
        layer = LayerRecord(key=key, blob=empty.hash, size=0, created_at_ms=now, result=result)
        layer = await self._parts.records.put_layer(layer)
        self._keep(draft, key)
        return layer

    def _keep(self, draft: str, key: str) -> str:
        final = os.path.join(self._root, key)
        if not os.path.isdir(final):  # no other task can come in between
            os.rename(draft, final)
        self._finish(key)
        return final

    async def forget(self, key: str) -> None:
        """Remove everything of a layer but its archive."""
        for tasks in (self._archiving, self._compiling):
            task = tasks.get(key)
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        await self._remove(key)
        await self._remove(key + BYTECODE)

    async def _remove(self, name: str) -> None:
        await settled(asyncio.to_thread(folders.remove, self._root, name))

    # -- behind it --

    def _finish(self, key: str) -> None:
        """Do in the background what a layer can do without for now."""
        for tasks, work in ((self._archiving, self._store), (self._compiling, self._compile)):
            self._begin(key, tasks, work)

    def _begin(
        self,
        key: str,
        tasks: dict[str, asyncio.Task[None]],
        work: Callable[[str], Awaitable[None]],
    ) -> None:
        if key not in tasks:
            tasks[key] = task = asyncio.create_task(self._quietly(key, work))
            task.add_done_callback(lambda _: tasks.pop(key))

    async def _quietly(self, key: str, work: Callable[[str], Awaitable[None]]) -> None:
        try:
            async with self._turn:
                await work(key)
        except EraError as error:
            # It is tried again when a server starts; until then the directory serves.
            _log.error("layer not finished", layer=key, exc_info=error)

    async def _store(self, key: str) -> None:
        """Store the archive, unless there is one."""
        if await self._archive(key) is not None:
            return
        async with self.showing(os.path.join(self._root, key)) as box:
            blob = await archives.archive(box, self._parts.blobs)
        await self._parts.records.put_layer(
            LayerRecord(
                key=key + ARCHIVE,
                blob=blob.hash,
                size=blob.size,
                created_at_ms=self._parts.clock(),
                result="{}",
            )
        )

    async def _compile(self, key: str) -> None:
        """Compile the Python modules of a layer, in a box that runs nothing of it."""
        directory = os.path.join(self._root, key)
        final = directory + BYTECODE
        if os.path.isdir(final) or not has_python(directory):
            return
        async with self.draft(key) as draft:
            spec = BoxSpec(
                network=Network.OFFLINE,
                overlays=(Overlay(target=layout.LAYER, lowers=(directory,)),),
                binds=(Bind(source=draft, target=archives.SHOWN, writable=True),),
            )
            async with self._parts.driver.box(spec) as box:
                given(draft, box)
                launch = compile_modules(archives.SHOWN, tools=self._parts.tools)
                program = Program(
                    argv=launch.argv, env=launch.env, cwd="/", timeout_seconds=_COMPILE_SECONDS
                )
                ended = await box.run(program)
            if ended.exit_code == 0:
                os.rename(draft, final)


def given(directory: str, box: Box) -> None:
    """Let the programs of a box write in a directory."""
    if box.owner is not None:
        os.chown(directory, box.owner, box.owner)


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


def has_python(directory: str) -> bool:
    """Whether a layer has Python packages."""
    with _opened(directory) as fd:
        return _holds_something(fd, "python")


def attachment(directory: str) -> Attachment:
    """How to show the layer in `directory`.

    Its names were made by strangers: a part counts only when it is a directory itself, reached
    through no link.
    """
    with _opened(directory) as fd:
        there = {name for name in archives.PARTS if _holds_something(fd, name)}
        has_builds = _holds_something(fd, LAYER_GO_CACHE)
    bytecode = f"{directory}{BYTECODE}"
    lowers = (bytecode, directory) if os.path.isdir(bytecode) else (directory,)
    return Attachment(
        workspace=(f"{directory}/workspace",) if "workspace" in there else (),
        # The root's /node_modules and /package.json are links into the layer.
        overlays=(
            Overlay(target=layout.LAYER, lowers=lowers),
            *(
                Overlay(target=archives.PARTS[name], lowers=(f"{directory}/{name}",))
                for name in ("home", "tmp")
                if name in there
            ),
        ),
        go_cache=f"{directory}/{LAYER_GO_CACHE}" if has_builds else None,
        directory=directory,
    )


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _holds_something(dir_fd: int, path: str) -> bool:
    found = beneath.lstat(dir_fd, path)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return False
    with suppress(PermissionError):
        fd = beneath.open_dir(dir_fd, path)
        try:
            return any(True for _ in beneath.iterate(fd))
        finally:
            os.close(fd)
    return True
