"""How runs end that do not end by themselves: the server stops, their session is deleted, or another
server has taken it.  Nothing of such a run is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from era.errors import EraError, InternalError, NotFoundError
from era.sessions.active import Active, Phase, Registry
from era.sessions.runs import deleted, lost, shutting_down
from era.storage.base import Records
from era.waiting import ended


class Endings:
    """Ends the runs of a registry."""

    def __init__(self, records: Records, registry: Registry) -> None:
        self._records = records
        self._registry = registry
        self._hurried = asyncio.Event()
        self._ending: set[asyncio.Future[None]] = set()

    async def stop(self, grace_seconds: float) -> None:
        """The server stops: what waits ends at once, what runs may finish for `grace_seconds`."""
        for run in self._registry.all():
            if run.phase is Phase.QUEUED:
                run.kill(_stopped)
        await self._grace(grace_seconds)
        for run in self._registry.all():
            run.kill(_stopped)
        await _all_over(self._registry.all(), None)

    def hurry(self) -> None:
        """The grace that `stop` gives is over."""
        self._hurried.set()

    async def delete(self, uids: Sequence[int]) -> None:
        """The sessions are gone: their runs end, and are over when this is."""
        runs = [run for uid in uids for run in self._registry.of(uid)]
        for run in runs:
            run.kill(deleted)
        await _all_over(tuple(runs), None)

    def lose(self, session_id: str, uid: int) -> None:
        """Another node has taken the session, or has deleted it: its runs here are for nothing."""
        if self._registry.of(uid):
            task = asyncio.ensure_future(self._lose(session_id, uid))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _lose(self, session_id: str, uid: int) -> None:
        reason: Callable[[Active], EraError] = lost
        with suppress(InternalError):
            try:
                if (await self._records.get(session_id)).uid != uid:
                    reason = deleted
            except NotFoundError:
                reason = deleted
        for run in self._registry.of(uid):
            run.kill(reason)

    async def _grace(self, seconds: float) -> None:
        over = asyncio.ensure_future(_all_over(self._registry.all(), seconds))
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((over, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await ended((over, hurried))


def _stopped(run: Active) -> EraError:
    if run.phase is Phase.QUEUED:
        return shutting_down(message="the run had not begun")
    output = run.output
    return shutting_down(
        message="the run was ended before its program had; nothing of it was kept",
        run_id=run.run_id,
        stdout=output.text("stdout"),
        stderr=output.text("stderr"),
    )


async def _all_over(runs: tuple[Active, ...], timeout_seconds: float | None) -> None:
    """Wait until nothing of the runs is left, or the time is up."""
    tasks = [run.task for run in runs if run.task is not None]
    if tasks:
        await asyncio.wait(tasks, timeout=timeout_seconds)
