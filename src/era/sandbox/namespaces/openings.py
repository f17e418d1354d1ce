"""Boxes opened and closed at the launcher: requests, and who waits for their answers.

Everything here runs in the server's event loop.
"""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import suppress
from typing import Any, Final

from era.sandbox.namespaces.refusals import SCRATCH, refused
from era.sandbox.namespaces.spawn import Launcher, LauncherLost

_OPEN_SECONDS: Final = 30.0
"""Scratch space is there in milliseconds; what takes so long has stopped."""


class Openings:
    """The boxes that are being opened or closed, by number."""

    def __init__(self) -> None:
        self._opened: dict[int, asyncio.Future[int]] = {}
        self._closed: dict[int, asyncio.Future[None]] = {}

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an answer."""
        return bool(self._opened or self._closed)

    async def open(self, launcher: Launcher, number: int, disk_bytes: int) -> int:
        """A new box; the descriptor of its workspace.

        Raises:
            EraError: `server_busy`, `storage_full` or `execution_failed`; LauncherLost.
        """
        opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._opened[number] = opened
        try:
            launcher.send({"request": "open", "box": number, "disk_bytes": disk_bytes})
            await asyncio.wait({opened}, timeout=_OPEN_SECONDS)
            if not opened.done():
                launcher.give_up()
            return await opened
        except asyncio.CancelledError:
            if opened.done() and not opened.cancelled() and opened.exception() is None:
                _let_go(launcher, number, [opened.result()])
            raise
        finally:
            self._opened.pop(number, None)

    async def close(self, launcher: Launcher, number: int) -> None:
        """Have the launcher take a box away; with the launcher every box is gone."""
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed[number] = closed
        try:
            launcher.send({"request": "close", "box": number})
            await closed
        except LauncherLost:
            self._closed.pop(number, None)

    # -- what the launcher says --

    def was_opened(self, launcher: Launcher | None, number: int, fds: list[int]) -> None:
        """A box is open; one that nobody waits for any more is closed again."""
        opened = self._opened.pop(number, None)
        wanted = opened is not None and not opened.done()
        if opened is not None and wanted and fds:
            opened.set_result(fds[0])
            return
        if opened is not None and wanted:  # this process has no room for the descriptor
            opened.set_exception(refused(SCRATCH, errno.EMFILE))
        if launcher is not None:
            _let_go(launcher, number, fds)

    def was_refused(self, message: dict[str, Any]) -> None:
        """No box was opened; or one was not closed properly, whose scratch goes with the launcher."""
        if message["request"] == "close":
            self.was_closed(message["box"])
            return
        opened = self._opened.pop(message["box"], None)
        if opened is not None and not opened.done():
            opened.set_exception(refused(SCRATCH, message["errno"]))

    def was_closed(self, number: int) -> None:
        """A box is gone."""
        closed = self._closed.pop(number, None)
        if closed is not None and not closed.done():
            closed.set_result(None)

    def launcher_lost(self) -> None:
        """Nothing is opened any more, and everything is closed."""
        for opened in self._opened.values():
            if not opened.done():
                opened.set_exception(LauncherLost())
        for closed in self._closed.values():
            if not closed.done():
                closed.set_result(None)
        self._opened.clear()
        self._closed.clear()


def _let_go(launcher: Launcher, number: int, fds: list[int]) -> None:
    """Close a box that came when nobody waited for it any more, or that came without `fds`."""
    for fd in fds:
        os.close(fd)
    with suppress(LauncherLost):
        launcher.send({"request": "close", "box": number})
