"""The setup worker: pending setups become layers in the background, a bounded number at a time."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, suppress
from typing import Final

import structlog

from era import jsontext
from era.errors import ConflictError, NotFoundError, UnavailableError, session_not_found
from era.languages.asked import parse_setup
from era.models import SessionRecord, SetupStatus
from era.sessions.attempts import Attempt
from era.sessions.install import StepFailedError
from era.sessions.layers import Layers
from era.sessions.packages import PackageLayers
from era.sessions.parts import Parts
from era.sessions.settings import SessionLimits
from era.sessions.specs import INTERRUPTED, Failure, result_text, sealed_spec, without_envs
from era.storage.base import SetupJob
from era.waiting import within

_RETRY_SECONDS: Final = 5
_POLL_SECONDS: Final = 30.0
"""Setups are looked for this often without being told of one."""
_LOOK_SECONDS: Final = 1.0
"""A run that waits for a setup looks this often itself: another server may be doing it."""

_log = structlog.get_logger("era.setups")


def unfinished(record: SessionRecord) -> bool:
    """Whether runs have to wait for the session's first setup."""
    setup = record.setup
    return setup is not None and not setup.status.finished and setup.layer is None


def refuse_unfinished(record: SessionRecord) -> None:
    """Raises ConflictError `setup_pending` when a run would have to wait."""
    if unfinished(record):
        raise _pending(record)


def _pending(record: SessionRecord) -> ConflictError:
    status = record.setup.status if record.setup is not None else SetupStatus.PENDING
    return ConflictError(
        "setup_pending", retry_after_seconds=_RETRY_SECONDS, setup_status=str(status)
    )


class Setups:
    """Does the setups of this server."""

    def __init__(
        self, parts: Parts, limits: SessionLimits, layers: Layers, packages: PackageLayers
    ) -> None:
        self._parts = parts
        self._limits = limits
        self._layers = layers
        self._packages = packages
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._jobs: dict[int, asyncio.Task[None]] = {}
        self._ends: dict[int, asyncio.Event] = {}
        cluster = parts.cluster
        self._owner = cluster.node.name if cluster is not None else ""
        self._prefix = cluster.prefix if cluster is not None else ""
        self._ttl_seconds = cluster.ttl_seconds if cluster is not None else None

    async def start(self) -> None:
        """Take up what an earlier life of this server left unfinished, and begin to work."""
        await self._reset(self._prefix)
        self._loop = asyncio.create_task(self._work())

    async def _reset(self, owner: str | None) -> None:
        """Let setups be claimed again that are nobody's any more, or were `owner`'s."""
        interrupted = result_text(duration_ms=0, failure=Failure(error=INTERRUPTED))
        attempts = self._limits.setups.max_attempts
        await self._parts.records.reset_running_setups(attempts, interrupted, owner)

    async def close(self) -> None:
        """Stop; setups under way start anew when a server starts again, or on another one at once."""
        tasks = [*self._jobs.values(), *([self._loop] if self._loop is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._ttl_seconds is not None:
            await self._reset(self._prefix)

    @property
    def busy(self) -> int:
        """How many setups are under way."""
        return len(self._jobs)

    def wake(self) -> None:
        """A setup has become pending."""
        self._wake.set()

    async def settled(self, record: SessionRecord, *, wait: bool) -> SessionRecord:
        """The session once its first setup has finished.

        Raises:
            ConflictError: `setup_pending`, after the longest wait, or at once without `wait`.
            NotFoundError: `session_not_found`.
        """
        record = await self._with_layer(record)
        with suppress(TimeoutError):
            async with within(self._limits.setups.wait_seconds):
                while wait and await self._has_to_wait(record):
                    ended = self._ends.setdefault(record.uid, asyncio.Event())
                    record = await self._again(record)
                    if await self._has_to_wait(record):
                        with suppress(TimeoutError):
                            async with within(_LOOK_SECONDS):
                                await ended.wait()
        if await self._has_to_wait(record):
            raise _pending(record)
        return record

    async def _has_to_wait(self, record: SessionRecord) -> bool:
        """Whether the setup is unfinished, and no earlier layer can serve."""
        setup = record.setup
        if setup is None or setup.status.finished:
            return False
        return setup.layer is None or await self._layers.is_lost(setup.layer)

    async def _with_layer(self, record: SessionRecord) -> SessionRecord:
        """The session, its setup pending again when the layer is lost: after the machine went down
        within seconds of the setup's end there may be neither a directory nor an archive."""
        setup = record.setup
        if setup is None or setup.layer is None or setup.status is not SetupStatus.COMPLETED:
            return record
        if not await self._layers.is_lost(setup.layer):
            return record
        _log.warning("layer lost, setup starts anew", session_id=record.id)
        spec = without_envs(parse_setup(jsontext.loads(setup.request))[0], setup.request)
        with suppress(ConflictError):  # another run was first
            sealed = sealed_spec(spec, self._parts.seal)
            now = self._parts.clock()
            await self._parts.records.restart_setup(record.id, spec.request, sealed, now)
        self.wake()
        return await self._again(record)

    async def _again(self, record: SessionRecord) -> SessionRecord:
        now = await self._parts.records.get(record.id)
        if now.uid != record.uid:
            raise session_not_found()
        return now

    async def cancel(self, uid: int) -> None:
        """End the setup of a session that is gone, and wait until nothing of it is left."""
        task = self._jobs.get(uid)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        self._ended(uid)

    def _ended(self, uid: int) -> None:
        event = self._ends.pop(uid, None)
        if event is not None:
            event.set()

    async def _work(self) -> None:
        """Start a job for each pending setup, as many at a time as may run."""
        while True:
            self._wake.clear()
            try:
                if self._ttl_seconds is not None:
                    await self._keep(self._ttl_seconds)
                await self._claim()
            except Exception as error:  # noqa: BLE001 - the store may be away for a while
                _log.error("setups cannot be claimed", exc_info=error)
            # Not `wait_for`: on 3.11 it loses a cancel that comes together with the wake.
            with suppress(TimeoutError):
                async with within(min(_POLL_SECONDS, (self._ttl_seconds or 120) / 4)):
                    await self._wake.wait()

    async def _keep(self, ttl_seconds: float) -> None:
        """Keep the setups under way here, end those that are another server's by now, and let those
        of servers that have died be claimed."""
        mine = set(self._jobs)
        kept = await self._parts.records.renew_setups(self._owner, tuple(mine), ttl_seconds)
        for uid in mine - kept:
            if (task := self._jobs.get(uid)) is not None:
                task.cancel()
        await self._reset(None)

    async def _claim(self) -> None:
        while len(self._jobs) < self._limits.setups.concurrent:
            job = await self._parts.records.claim_setup(self._owner, self._ttl_seconds)
            if job is None:
                return
            self._begin(job)

    def _begin(self, job: SetupJob) -> None:
        task = asyncio.create_task(self._job(job))
        self._jobs[job.uid] = task

        def over(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                # Its end could not be stored: it is taken up at the next start.
                _log.error("setup cannot be finished", session_id=job.session_id, exc_info=error)
            del self._jobs[job.uid]
            self._ended(job.uid)
            self.wake()

        task.add_done_callback(over)

    async def _job(self, job: SetupJob) -> None:
        """One setup from its claim to its end, whatever happens.  A cancelled one stays running,
        to be taken up at the next start."""
        while not await self._tried(job):
            pass

    async def _tried(self, job: SetupJob) -> bool:
        """Whether it is over; not, when the layer it had found was swept by another server."""
        started_ns = time.monotonic_ns()
        attempt = Attempt(job, self._parts, self._layers, self._packages, self._limits.setups)
        layer, failure = None, None
        with ExitStack() as pins:
            try:
                layer = await attempt.perform(self._limits.public_url, pins)
            except StepFailedError as error:
                failure = error.failure
            except UnavailableError as error:
                failure = Failure(error=f"{error.text}: {error.extra.get('message', '')}")
            except NotFoundError as error:
                if error.code == "session_not_found":
                    return True
                failure = self._broken(job, error)
            except Exception as error:  # noqa: BLE001 - logged here; the setup has failed
                failure = self._broken(job, error)
            result = result_text(
                duration_ms=(time.monotonic_ns() - started_ns) // 1_000_000,
                cached=attempt.cached,
                done=attempt.done,
                installed=attempt.installed,
                output=attempt.output,
                failure=failure,
            )
            status = SetupStatus.COMPLETED if failure is None else SetupStatus.FAILED
            return await self._finished(job, status, result, layer)

    async def _finished(
        self, job: SetupJob, status: SetupStatus, result: str, layer: str | None
    ) -> bool:
        try:
            await self._parts.records.finish_setup(job.uid, status, result, layer, job.epoch)
        except ConflictError:
            return True  # another server has taken it over
        except NotFoundError as error:
            return error.code == "session_not_found"
        return True

    def _broken(self, job: SetupJob, error: Exception) -> Failure:
        _log.error("setup broke", session_id=job.session_id, exc_info=error)
        return Failure(error=INTERRUPTED)
