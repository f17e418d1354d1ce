"""Programs that have to be compiled: made in a box of their own, and kept for their session.

The box that compiles runs a compiler and nothing of the program.  When every process of it is dead,
the program is copied out of it to a file of the service's own, which other boxes see read-only at
`layout.PROGRAM`.  So nothing that a program does can change what is kept, and what is kept follows
from what its key names: code, files, variables and tools (`goinputs`).  A key begins with the
session it is for, so no session is given what another one made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from era import layout
from era.languages.environment import of_build
from era.languages.table import Launch
from era.models import Network, Usage
from era.sandbox.base import Bind, Box, BoxSpec, Driver, Exit, Program
from era.sessions import folders
from era.sessions.kept import Bounds, Kept
from era.sessions.settings import ProgramLimits
from era.workspace import beneath
from era.workspace.failures import settled, translated

_PROGRAM: Final = "program"
_ANONYMOUS: Final = "unnamed"
_CHUNK: Final = 1 << 24
_MODE: Final = 0o555
_LEAST_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A program to be made: `program` leaves it as `product` at the workspace root.

    `key` names everything that decides what it becomes (see `key_of`); empty when that is not known,
    or nothing shall be kept.
    """

    program: Program
    product: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A program that can be started: `path` on the host.  `ended` is how its making ended, None
    when it was there.  Without a `path` that is the outcome of the run; `words` are to be added to
    its stderr."""

    path: str | None = None
    ended: Exit | None = None
    words: bytes = b""


Perform = Callable[[Box, Program], Awaitable[Exit]]
"""Places the files of the run in a box, and runs one program of it there."""


def key_of(uid: int, digest: str) -> str:
    """The key of a session's program."""
    return f"{_prefix(uid)}{digest}"


def _prefix(uid: int | str) -> str:
    return f"{uid}-"


class Builds:
    """The compiled programs on this machine, below the directory `root`, which is the caller's."""

    def __init__(self, root: str, driver: Driver, limits: ProgramLimits) -> None:
        bounds = Bounds(size_bytes=limits.cache_bytes, count=limits.cache_programs)
        self._kept = Kept(root, bounds)
        self._driver = driver
        self._limits = limits

    async def start(self) -> None:
        """Find what earlier servers have kept."""
        await self._kept.start()

    async def close(self) -> None:
        """Wait until what has to be removed is."""
        await self._kept.close()

    def uids(self) -> frozenset[int]:
        """The sessions for which something is kept."""
        return frozenset(int(name.partition("-")[0]) for name in self._kept.names())

    def drop(self, uid: int) -> None:
        """Remove what is kept for a session."""
        self._kept.forget(_prefix(uid))

    async def ready(self, wanted: Wanted, spec: BoxSpec, perform: Perform, held: ExitStack) -> Made:
        """The program, made if it is not there; it stays until `held` is closed.

        Raises:
            UnavailableError: `storage_full`, when there is no room for it.
        """
        if wanted.key:
            held.enter_context(self._kept.pinned(wanted.key))
            if self._kept.use(wanted.key):
                return Made(path=self._kept.path(wanted.key, _PROGRAM))
        draft = folders.unfinished(wanted.key or _ANONYMOUS)
        try:
            with translated():
                os.mkdir(self._kept.path(draft), mode=0o755)
            made, size = await self._make(wanted, spec, perform, self._kept.path(draft, _PROGRAM))
            if made.path is None or not wanted.key:
                held.callback(self._kept.remove, draft)
                return made
            self._keep(draft, wanted.key, size)
        except BaseException:
            self._kept.remove(draft)
            raise
        return replace(made, path=self._kept.path(wanted.key, _PROGRAM))

    async def _make(
        self, wanted: Wanted, spec: BoxSpec, perform: Perform, path: str
    ) -> tuple[Made, int]:
        """The program at `path`, and its size."""
        # A build is offline whatever the run may reach, and no interpreter waits for it.
        spec = replace(spec, network=Network.OFFLINE, interpreter="")
        async with self._driver.box(spec) as box:
            ended = await perform(box, wanted.program)
            if not _succeeded(ended):
                return Made(ended=ended), 0
            # No process of the box is left, so what is there does not change any more.
            copying = asyncio.to_thread(
                _take, box.workspace_fd, wanted.product, path, self._limits.program_bytes
            )
            size = await settled(copying)
        if size is None:
            return Made(ended=replace(ended, exit_code=1), words=_NOTHING_MADE), 0
        return Made(path=path, ended=ended), size

    def _keep(self, draft: str, key: str, size: int) -> None:
        limits = self._limits
        with translated():
            self._kept.keep(draft, key, size)
        bounds = Bounds(size_bytes=limits.session_bytes, count=limits.session_programs)
        self._kept.trim(bounds, _prefix(key.partition("-")[0]))


_NOTHING_MADE: Final = b"the program was not made, or is too large\n"


def _succeeded(ended: Exit) -> bool:
    return ended.exit_code == 0 and not (ended.timed_out or ended.cancelled or ended.oom_killed)


def _take(dir_fd: int, name: str, path: str, max_bytes: int) -> int | None:
    """Copy the regular file `name`, which strangers made, to `path`, which boxes may execute; its
    size, None when there is none or it is too large."""
    try:
        source = beneath.open_regular(dir_fd, name)
    except OSError:
        return None
    with translated(), os.fdopen(source, "rb"):
        size = os.fstat(source).st_size
        if size > max_bytes:
            return None
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = size
            while left and (sent := os.sendfile(target, source, None, min(left, _CHUNK))):
                left -= sent
            os.fchmod(target, _MODE)
        finally:
            os.close(target)
    return None if left else size


def to_build(launch: Launch, program: Program, request_env: Mapping[str, str]) -> Wanted | None:
    """What has to be made before the `program` of a launch can start; nothing is kept of it."""
    if launch.build is None:
        return None
    env = of_build(launch.env, request_env)
    compiler = replace(program, argv=launch.build.argv, env=env, stdin=b"")
    return Wanted(program=compiler, product=launch.build.product)


def started(made: Made, spec: BoxSpec, program: Program) -> tuple[BoxSpec, Program]:
    """The box in which a made program is seen, and the program with the time that is left for it."""
    assert made.path is not None
    spec = replace(spec, binds=(*spec.binds, Bind(source=made.path, target=layout.PROGRAM)))
    if made.ended is None or not program.timeout_seconds:
        return spec, program
    left = program.timeout_seconds - made.ended.duration_ns / 1e9
    return spec, replace(program, timeout_seconds=max(left, _LEAST_SECONDS))


def together(before: Exit | None, ended: Exit) -> Exit:
    """The outcome of a run that began with another program."""
    if before is None:
        return ended
    one, other = before.usage, ended.usage
    usage = Usage(
        cpu_ms=_known(one.cpu_ms, other.cpu_ms, sum),
        peak_memory_bytes=_known(one.peak_memory_bytes, other.peak_memory_bytes, max),
    )
    duration_ns = before.duration_ns + ended.duration_ns
    return replace(ended, duration_ns=duration_ns, usage=usage)


def _known(one: int | None, other: int | None, combined: Callable[[list[int]], int]) -> int | None:
    return None if one is None or other is None else combined([one, other])
