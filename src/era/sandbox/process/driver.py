"""The `process` tier: separate processes and resource limits only, no boundary of its own.

It is for a platform that gives each session a machine of its own (a microVM) in which no namespaces
can be made.  What it does not enforce is in `UNENFORCED`, said in `/health` and in every result.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

from era.errors import UnavailableError
from era.sandbox.base import Box, BoxSpec, RootImage
from era.sandbox.process import guard
from era.sandbox.process.box import ProcessBox, finished

UNENFORCED: Final = (
    "no boundary but the platform's: programs are plain processes of the service's user",
    "the network is not restricted",
    "CPU and disk are not limited; memory is looked at 20 times a second",
    "what is read-only is not protected from writing",
)


class ProcessDriver:
    """Keeps `Driver` with plain processes.

    `directory` is its own.  `python` runs the supervisor of each program.  `fixed` is the path of a
    symbolic link to the root of the box whose program began last; where an image has /workspace and
    the others as links through it, absolute names inside programs work too.  `closed_ports` are not
    reached by `connect`.  `guarded`: `guard.protect` was called in this process.
    """

    tier = "process"

    def __init__(
        self,
        directory: str,
        image: RootImage | None = None,
        *,
        python: str = "/usr/bin/python3",
        fixed: str = "",
        closed_ports: frozenset[int] = frozenset(),
        guarded: bool = False,
    ) -> None:
        self._directory = directory
        self._image = image or RootImage()
        self._python = python
        self._fixed = fixed
        self._closed_ports = closed_ports
        self._guarded = guarded
        self.boxes: set[ProcessBox] = set()

    @property
    def unenforced(self) -> tuple[str, ...]:
        """See `Driver`."""
        return UNENFORCED

    @property
    def owner(self) -> int | None:
        """The host uid of files that boxes must be able to change: the service's own."""
        return None

    async def start(self) -> None:
        """See `Driver`."""
        await self.close()
        os.makedirs(self._directory, mode=0o700, exist_ok=True)

    async def close(self) -> None:
        """See `Driver`."""
        await finished(_removed(self._directory))

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """See `Driver.box`."""
        return self._box(spec)

    @asynccontextmanager
    async def _box(self, spec: BoxSpec) -> AsyncIterator[Box]:
        root = tempfile.mkdtemp(dir=self._directory)
        box = ProcessBox(
            spec,
            root,
            image=self._image,
            python=self._python,
            unenforced=self.unenforced,
            closed_ports=self._closed_ports,
        )
        try:
            try:
                await finished(asyncio.to_thread(box.make))
            except OSError as error:
                raise UnavailableError("storage_full") from error
            self._point(box)
            self.boxes.add(box)
            yield box
        finally:
            self.boxes.discard(box)
            box.close()
            if self._guarded and box.broken:
                known = {one.supervisor for one in self.boxes if one.supervisor is not None}
                guard.end_strays(known)
            await finished(_removed(root))

    def _point(self, box: ProcessBox) -> None:
        if self._fixed:
            with suppress(FileNotFoundError):
                os.unlink(self._fixed)
            os.symlink(f"{box.root}/root", self._fixed)


async def _removed(directory: str) -> None:
    """Remove it with all that is in it, however deep or closed a program has made that."""
    try:
        await asyncio.to_thread(shutil.rmtree, directory)
    except FileNotFoundError:
        return
    except (OSError, RecursionError):
        for argv in (("chmod", "-R", "u+rwx", directory), ("rm", "-rf", "--", directory)):
            process = await asyncio.create_subprocess_exec(*argv, stderr=asyncio.subprocess.DEVNULL)
            await process.wait()
