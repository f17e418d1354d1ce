"""The one run pipeline: check, wait for a turn, snapshot, box, program, keep, answer.

A run is a task of its own: it goes on when its caller has left.  Executions take the same way,
without a session: nothing to wait for but a slot, nothing kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Final

import structlog

from era.errors import (
    ConflictError,
    EraError,
    InternalError,
    NotFoundError,
    UnavailableError,
    session_not_found,
)
from era.ids import new_run_id, new_vm_id, vm_id_of
from era.models import (
    RunRequest,
    RunResult,
    SessionRecord,
)
from era.sandbox.base import Box, Exit, Program
from era.sessions.active import Active, Output, Phase, Registry, TextSink
from era.sessions.builds import together
from era.sessions.keeping import Keeping, Kept
from era.sessions.nodes import Nodes
from era.sessions.parts import Parts, go_library
from era.sessions.preparing import CANCELLED, Preparing
from era.sessions.queue import Queues
from era.sessions.settings import SessionLimits
from era.sessions.setups import Setups, refuse_unfinished
from era.sessions.snapshots import Snapshot, Snapshots
from era.waiting import within
from era.workspace import stage

_DIRECT_BYTES: Final = 1 << 16
"""Up to here files are placed on the spot; a thread costs more."""

_log = structlog.get_logger("era.runs")


def shutting_down(**more: str) -> UnavailableError:
    """The answer of a server that stops; `more` tells of a run that it ended."""
    return UnavailableError("shutting_down", retry_after_seconds=5, **more)


def deleted(run: Active) -> EraError:
    """What the caller of a run gets when its session was deleted."""
    if run.phase is Phase.QUEUED:
        return session_not_found()
    output = run.output
    return ConflictError(
        "session_deleted", stdout=output.text("stdout"), stderr=output.text("stderr")
    )


def lost(_: Active) -> EraError:
    """What the caller of a run gets when another node has taken its session."""
    return InternalError(
        "execution_failed", message="another node has taken the session over; nothing was kept"
    )


def refuse_stopped(record: SessionRecord) -> None:
    """Raises ConflictError `vm_not_running` for a VM that was stopped."""
    if record.vm is not None and record.vm.stopped:
        raise ConflictError("vm_not_running")


class Runs:
    """Runs code, in sessions and without."""

    def __init__(
        self,
        parts: Parts,
        limits: SessionLimits,
        snapshots: Snapshots,
        setups: Setups,
        preparing: Preparing,
        registry: Registry,
        nodes: Nodes,
    ) -> None:
        self._parts = parts
        self._limits = limits
        self._snapshots = snapshots
        self._setups = setups
        self._preparing = preparing
        self._queues = Queues(limits.queues)
        self._keeping = Keeping(parts, limits)
        self._nodes = nodes
        self.registry = registry

    async def execute(self, request: RunRequest, sink: TextSink | None = None) -> RunResult:
        """Run code once; cancelled with its caller."""
        self._snapshots.check(request, None)
        self._queues.check(None)
        run = self._start(None, request, sink, None)
        return await self._attend(run, request)

    async def run(
        self,
        session_id: str,
        request: RunRequest,
        sink: TextSink | None = None,
        accepted: Callable[[], None] | None = None,
    ) -> RunResult:
        """Run code in a session.  `accepted` is called once nothing can be refused at once."""
        # The session is this node's before its state is read: nobody else changes it from then on.
        async with self._nodes.hold(session_id) as epoch:
            record = await self._parts.records.get(session_id)
            self._snapshots.check(request, record)
            refuse_stopped(record)
            if not request.wait_for_setup:
                refuse_unfinished(record)
            self._queues.check(record.uid, len(self.registry.of(record.uid)))
            run = self._start(record, request, sink, epoch)
            if accepted is not None:
                accepted()
            return await self._attend(run, request)

    # -- the task --

    def _start(
        self,
        record: SessionRecord | None,
        request: RunRequest,
        sink: TextSink | None,
        epoch: int | None,
    ) -> Active:
        uid = record.uid if record is not None else None
        run = Active(new_run_id(self._parts.clock()), uid, Output(sink))
        self.registry.add(run)
        run.epoch, run.answers = epoch, request.http is not None
        run.task = asyncio.create_task(self._guarded(run, record, request))
        run.task.add_done_callback(lambda task: self._over(run, task))
        return run

    def _over(self, run: Active, task: asyncio.Task[RunResult]) -> None:
        """The caller may have left, so the outcome is looked at here."""
        self.registry.discard(run)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, EraError):
            _log.error("run broke", run_id=run.run_id, exc_info=error)

    async def _attend(self, run: Active, request: RunRequest) -> RunResult:
        """Wait for the run on behalf of its caller."""
        assert run.task is not None
        try:
            return await asyncio.shield(run.task)
        except asyncio.CancelledError:
            if not run.task.done():
                self._left(run, request)
            raise

    def _left(self, run: Active, request: RunRequest) -> None:
        """The caller has gone."""
        if run.uid is None or run.phase is Phase.QUEUED:
            run.drop()
        elif request.cancel_on_disconnect:
            run.cancel()

    async def _guarded(
        self, run: Active, record: SessionRecord | None, request: RunRequest
    ) -> RunResult:
        """The pipeline, with every end that is not a result as an error of the service's own."""
        try:
            return await self._pipeline(run, record, request)
        except asyncio.CancelledError:
            if run.reason is None:
                raise
            raise run.reason(run) from None
        except NotFoundError as error:
            if error.code == "session_not_found":
                raise deleted(run) from None
            raise self._broken(run, error) from error  # bytes that should be there are not
        except EraError:
            raise
        except Exception as error:
            raise self._broken(run, error) from error

    def _broken(self, run: Active, error: Exception) -> InternalError:
        _log.error("run failed", run_id=run.run_id, exc_info=error)
        return InternalError("execution_failed")

    # -- the order of things --

    async def _pipeline(
        self, run: Active, record: SessionRecord | None, request: RunRequest
    ) -> RunResult:
        came_ns = time.monotonic_ns()
        async with AsyncExitStack() as stack:
            record = await self._hold(stack, run, record)
            record = await self._in_time(stack, record, request)
            queued_ns = time.monotonic_ns() - came_ns
            if record is not None:
                refuse_stopped(record)
            held = stack.enter_context(ExitStack())
            snapshot = await self._snapshot(record, request, held)
            who = run.run_id if run.uid is None else run.uid
            self._parts.admission.admit(who, snapshot.spec.network)
            run.phase = Phase.RUNNING
            vm_id = _vm_id(snapshot)
            perform = partial(self._perform, run, snapshot)
            ready = await self._preparing.ready(run, snapshot, perform, held)
            async with self._parts.driver.box(ready.spec) as box:
                if ready.ended is None:
                    ended = together(ready.before, await perform(box, ready.program))
                else:
                    await self._place(box, snapshot)
                    ended = ready.ended
                run.end()
                kept = await self._keeping.keep(run, box, snapshot)
            # Nothing of the box runs any more and the turn is still ours: nobody looks at the tree.
            if kept.session is not None and kept.session.files_revision != snapshot.revision:
                self._parts.trees.follow(kept.session)
        return self._result(run, snapshot, ended, kept, vm_id, queued_ns // 1_000_000)

    async def _hold(
        self, stack: AsyncExitStack, run: Active, record: SessionRecord | None
    ) -> SessionRecord | None:
        """Keep the session this node's to the end; its state, read under the lease that is held."""
        if record is None:
            return None
        epoch = await stack.enter_async_context(self._nodes.hold(record.id))
        if epoch == run.epoch:
            return record
        run.epoch = epoch
        return await self._again(record)

    async def _in_time(
        self, stack: AsyncExitStack, record: SessionRecord | None, request: RunRequest
    ) -> SessionRecord | None:
        """`_wait`, unless that takes longer than the request may wait."""
        try:
            async with within(request.turn_seconds):
                return await self._wait(stack, record, request)
        except TimeoutError:
            raise UnavailableError("session_busy", retry_after_seconds=5) from None

    async def _wait(
        self, stack: AsyncExitStack, record: SessionRecord | None, request: RunRequest
    ) -> SessionRecord | None:
        """Wait for the turn, the setup, Go's library and a slot; the session as it is then."""
        if record is not None:
            if await stack.enter_async_context(self._queues.turn(record.uid)):
                record = await self._again(record)
            with self._queues.wait():
                record = await self._setups.settled(record, wait=request.wait_for_setup)
        if (request.language if record is None else record.language) == "go":
            await go_library(self._parts.go_cache)
        if await stack.enter_async_context(self._queues.slot()) and record is not None:
            record = await self._again(record)
        return record

    async def _again(self, record: SessionRecord) -> SessionRecord:
        """The session after some waiting; another one with its id does not count."""
        now = await self._parts.records.get(record.id)
        if now.uid != record.uid:
            raise session_not_found()
        return now

    async def _snapshot(
        self, record: SessionRecord | None, request: RunRequest, held: ExitStack
    ) -> Snapshot:
        if record is None:
            return await self._snapshots.of_execution(request)
        if record.vm is not None:
            return await self._snapshots.of_vm(record, request)
        return await self._snapshots.of_session(record, request, held)

    async def _place(self, box: Box, snapshot: Snapshot) -> None:
        """Lay out what the session does not hold: entry file, data file, files of the request."""
        files = snapshot.placed

        def place() -> None:
            stage.place(box.workspace_fd, files, owner=box.owner)

        if sum(map(len, files.values())) <= _DIRECT_BYTES:
            place()
        else:
            await asyncio.to_thread(place)

    async def _perform(self, run: Active, snapshot: Snapshot, box: Box, program: Program) -> Exit:
        """Run one program of the run in a box."""
        await self._place(box, snapshot)
        run.enter(box)
        if run.cancel_asked:
            return CANCELLED
        return await box.run(program, run.output.feed)

    def _result(
        self,
        run: Active,
        snapshot: Snapshot,
        ended: Exit,
        kept: Kept,
        vm_id: str,
        queued_ms: int,
    ) -> RunResult:
        warnings = (*snapshot.warnings, *self._parts.driver.unenforced, *ended.warnings)
        if kept.files_error == "quota_exceeded":
            warnings += (self._limits.quota.text,)
        return RunResult(
            run_id=run.run_id,
            vm_id=vm_id,
            language=snapshot.language,
            isolation=self._parts.driver.tier,
            exit_code=ended.exit_code,
            stdout=run.output.finish("stdout", truncated=ended.stdout_truncated),
            stderr=run.output.finish("stderr", truncated=ended.stderr_truncated),
            stdout_truncated=ended.stdout_truncated,
            stderr_truncated=ended.stderr_truncated,
            duration_ns=ended.duration_ns,
            timed_out=ended.timed_out,
            oom_killed=ended.oom_killed,
            cancelled=ended.cancelled,
            signal=ended.signal,
            usage=ended.usage,
            queued_ms=queued_ms,
            warnings=tuple(dict.fromkeys(warnings)),
            session_id=_session_id(snapshot.record),
            data=kept.data,
            data_error=kept.data_error,
            files_modified=kept.modified,
            files_deleted=kept.deleted,
            files_skipped=kept.skipped,
            files_error=kept.files_error,
            setup_status=kept.setup_status,
        )


def _vm_id(snapshot: Snapshot) -> str:
    """The managed VM's own id; for other runs one that names the box."""
    record = snapshot.record
    if record is not None and record.vm is not None:
        return vm_id_of(record.id)
    return new_vm_id(snapshot.language)


def _session_id(record: SessionRecord | None) -> str | None:
    return None if record is None or record.vm is not None else record.id
