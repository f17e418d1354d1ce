"""Modules of deno programs: fetched before a run by a box that runs no code of the program's, kept
for all programs that want the same.

What is kept is a directory for each key: complete or not there, and never changed again.  A run
sees it below a layer of its own.  So what one program wants or does changes nothing for another.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakValueDictionary

from era import layout
from era.errors import InternalError, UnavailableError
from era.languages.environment import DENO_CACHE
from era.languages.table import Launch, Tools, keep_modules
from era.models import Network
from era.sandbox.base import Bind, Box, BoxSpec, Driver, Exit, Limits, Overlay, Program
from era.sessions import folders
from era.sessions.graphs import Wanted
from era.sessions.kept import Bounds, Kept
from era.sessions.settings import ModuleLimits
from era.workspace import stage
from era.workspace.failures import settled, translated

_KEPT: Final = f"{layout.RUNTIMES}/modules"
"""Where the new directory is shown, writable, to the box that fills it."""
_MODULES: Final = "modules"
_LEAST_SECONDS: Final = 1.0
_COPY_SECONDS: Final = 600.0
_CERTIFICATES: Final = f"{layout.TMP}/.era-certificates.pem"
"""In the box that fetches, which is gone before the program runs."""
_FULL: Final = b"No space left on device"
_UNAUTHORIZED: Final = re.compile(rb"\b401\b|\b403\b|Unauthorized", re.IGNORECASE)
_NO_CREDENTIAL: Final = (
    b"hint: a registry asks for a credential. Those of the operator are given to the installers of"
    b" setups alone: name the package in `setup.npm` of a session, and import it as you do.\n"
)


class UnresolvedError(Exception):
    """The modules of a program cannot be had; `outcome` is that of its run."""

    def __init__(self, outcome: Exit) -> None:
        super().__init__("modules unresolved")
        self.outcome: Final = outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetched:
    """What a box has fetched: `kib` of it, and whether it is all that the key names."""

    kib: int
    complete: bool


class Modules:
    """The modules kept on this machine, below the directory `root`, which is the caller's."""

    def __init__(self, root: str, driver: Driver, tools: Tools, limits: ModuleLimits) -> None:
        bounds = Bounds(size_bytes=limits.cache_bytes, count=limits.cache_graphs)
        self._kept = Kept(root, bounds)
        self._driver = driver
        self._tools = tools
        self._limits = limits
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Find what earlier servers have kept."""
        await self._kept.start()

    async def close(self) -> None:
        """Wait until what has to be removed is."""
        await self._kept.close()

    async def ready(
        self, wanted: Wanted, spec: BoxSpec, files: Mapping[str, bytes], held: ExitStack
    ) -> BoxSpec:
        """The box of a run, with the modules that its program wants, which are fetched if need be.

        `spec` and `files` are what the run is about to get, with an empty cache of deno's.  The
        modules stay until `held` is closed.

        Raises:
            UnresolvedError: they cannot be had.
        """
        held.enter_context(self._kept.pinned(wanted.key))
        lock = self._locks.setdefault(wanted.key, asyncio.Lock())
        async with lock:
            name = wanted.key
            if not self._kept.use(name):
                name = await self._fetch(wanted, spec, files, held)
        lower = self._kept.path(name, _MODULES)
        others = (overlay for overlay in spec.overlays if overlay.target != DENO_CACHE)
        return replace(spec, overlays=(*others, Overlay(target=DENO_CACHE, lowers=(lower,))))

    # -- fetching --

    async def _fetch(
        self, wanted: Wanted, spec: BoxSpec, files: Mapping[str, bytes], held: ExitStack
    ) -> str:
        """Fetch the modules into a new directory; its name.  It is kept for others when it holds all
        that its key names, else for this run alone."""
        draft = folders.unfinished(wanted.key)
        directory = self._kept.path(draft, _MODULES)
        with translated():
            try:
                os.makedirs(directory, mode=0o755)
                fetched = await self._fetched(wanted, spec, files, directory)
                if fetched.complete:
                    self._kept.keep(draft, wanted.key, fetched.kib << 10)
                    return wanted.key
            except BaseException:
                self._kept.remove(draft)
                raise
        held.callback(self._kept.remove, draft)
        return draft

    async def _fetched(
        self, wanted: Wanted, spec: BoxSpec, files: Mapping[str, bytes], directory: str
    ) -> _Fetched:
        deadline = time.monotonic() + self._limits.timeout_seconds
        bind = Bind(source=directory, target=_KEPT, writable=True)
        async with self._driver.box(self._spec(spec, bind)) as box:
            if box.owner is not None:
                os.chown(directory, box.owner, box.owner)
            placed = {**files, **wanted.program.files, **wanted.everything.files}
            await settled(asyncio.to_thread(stage.place, box.workspace_fd, placed, owner=box.owner))
            certificates = self._limits.certificates
            if certificates is not None:
                tee = Program(argv=("/usr/bin/tee", _CERTIFICATES), stdin=certificates)
                await box.run(replace(tee, output_bytes=0))
            whole = await self._step(box, self._trusting(wanted.everything), deadline)
            complete = whole.exit_code == 0
            kib = 0
            if complete and not wanted.unclear:
                # Before anything but the key has had a say: no program chooses for another.
                kib = await self._copied(box)
            ended = await self._step(box, self._trusting(wanted.program), deadline)
            if ended.exit_code != 0:
                raise UnresolvedError(self._outcome(ended))
            return _Fetched(kib=kib or await self._copied(box), complete=complete)

    def _trusting(self, launch: Launch) -> Launch:
        """The resolver with the operator's certificates."""
        if self._limits.certificates is None:
            return launch
        return replace(launch, env={**launch.env, "DENO_CERT": _CERTIFICATES})

    async def _copied(self, box: Box) -> int:
        """Copy what was fetched to where it is kept; how many KiB that are."""
        ended = await self._step(box, keep_modules(_KEPT, tools=self._tools), None)
        if ended.exit_code != 0:
            if _FULL in ended.stderr:
                raise UnavailableError("storage_full")
            raise InternalError("execution_failed")
        return int(ended.stdout.split()[0])

    def _spec(self, spec: BoxSpec, bind: Bind) -> BoxSpec:
        """The box that fetches: what the run sees, and a way to the registries."""
        limits = self._limits
        return BoxSpec(
            limits=Limits(
                memory_bytes=limits.memory_mib << 20,
                cpus=limits.cpus,
                disk_bytes=limits.graph_bytes,
            ),
            network=Network.REGISTRIES,
            workspace=spec.workspace,
            overlays=spec.overlays,
            binds=(*spec.binds, bind),
        )

    async def _step(self, box: Box, launch: Launch, deadline: float | None) -> Exit:
        left = _COPY_SECONDS
        if deadline is not None:
            left = max(deadline - time.monotonic(), _LEAST_SECONDS)
        program = Program(
            argv=launch.argv, env=launch.env, timeout_seconds=left, output_bytes=64 << 10
        )
        return await box.run(program)

    def _outcome(self, ended: Exit) -> Exit:
        """The outcome of a run that did not start; the program had no time of its own."""
        words = ended.stderr
        if ended.timed_out:
            seconds = f"{self._limits.timeout_seconds:g}"
            words += f"error: the modules were not resolved within {seconds} seconds\n".encode()
        elif ended.signal is not None or not words:
            words += b"error: the modules could not be resolved: the resolver was killed\n"
        elif _UNAUTHORIZED.search(words):
            words += _NO_CREDENTIAL
        return Exit(exit_code=1, stdout=b"", stderr=words, stderr_truncated=ended.stderr_truncated)
