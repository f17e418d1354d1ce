"""Setup layers: packed into one archive in the blob store, unpacked once per machine for runs.

An archive is several tar streams, one after the other, under one zstd frame.  It is written and
read by the tar program of a box and never by this process: what is in it was made by strangers.
A layer's directory is a cache; when it is missing it is made again from the archive.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from era import layout
from era.errors import InternalError, TooLargeError
from era.languages.packages import LAYER_GO_CACHE, LEFT_OUT
from era.models import Network
from era.sandbox.base import Bind, Box, BoxSpec, Driver, Limits, Overlay, Program
from era.sessions import folders
from era.storage.base import Blob, Blobs, Records
from era.workspace import beneath
from era.workspace.failures import settled
from era.workspace.rules import SECRET_NAMES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_UNPACKED: Final = f"{layout.RUNTIMES}/unpacked"
"""Where the new directory of a layer is shown, writable, to the box that unpacks it."""
_LEVEL: Final = 3
_CHUNK: Final = 1 << 20
_UNPACK_SECONDS: Final = 3600.0
_TAR: Final = "/usr/bin/tar"
_FIND: Final = "/usr/bin/find"
_ENV: Final = {"PATH": f"{layout.BIN}:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_PARTS: Final = {"workspace": layout.WORKSPACE, "home": layout.HOME, "tmp": layout.TMP}
"""Directory of the layer: what of the box it holds."""


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
    """The layers of this machine, below the directory `root`."""

    def __init__(self, root: str, records: Records, blobs: Blobs, driver: Driver) -> None:
        self._root = root
        self._records = records
        self._blobs = blobs
        self._driver = driver
        self._unpacking: dict[str, asyncio.Task[str]] = {}
        self._pins: dict[str, int] = {}

    async def start(self) -> None:
        """Remove what an interrupted unpacking left; after a reboot of the machine, everything,
        since directories are never flushed to the disk."""
        await asyncio.to_thread(folders.clean, self._root)

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
        """The directory of the unpacked layer; unpacks it when this machine has not yet.

        Raises:
            InternalError: the layer is lost.
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

    def _unpacked(self, key: str, task: asyncio.Task[str]) -> None:
        del self._unpacking[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have left; it is looked at here

    async def forget(self, key: str) -> None:
        """Remove the directory of a layer."""
        await settled(asyncio.to_thread(folders.remove, self._root, key))

    async def _unpack(self, key: str) -> str:
        layer = await self._records.layer(key)
        if layer is None:
            raise InternalError("execution_failed")
        name = folders.unfinished(key)
        temporary, final = os.path.join(self._root, name), os.path.join(self._root, key)
        os.mkdir(temporary, 0o755)
        try:
            await self._fill(temporary, layer.blob)
            with suppress(FileExistsError):
                os.rename(temporary, final)
        finally:
            await self.forget(name)
        return final

    async def _fill(self, directory: str, blob: str) -> None:
        spec = BoxSpec(
            limits=Limits(),
            network=Network.OFFLINE,
            binds=(Bind(source=directory, target=_UNPACKED, writable=True),),
        )
        async with self._driver.box(spec) as box:
            if box.owner is not None:
                os.chown(directory, box.owner, box.owner)
            argv = (_TAR, "--extract", "--ignore-zeros", "--no-same-owner", "--same-permissions",
                    "--delay-directory-restore", f"--directory={_UNPACKED}")  # fmt: skip
            await _fed(box, argv, _decompressed(self._blobs.open(blob)))

    # -- for setups --

    async def pack(self, box: Box, limit_bytes: int) -> Blob:
        """Store what the programs of `box` have left as an archive.

        Raises:
            TooLargeError: `file_too_large`, when it is more than `limit_bytes`.
            UnavailableError: `storage_full`.
        """
        await _run(box, _prune())
        read, write = os.pipe2(os.O_CLOEXEC)
        stored = asyncio.create_task(self._blobs.put(_compressed(read, limit_bytes)))
        packed = asyncio.create_task(_pack_all(box, write))
        try:
            await asyncio.wait((stored, packed), return_when=asyncio.FIRST_EXCEPTION)
            if packed.done() and packed.exception() is not None and not stored.done():
                await packed
            return await stored
        finally:
            for task in (packed, stored):
                task.cancel()
            await asyncio.wait((packed, stored))
            os.close(read)


def attachment(directory: str) -> Attachment:
    """How to show the unpacked layer in `directory`.

    Its names were made by strangers: a part counts only when it is a directory itself, reached
    through no link.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        there = {name for name in ("workspace", "home", "tmp") if _holds_something(fd, name)}
        has_builds = _holds_something(fd, LAYER_GO_CACHE)
    finally:
        os.close(fd)
    return Attachment(
        workspace=(f"{directory}/workspace",) if "workspace" in there else (),
        # The root's /node_modules and /package.json are links into the layer.
        overlays=(
            Overlay(target=layout.LAYER, lowers=(directory,)),
            *(
                Overlay(target=_PARTS[name], lowers=(f"{directory}/{name}",))
                for name in ("home", "tmp")
                if name in there
            ),
        ),
        go_cache=f"{directory}/{LAYER_GO_CACHE}" if has_builds else None,
        directory=directory,
    )


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


# --- programs of the box --------------------------------------------------------------------------


def _prune() -> tuple[str, ...]:
    """Delete what is never kept of workspace, HOME and /tmp: secret-like names, pipes, sockets."""
    tests: list[str] = ["-type", "p", "-o", "-type", "s"]
    for name in sorted(SECRET_NAMES):
        test = ("-ipath", f"*/{name}") if "/" in name else ("-iname", name)
        tests += ["-o", "(", "!", "-type", "d", *test, ")"]
    return (_FIND, *_PARTS.values(), "-xdev", "-depth", "(", *tests, ")", "-delete")


def _pack(directory: str, part: str) -> tuple[str, ...]:
    """Write one part of the layer, below its name; `part` is empty for the layer's own directory."""
    left_out = [*_PARTS, *LEFT_OUT] if not part else LEFT_OUT
    prefix = f"{part}/" if part else ""
    excluded = [path.removeprefix(prefix) for path in left_out if path.startswith(prefix)]
    return (
        *(_TAR, "--create", "--format=pax", "--sort=name", "--numeric-owner", "--owner=0"),
        *("--group=0", "--ignore-failed-read", "--anchored"),
        *(f"--exclude=./{path}" for path in excluded),
        # Names of files and targets of hard links get the prefix, targets of links do not.
        *((rf"--transform=s,^\.,{part},S",) if part else ()),
        *(f"--directory={directory}", "."),
    )


async def _pack_all(box: Box, write: int) -> None:
    """Write every part of the layer to the pipe `write`, and close it."""
    try:
        await _run(box, _pack(layout.LAYER, ""), stdout_fd=write)
        for part, directory in _PARTS.items():
            await _run(box, _pack(directory, part), stdout_fd=write)
    finally:
        os.close(write)


async def _run(
    box: Box,
    argv: tuple[str, ...],
    *,
    stdin_fd: int | None = None,
    stdout_fd: int | None = None,
) -> None:
    program = Program(
        argv=argv,
        env=_ENV,
        cwd="/",
        timeout_seconds=_UNPACK_SECONDS,
        stdin_fd=stdin_fd,
        stdout_fd=stdout_fd,
    )
    ended = await box.run(program)
    if ended.exit_code not in (0, 1):  # 1: something was left out, as asked
        raise InternalError("execution_failed")


async def _fed(box: Box, argv: tuple[str, ...], chunks: AsyncIterator[bytes]) -> None:
    """Run a program with `chunks` as its standard input."""
    read, write = os.pipe2(os.O_CLOEXEC)
    fed = asyncio.create_task(_feed(write, chunks))
    try:
        await _run(box, argv, stdin_fd=read)
    finally:
        os.close(read)  # a feeder that waits for a reader gives up
        fed.cancel()
        await asyncio.wait((fed,))
    if not fed.cancelled():
        fed.result()


async def _feed(write: int, chunks: AsyncIterator[bytes]) -> None:
    try:
        async for chunk in chunks:
            await settled(asyncio.to_thread(_write_all, write, chunk))
    except BrokenPipeError:
        pass  # the program's exit code tells why it read no more
    finally:
        os.close(write)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


# --- streams --------------------------------------------------------------------------------------


async def _compressed(fd: int, limit_bytes: int) -> AsyncIterator[bytes]:
    """What is read from a pipe until its end, compressed."""
    compressor = zstd.ZstdCompressor(level=_LEVEL)
    size = 0
    while chunk := await settled(asyncio.to_thread(os.read, fd, _CHUNK)):
        size += len(chunk)
        if size > limit_bytes:
            raise TooLargeError("file_too_large", limit_bytes)
        if packed := await asyncio.to_thread(compressor.compress, chunk):
            yield packed
    yield compressor.flush()


async def _decompressed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The bytes of a zstd stream, in bounded pieces."""
    decompressor = zstd.ZstdDecompressor()
    async for chunk in chunks:
        data = chunk
        while data or not decompressor.needs_input:
            piece = await asyncio.to_thread(decompressor.decompress, data, _CHUNK)
            data = b""
            if piece:
                yield piece
            if decompressor.eof:
                return
