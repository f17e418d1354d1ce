"""The `namespaces` tier: boxes of Linux namespaces, cgroups and a seccomp filter.

The driver keeps the promise of `sandbox.base` in the server's event loop.  It makes plans, opens
pipes and cgroups, and decides when a run ends; the launcher (another process) does what needs
privileges.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from era.errors import EraError, InternalError, UnavailableError
from era.models import Network
from era.sandbox import policy
from era.sandbox.base import (
    Box,
    BoxSpec,
    Egress,
    Exit,
    Limits,
    OutputSink,
    Program,
    Readiness,
    RootImage,
    Warm,
)
from era.sandbox.namespaces.cgroups.base import Cgroups, Group
from era.sandbox.namespaces.dial import EGRESS_PORTS, Calls, connected
from era.sandbox.namespaces.memfile import sealed
from era.sandbox.namespaces.openings import Openings
from era.sandbox.namespaces.place import BOX_UID, Place, foundation
from era.sandbox.namespaces.pool import Pool, Prepared, fits
from era.sandbox.namespaces.run import Run
from era.sandbox.namespaces.spawn import Launcher, LauncherLost
from era.sandbox.plan import Plan, Start, encode

_READY_SECONDS: Final = 30.0
"""A box is made ahead in milliseconds; what takes so long has stopped."""


class NeverBegun(Exception):  # noqa: N818 - named by what happened
    """A box made ahead broke before its program began."""


class NamespacesDriver:
    """Keeps `Driver` on Linux namespaces.

    `egress` serves the sockets of boxes that may reach something; None refuses such boxes.
    `warm` names interpreters to keep boxes ready for; those boxes have `limits`.
    """

    tier = "namespaces"

    def __init__(
        self,
        place: Place,
        image: RootImage,
        cgroups: Cgroups,
        egress: Egress | None = None,
        *,
        warm: Sequence[Warm] = (),
        limits: Limits | None = None,
    ) -> None:
        self._place = place
        self._cgroups = cgroups
        self._egress = egress
        self._rootless = os.geteuid() != 0
        self._foundation = foundation(place, image, rootless=self._rootless)
        self._launcher: Launcher | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self.openings = Openings()
        self._runs: dict[int, Run] = {}
        self._calls = Calls()
        self._ready: dict[int, Prepared] = {}
        self.winding_up: set[asyncio.Task[None]] = set()
        self._ready_spec = BoxSpec(limits=limits or Limits())
        self.pool = Pool(
            warm,
            make=self._make_ready,
            discard=self._discard,
            start=self._start_interpreter,
            dismiss=self._dismiss_interpreter,
        )

    @property
    def unenforced(self) -> tuple[str, ...]:
        """See `Driver`."""
        return self._cgroups.unenforced

    @property
    def has_helper(self) -> bool:
        """Whether steps of a box are in C here."""
        return bool(self._foundation.first)

    @property
    def owner(self) -> int | None:
        """The host uid of files that boxes must be able to change; None: the service's own."""
        return None if self._rootless else BOX_UID

    def plan(self, spec: BoxSpec, program: Program) -> tuple[Plan, Start]:
        """What `run` would carry out: the box, and what starts in it."""
        egress = self._egress if _egress_wanted(spec) else None
        environment = {} if egress is None else egress.environment
        return policy.plan(spec, egress=egress is not None), policy.start(program, environment)

    async def start(self) -> None:
        """See `Driver`."""
        await self._ensure_launcher()
        self.pool.open()

    async def close(self) -> None:
        """See `Driver`."""
        await self.pool.close()
        if self._launcher is not None:
            await self._launcher.close()
            self._fail_everything()
        for prepared in list(self._ready.values()):
            await prepared.run.finish()
            os.close(prepared.workspace_fd)
        if self.winding_up:
            await asyncio.wait(set(self.winding_up))
        with suppress(OSError):  # a group that is still busy is swept at the next start
            self._cgroups.close()

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """See `Driver`."""
        return self._box(spec)

    @asynccontextmanager
    async def _box(self, spec: BoxSpec) -> AsyncIterator[Box]:
        if _egress_wanted(spec) and self._egress is None:
            raise UnavailableError(message=f"network policy {spec.network} is not available here")
        try:
            box = await self._open(spec)
        except LauncherLost:
            box = await self._open(spec)  # of a new launcher
        try:
            yield box
        finally:
            self._behind(self._end_box(box))

    async def _open(self, spec: BoxSpec) -> _NamespacesBox:
        launcher = await self._ensure_launcher()
        prepared = self._take(spec)
        if prepared is None:
            number = next(self._numbers)
            workspace_fd = await self.openings.open(launcher, number, spec.limits.disk_bytes)
        else:
            launcher, number = prepared.launcher, prepared.number
            workspace_fd = prepared.workspace_fd
        return _NamespacesBox(self, launcher, number, spec, workspace_fd, prepared)

    def _behind(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have it done behind the answer; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self.winding_up.add(task)
        task.add_done_callback(self.winding_up.discard)
        return task

    async def _end_box(self, box: _NamespacesBox) -> None:
        """Everything that is left of a box goes."""
        if box.prepared is not None:
            await self.finish(box.prepared.run)
        await box.quiet()
        os.close(box.workspace_fd)
        await self.openings.close(box.launcher, box.number)

    # -- boxes made ahead --

    def _take(self, spec: BoxSpec) -> Prepared | None:
        ready = self._ready_spec.limits
        if _egress_wanted(spec) or replace(spec.limits, cpus=ready.cpus) != ready:
            return None
        prepared = self.pool.take(spec.interpreter)
        if prepared is not None:
            del self._ready[prepared.number]
        return prepared

    async def _make_ready(self, warm: Warm, standing: str) -> Prepared | None:
        """A box at its gate, or None when it could not be made.  `standing` names the process that
        a box of a standing interpreter is forked from."""
        try:
            launcher = await self._ensure_launcher()
            number = next(self._numbers)
            disk_bytes = self._ready_spec.limits.disk_bytes
            workspace_fd = await self.openings.open(launcher, number, disk_bytes)
        except EraError:
            return None
        try:
            run = self._run_in(launcher, number, self._ready_spec, None)
        except EraError:
            os.close(workspace_fd)
            await self.openings.close(launcher, number)
            return None
        prepared = Prepared(
            warm=warm,
            standing=standing,
            launcher=launcher,
            number=number,
            workspace_fd=workspace_fd,
            group=run.group,
            run=run,
        )
        self._ready[number] = prepared
        with suppress(
            EraError, OSError
        ):  # the launcher is gone, or no file can be opened: then the run has exited
            run.prepare(number, self._ready_plan(warm), interpreter=_standing(warm, standing))
            await asyncio.wait([run.ready], timeout=_READY_SECONDS)
        if run.ready.done() and not run.broken:
            return prepared
        if not run.ready.done():
            self._dismiss_interpreter(standing, now=True)
        await self._discard(prepared)
        return None

    def _ready_plan(self, warm: Warm) -> Plan:
        plan = policy.plan(self._ready_spec, egress=False)
        if warm.readiness is not Readiness.AHEAD:
            return plan
        # Not in the workspace: what an interpreter learns of it now, the session's files change.
        ahead = policy.start(Program(argv=warm.ahead, env=warm.env, cwd="/"), {})
        return replace(plan, ahead=ahead)

    async def _discard(self, prepared: Prepared) -> None:
        self._ready.pop(prepared.number, None)
        await self.finish(prepared.run)
        os.close(prepared.workspace_fd)
        await self.openings.close(prepared.launcher, prepared.number)

    async def _start_interpreter(self, warm: Warm, name: str) -> None:
        launcher = await self._ensure_launcher()
        message: dict[str, Any] = {"request": "interpreter", "name": name, "argv": warm.argv}
        message |= {"env": dict(warm.env), "modules": warm.modules}
        message["stack_bytes"] = dict(policy.rlimits(self._ready_spec.limits))["RLIMIT_STACK"]
        fd = sealed("era-foundation", encode(self._foundation))
        try:
            launcher.send(message, [fd])
        finally:
            os.close(fd)

    def _dismiss_interpreter(self, name: str, *, now: bool = False) -> None:
        if self._launcher is not None:
            with suppress(LauncherLost):
                self._launcher.send({"request": "dismiss", "name": name, "now": now})

    async def run_prepared(
        self,
        box: _NamespacesBox,
        prepared: Prepared,
        spec: BoxSpec,
        program: Program,
        sink: OutputSink | None,
        stop: asyncio.Event,
    ) -> Exit:
        """One program in a box that was made ahead.

        Raises:
            NeverBegun: the box broke before the program began, so it may run in a fresh tree.
        """
        plan, start = self.plan(spec, program)
        run = box.current = prepared.run
        try:
            if spec.limits != self._ready_spec.limits:
                _adjust(prepared.group, spec.limits)
            late = _late_mounts(plan)
            if late is not None:
                run.attach(prepared.number, late)
                await asyncio.wait({run.attached}, timeout=_READY_SECONDS)
                if not run.attached.done():
                    box.launcher.give_up()
            prepared.group.mark()
            run.go(program, start, sink)
            await run.until_end(stop)
            if not run.begun and not stop.is_set():
                raise NeverBegun()
            return await run.result(self.unenforced)
        finally:
            box.end(self._behind(self.finish(run)))

    async def _ensure_launcher(self) -> Launcher:
        async with self._starting:
            if self._launcher is None or not self._launcher.alive:
                if self._launcher is not None:
                    await self._launcher.close()
                launcher = Launcher(self._on_event)
                launcher.lost.add_done_callback(lambda _: self._fail_everything())
                self._launcher = launcher
                await launcher.start(self._place.helper_python, self._foundation)
            return self._launcher

    def _fail_everything(self) -> None:
        self.pool.launcher_lost()
        for run in list(self._runs.values()):
            run.lost()
        self.openings.launcher_lost()
        self._calls.forget()

    def _on_event(self, message: dict[str, Any], fds: list[int]) -> None:
        event = message["event"]
        if event == "opened":
            self.openings.was_opened(self._launcher, message["box"], fds)
        elif event == "closed":
            self.openings.was_closed(message["box"])
        elif event == "ended":
            run = self._runs.get(message["run"])
            if run is not None:
                run.ended(message)
        elif event == "exited":
            run = self._runs.pop(message["run"], None)
            if run is not None:
                run.box_exited(message["cpu_ns"], message["status"])
        elif event == "attached":
            run = self._runs.get(message["run"])
            if run is not None and not run.attached.done():
                run.attached.set_result(None)
        elif event == "dialed":
            self._calls.answered(message["call"], fds)
        elif event == "interpreter":
            self.pool.interpreter_changed(message["name"], up=message["up"])
        elif event == "refused":
            self._refused(message)

    def _refused(self, message: dict[str, Any]) -> None:
        if message["request"] in ("open", "close"):
            self.openings.was_refused(message)
        elif message["request"] == "dial":
            self._calls.answered(message["call"], [])
        elif message["request"] == "attach":
            run = self._runs.get(message["run"])
            if run is not None:
                run.failed("mounts", message["errno"])
                run.kill()
        elif message["request"] == "prepare":
            run = self._runs.pop(message["run"], None)
            if run is not None:
                run.failed(message["step"] or "launcher", message["errno"])
                run.box_exited()
        elif message["request"] == "interpreter":
            self.pool.interpreter_changed(message["name"], up=False)

    async def run(
        self,
        box: _NamespacesBox,
        spec: BoxSpec,
        program: Program,
        sink: OutputSink | None,
        stop: asyncio.Event,
    ) -> Exit:
        """One program in an open box, from pipes and cgroup to the end of its last process."""
        number = next(self._numbers)
        plan, start = self.plan(spec, program)
        run = box.current = self._run_in(box.launcher, number, spec, self._egress)
        try:
            run.prepare(box.number, plan, stdin_fd=program.stdin_fd, stdout_fd=program.stdout_fd)
            run.go(program, start, sink)
            await run.until_end(stop)
            return await run.result(self.unenforced)
        finally:
            box.end(self._behind(self.finish(run)))

    async def connect(self, box: _NamespacesBox, spec: BoxSpec, port: int) -> socket.socket:
        """See `Box.connect`."""
        run = box.current
        if run is None or not run.begun or (_egress_wanted(spec) and port in EGRESS_PORTS):
            raise ConnectionRefusedError
        try:
            return await connected(await self._calls.sockets(box.launcher, run.number), port)
        except LauncherLost:
            raise ConnectionRefusedError from None

    async def finish(self, run: Run) -> None:
        """Nothing of `run` is left, and nothing is known of it."""
        await run.finish()
        self._runs.pop(run.number, None)

    def _run_in(self, launcher: Launcher, number: int, spec: BoxSpec, egress: Egress | None) -> Run:
        """A run that is known, with a group of its own."""
        try:
            group = self._cgroups.create(f"box-{number}", spec.limits)
        except OSError as error:
            raise InternalError("execution_failed", details=f"cgroup: {error.strerror}") from error
        try:
            run = Run(number, group, launcher, egress, spec.network)
        except OSError as error:
            group.discard()
            raise InternalError("execution_failed", details=f"run: {error.strerror}") from error
        self._runs[number] = run
        return run


def _adjust(group: Group, limits: Limits) -> None:
    try:
        group.adjust(limits)
    except OSError as error:
        raise InternalError("execution_failed", details=f"cgroup: {error.strerror}") from error


def _egress_wanted(spec: BoxSpec) -> bool:
    return spec.network is not Network.OFFLINE


def _standing(warm: Warm, name: str) -> str:
    return name if warm.readiness is Readiness.STANDING else ""


def _late_mounts(plan: Plan) -> Plan | None:
    """What of `plan` a box made ahead does not have yet."""
    scratch = tuple(
        mount for mount in plan.scratch if mount.lowers or mount.name.startswith("scratch")
    )
    if not scratch and not plan.binds:
        return None
    return Plan(scratch=scratch, binds=plan.binds)


class _NamespacesBox:
    """Keeps `Box`."""

    def __init__(
        self,
        driver: NamespacesDriver,
        launcher: Launcher,
        number: int,
        spec: BoxSpec,
        workspace_fd: int,
        prepared: Prepared | None,
    ) -> None:
        self.prepared = prepared
        self.launcher = launcher
        self.number = number
        self.current: Run | None = None
        self._driver = driver
        self._spec = spec
        self._stop: asyncio.Event | None = None
        self._ending: asyncio.Task[None] | None = None
        self.workspace_fd = workspace_fd
        self.owner = driver.owner

    async def run(self, program: Program, sink: OutputSink | None = None) -> Exit:
        """See `Box`."""
        await self.quiet()
        self._stop = asyncio.Event()
        prepared, self.prepared = self.prepared, None
        self._driver.pool.began()
        try:
            if prepared is not None:
                if fits(prepared.warm, program):
                    with suppress(NeverBegun):
                        return await self._driver.run_prepared(
                            self, prepared, self._spec, program, sink, self._stop
                        )
                    await self.quiet()
                else:
                    await self._driver.finish(prepared.run)
            return await self._driver.run(self, self._spec, program, sink, self._stop)
        finally:
            self._driver.pool.ended()
            self._stop = self.current = None

    def changes(self, target: str) -> int | None:
        """See `Box`.  All scratch of a box lies side by side in a directory of the launcher's."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(f"../{policy.SCRATCH[target]}", flags, dir_fd=self.workspace_fd)
        except FileNotFoundError:
            return None

    def cancel(self) -> None:
        """See `Box`."""
        if self._stop is not None:
            self._stop.set()

    async def connect(self, port: int) -> socket.socket:
        """See `Box`."""
        return await self._driver.connect(self, self._spec, port)

    def end(self, ending: asyncio.Task[None]) -> None:
        """The last tree is being taken away by `ending`."""
        self._ending = ending

    async def quiet(self) -> None:
        """Until nothing of an earlier tree is left: two must not have one scratch."""
        if self._ending is not None:
            await asyncio.shield(self._ending)
