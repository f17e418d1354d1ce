"""What programs of a box do with whole directories: copied from box to box, archived, unpacked.

Everything in these directories was made by strangers, so the tar program of a box reads and writes
it and never this process, which only carries bytes.  An archive may be several tar streams, one after
the other, under one zstd frame.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Final

from era import layout
from era.errors import InternalError, TooLargeError
from era.languages.packages import LEFT_OUT
from era.sandbox.base import Box, Program
from era.storage.base import Blob, Blobs
from era.workspace.failures import settled
from era.workspace.rules import SECRET_NAMES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SHOWN: Final = f"{layout.RUNTIMES}/unpacked"
"""Where a directory of the host is shown to the box that fills or reads it."""
PARTS: Final[Mapping[str, str]] = {
    "workspace": layout.WORKSPACE,
    "home": layout.HOME,
    "tmp": layout.TMP,
}
"""Directory of a layer: what of the box it holds."""

_LEVEL: Final = 3
_CHUNK: Final = 1 << 20
_SECONDS: Final = 3600.0
_TAR: Final = "/usr/bin/tar"
_FIND: Final = "/usr/bin/find"
_BLOCKS: Final = "--blocking-factor=512"
_ENV: Final = {"PATH": f"{layout.BIN}:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_OWNERLESS: Final = (
    *("--create", "--format=pax", "--numeric-owner", "--owner=0", "--group=0", "--mode=ug-s"),
)
"""Without owners, and without the bits that would give an owner's rights: a layer becomes files of the
host."""
_EXTRACT: Final = (
    *(_TAR, "--extract", _BLOCKS, "--ignore-zeros", "--no-same-owner", "--same-permissions"),
    *("--delay-directory-restore", f"--directory={SHOWN}"),
)


async def copy_out(box: Box, into: Box, limit_bytes: int) -> None:
    """Copy what the programs of `box` have left, as a layer has it, to `SHOWN` of `into`.

    Raises:
        TooLargeError: `file_too_large`, when it is more than `limit_bytes`.
        InternalError: a program of a box failed.
    """
    await _run(box, _prune())
    from_box, written = os.pipe2(os.O_CLOEXEC)
    read, to_box = os.pipe2(os.O_CLOEXEC)
    # In the order in which their failures are told: the first may be the cause of the others.
    tasks = [
        asyncio.create_task(_carried(from_box, to_box, limit_bytes)),
        asyncio.create_task(_unpacked(into, read)),
        asyncio.create_task(_pack_all(box, written)),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in sorted(done, key=tasks.index):
            task.result()
    except BrokenPipeError:
        raise InternalError("execution_failed") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def archive(box: Box, blobs: Blobs) -> Blob:
    """Store the directory that `box` sees at `SHOWN` as an archive.

    Raises:
        UnavailableError: `storage_full`.
        InternalError: the program of the box failed.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    stored = asyncio.create_task(blobs.put(_compressed(read)))
    options = ("--sort=name", "--ignore-failed-read", f"--directory={SHOWN}")
    argv = (_TAR, *_OWNERLESS, _BLOCKS, *options, ".")
    packed = asyncio.create_task(_written(box, argv, write))
    try:
        await asyncio.wait((stored, packed), return_when=asyncio.FIRST_EXCEPTION)
        if packed.done():
            packed.result()
        return await stored
    finally:
        for task in (packed, stored):
            task.cancel()
        await asyncio.wait((packed, stored))
        os.close(read)


async def unpack(box: Box, blobs: Blobs, blob: str) -> None:
    """Unpack an archive into the directory that `box` sees at `SHOWN`.

    Raises:
        InternalError: the program of the box failed, or the archive is lost.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    fed = asyncio.create_task(_feed(write, _decompressed(blobs.open(blob))))
    try:
        await _run(box, _EXTRACT, stdin_fd=read)
    finally:
        os.close(read)  # a feeder that waits for a reader gives up
        fed.cancel()
        await asyncio.wait((fed,))
    if not fed.cancelled():
        fed.result()


# --- programs of the box --------------------------------------------------------------------------


def _prune() -> tuple[str, ...]:
    """Delete what is never kept of workspace, HOME and /tmp: secret-like names, pipes, sockets."""
    tests: list[str] = ["-type", "p", "-o", "-type", "s"]
    for name in sorted(SECRET_NAMES):
        test = ("-ipath", f"*/{name}") if "/" in name else ("-iname", name)
        tests += ["-o", "(", "!", "-type", "d", *test, ")"]
    return (_FIND, *PARTS.values(), "-xdev", "-depth", "(", *tests, ")", "-delete")


def _pack(directory: str, part: str) -> tuple[str, ...]:
    """Write one part of the layer, below its name; `part` is empty for the layer's own directory."""
    left_out = [*PARTS, *LEFT_OUT] if not part else LEFT_OUT
    prefix = f"{part}/" if part else ""
    excluded = [path.removeprefix(prefix) for path in left_out if path.startswith(prefix)]
    return (
        *(_TAR, *_OWNERLESS, _BLOCKS, "--ignore-failed-read", "--anchored"),
        *(f"--exclude=./{path}" for path in excluded),
        # Names of files and targets of hard links get the prefix, targets of links do not.
        *((rf"--transform=s,^\.,{part},S",) if part else ()),
        *(f"--directory={directory}", "."),
    )


async def _pack_all(box: Box, write: int) -> None:
    """Write every part of the layer to the pipe `write`, and close it."""
    try:
        await _run(box, _pack(layout.LAYER, ""), stdout_fd=write)
        for part, directory in PARTS.items():
            await _run(box, _pack(directory, part), stdout_fd=write)
    finally:
        os.close(write)


async def _written(box: Box, argv: tuple[str, ...], write: int) -> None:
    """Run a program whose output is the pipe `write`, and close it."""
    try:
        await _run(box, argv, stdout_fd=write)
    finally:
        os.close(write)


async def _unpacked(box: Box, read: int) -> None:
    """Unpack what comes on the pipe `read`, and close it."""
    try:
        await _run(box, _EXTRACT, stdin_fd=read)
    finally:
        os.close(read)


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
        timeout_seconds=_SECONDS,
        stdin_fd=stdin_fd,
        stdout_fd=stdout_fd,
    )
    ended = await box.run(program)
    if ended.exit_code not in (0, 1):  # 1: something was left out, as asked
        raise InternalError("execution_failed")


# --- bytes ----------------------------------------------------------------------------------------


async def _carried(read: int, write: int, limit_bytes: int) -> None:
    """Carry what is read to the other pipe until the end, and close both.  In steps, so that a
    cancelled task stops: no descriptor is closed while a thread still uses it."""
    size = 0
    try:
        while moved := await settled(asyncio.to_thread(os.splice, read, write, _CHUNK)):
            size += moved
            if size > limit_bytes:
                raise TooLargeError("file_too_large", limit_bytes)
    finally:
        os.close(read)
        os.close(write)


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


async def _compressed(fd: int) -> AsyncIterator[bytes]:
    """What is read from a pipe until its end, compressed."""
    compressor = zstd.ZstdCompressor(level=_LEVEL)
    while chunk := await settled(asyncio.to_thread(os.read, fd, _CHUNK)):
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
