"""The `namespaces` tier: boxes of Linux namespaces, cgroups and a seccomp filter.

The driver keeps the promise of `sandbox.base` in the server's event loop.  It makes plans, opens
pipes and cgroups, and decides when a run ends; the launcher (another process) does what needs
privileges.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from era.errors import InternalError, UnavailableError
from era.models import Network, Usage
from era.sandbox import policy
from era.sandbox.base import Box, BoxSpec, Egress, Exit, OutputSink, Program, RootImage
from era.sandbox.namespaces import filter as seccomp
from era.sandbox.namespaces.cgroups.base import Cgroups, Group, Reading
from era.sandbox.namespaces.child import wire
from era.sandbox.namespaces.spawn import Launcher, LauncherLost, memory_file
from era.sandbox.output import Pump
from era.sandbox.plan import BindMount, Foundation, Plan, encode

BOX_UID: Final = 1_879_048_192 + 1000
"""The host's id of every box's user when the service is root: far above the ranges that
distributions give to people, services and containers, so it owns nothing on the host."""
_DRAIN_SECONDS: Final = 5.0
"""All writers are dead when this starts to count; a pipe's rest takes microseconds."""
_EXIT_TIMEOUT: Final = 124
_SIGNAL_BASE: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the driver works: directories it owns, and the interpreter of the launcher.

    `images` is None for scratch in memory.
    """

    base_dir: str
    scratch_dir: str
    images: str | None
    helper_python: str


def foundation(place: Place, image: RootImage, *, rootless: bool) -> Foundation:
    """What the launcher builds once, from a root image."""
    return Foundation(
        rootless=rootless,
        base_dir=place.base_dir,
        scratch_dir=place.scratch_dir,
        images=place.images,
        uid=0 if rootless else BOX_UID,
        gid=0 if rootless else BOX_UID,
        filter=seccomp.build().hex(),
        binds=tuple(
            BindMount(source=bind.source, target=bind.target, writable=bind.writable)
            for bind in image.binds
        ),
        links=tuple(image.links.items()),
        files=tuple((path, data.decode("latin-1")) for path, data in image.files.items()),
        dirs=image.dirs,
    )


class NamespacesDriver:
    """Keeps `Driver` on Linux namespaces.

    `egress` serves the sockets of boxes that may reach something; None refuses such boxes.
    """

    tier = "namespaces"

    def __init__(
        self, place: Place, image: RootImage, cgroups: Cgroups, egress: Egress | None = None
    ) -> None:
        self._place = place
        self._cgroups = cgroups
        self._egress = egress
        self._rootless = os.geteuid() != 0
        self._foundation = foundation(place, image, rootless=self._rootless)
        self._launcher: Launcher | None = None
        self._starting = asyncio.Lock()
        self._numbers = itertools.count(1)
        self._opened: dict[int, asyncio.Future[int]] = {}
        self._closed: dict[int, asyncio.Future[None]] = {}
        self._runs: dict[int, _Run] = {}

    @property
    def unenforced(self) -> tuple[str, ...]:
        """See `Driver`."""
        return self._cgroups.unenforced

    @property
    def owner(self) -> int | None:
        """The host uid of files that boxes must be able to change; None: the service's own."""
        return None if self._rootless else BOX_UID

    def plan(self, spec: BoxSpec, program: Program) -> Plan:
        """The plan that `run` would carry out."""
        return policy.plan(spec, self._with_egress(spec, program), egress=_egress_wanted(spec))

    async def start(self) -> None:
        """See `Driver`."""
        await self._ensure_launcher()

    async def close(self) -> None:
        """See `Driver`."""
        if self._launcher is not None:
            await self._launcher.close()
            self._fail_everything()
        with suppress(OSError):  # a group that is still busy is swept at the next start
            self._cgroups.close()

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """See `Driver`."""
        return self._box(spec)

    @asynccontextmanager
    async def _box(self, spec: BoxSpec) -> AsyncIterator[Box]:
        if _egress_wanted(spec) and self._egress is None:
            raise UnavailableError(message=f"network policy {spec.network} is not available here")
        launcher = await self._ensure_launcher()
        number = next(self._numbers)
        workspace_fd = await self._open_box(launcher, number, spec)
        box = _NamespacesBox(self, launcher, number, spec, workspace_fd)
        try:
            yield box
        finally:
            os.close(workspace_fd)
            await asyncio.shield(self._close_box(launcher, number))

    async def _open_box(self, launcher: Launcher, number: int, spec: BoxSpec) -> int:
        opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._opened[number] = opened
        try:
            launcher.send({"request": "open", "box": number, "disk_bytes": spec.limits.disk_bytes})
            return await opened
        except asyncio.CancelledError:
            if not opened.cancelled() and opened.exception() is None:
                self._let_go(launcher, number, opened.result())
            raise
        finally:
            self._opened.pop(number, None)

    def _let_go(self, launcher: Launcher, number: int, fd: int) -> None:
        """Close a box that came when nobody waited for it any more."""
        os.close(fd)
        with suppress(LauncherLost):
            launcher.send({"request": "close", "box": number})

    async def _close_box(self, launcher: Launcher, number: int) -> None:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed[number] = closed
        with suppress(LauncherLost):
            launcher.send({"request": "close", "box": number})
            await closed

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
        for run in list(self._runs.values()):
            run.lost()
        for opened in list(self._opened.values()):
            if not opened.done():
                opened.set_exception(LauncherLost())
        for closed in list(self._closed.values()):
            if not closed.done():
                closed.set_result(None)
        self._opened.clear()
        self._closed.clear()

    def _on_event(self, message: dict[str, Any], fds: list[int]) -> None:
        event = message["event"]
        if event == "opened":
            opened = self._opened.pop(message["box"], None)
            if opened is not None and not opened.done():
                opened.set_result(fds[0])
            elif self._launcher is not None:
                self._let_go(self._launcher, message["box"], fds[0])
        elif event == "closed":
            self._box_closed(message["box"])
        elif event == "exited":
            run = self._runs.pop(message["run"], None)
            if run is not None:
                run.box_exited(message["cpu_ns"])
        elif event == "refused":
            self._refused(message)

    def _box_closed(self, number: int) -> None:
        closed = self._closed.pop(number, None)
        if closed is not None and not closed.done():
            closed.set_result(None)

    def _refused(self, message: dict[str, Any]) -> None:
        if message["request"] == "open":
            opened = self._opened.pop(message["box"], None)
            if opened is not None and not opened.done():
                opened.set_exception(UnavailableError("storage_full"))
        elif message["request"] == "run":
            run = self._runs.pop(message["run"], None)
            if run is not None:
                run.failed("launcher", message["errno"])
                run.box_exited(0)
        elif message["request"] == "close":  # its scratch goes with the launcher
            self._box_closed(message["box"])

    def _with_egress(self, spec: BoxSpec, program: Program) -> Program:
        if not _egress_wanted(spec) or self._egress is None:
            return program
        env = {**self._egress.environment, **program.env}
        return Program(**{**_members(program), "env": env})

    async def run(
        self,
        launcher: Launcher,
        box: int,
        spec: BoxSpec,
        program: Program,
        sink: OutputSink | None,
        stop: asyncio.Event,
    ) -> Exit:
        """One program in an open box, from pipes and cgroup to the reaped end."""
        number = next(self._numbers)
        plan = self.plan(spec, program)
        async with AsyncExitStack() as stack:
            group = self._create_group(number, spec)
            stack.callback(group.remove)
            run = _Run(number, program, group, launcher, self._egress, spec.network)
            stack.push_async_callback(run.finish)
            self._runs[number] = run
            run.send(box, plan, sink)
            await run.until_end(stop)
            return await run.result(self.unenforced)

    def _create_group(self, number: int, spec: BoxSpec) -> Group:
        try:
            return self._cgroups.create(f"box-{number}", spec.limits)
        except OSError as error:
            raise InternalError("execution_failed", details=f"cgroup: {error.strerror}") from error


def _members(program: Program) -> dict[str, Any]:
    return {name: getattr(program, name) for name in Program.__dataclass_fields__}


def _egress_wanted(spec: BoxSpec) -> bool:
    return spec.network is not Network.OFFLINE


class _NamespacesBox:
    """Keeps `Box`."""

    def __init__(
        self,
        driver: NamespacesDriver,
        launcher: Launcher,
        number: int,
        spec: BoxSpec,
        workspace_fd: int,
    ) -> None:
        self._driver = driver
        self._launcher = launcher
        self._number = number
        self._spec = spec
        self._stop: asyncio.Event | None = None
        self.workspace_fd = workspace_fd
        self.owner = driver.owner

    async def run(self, program: Program, sink: OutputSink | None = None) -> Exit:
        """See `Box`."""
        self._stop = asyncio.Event()
        try:
            return await self._driver.run(
                self._launcher, self._number, self._spec, program, sink, self._stop
            )
        finally:
            self._stop = None

    def cancel(self) -> None:
        """See `Box`."""
        if self._stop is not None:
            self._stop.set()


class _Run:
    """One run: its pipes, what its process 1 reported, and how it ends."""

    def __init__(
        self,
        number: int,
        program: Program,
        group: Group,
        launcher: Launcher,
        egress: Egress | None,
        network: Network,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._number = number
        self._program = program
        self._group = group
        self._launcher = launcher
        self._egress = egress
        self._network = network
        self._control: socket.socket | None = None
        self._pumps: list[Pump] = []
        self._stack = AsyncExitStack()
        self._started: asyncio.Future[int] = loop.create_future()
        self._exited: asyncio.Future[None] = loop.create_future()
        self._oom: asyncio.Future[None] = loop.create_future()
        self._status: int | None = None
        self._ended_ns: int | None = None
        self._failure: tuple[str, int] | None = None
        self._cpu_ns = 0
        self._timed_out = False
        self._cancelled = False
        self._egress_task: asyncio.Task[None] | None = None

    # -- start --

    def send(self, box: int, plan: Plan, sink: OutputSink | None) -> None:
        """Hand the run to the launcher; every descriptor made here that the box gets is closed here."""
        given: list[int] = []
        try:
            given.append(memory_file("era-plan", encode(plan)))
            given.append(self._stdin())
            given.append(self._stdout(sink))
            given.append(self._pipe("stderr", sink))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            given.append(theirs.detach())
            ours.setblocking(False)
            self._control = ours
            self._loop.add_reader(ours.fileno(), self._readable)
            if self._group.oom_fd is not None:
                self._loop.add_reader(self._group.oom_fd, self._memory_limit_hit)
            message = {"request": "run", "box": box, "run": self._number}
            self._launcher.send(message, [*given, *self._group.join_fds])
        except BaseException:
            self.box_exited(0)
            raise
        finally:
            for fd in given:
                os.close(fd)

    def _stdin(self) -> int:
        if self._program.stdin_fd is not None:
            return os.dup(self._program.stdin_fd)
        return memory_file("stdin", self._program.stdin)

    def _stdout(self, sink: OutputSink | None) -> int:
        if self._program.stdout_fd is not None:
            self._pumps.append(_finished_pump())
            return os.dup(self._program.stdout_fd)
        return self._pipe("stdout", sink)

    def _pipe(self, name: str, sink: OutputSink | None) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        on_data = None if sink is None else lambda data: sink(name, data)
        program = self._program
        self._pumps.append(Pump(read, program.output_bytes, on_data, tail=program.tail))
        return write

    # -- what process 1 of the box says --

    def _readable(self) -> bool:
        """Take one message; False when there is none."""
        assert self._control is not None
        try:
            message, fds = wire.receive(self._control)
        except BlockingIOError:
            return False
        except OSError:
            message, fds = None, []
        if message is None:
            self._close_control()
            return False
        event = message["event"]
        if event == "egress":
            self._serve_egress(fds)
        elif event == "started":
            self._started.set_result(message["at_ns"])
        elif event == "ended":
            self._status, self._ended_ns = message["status"], message["at_ns"]
        elif event == "failed":
            self.failed(message["step"], message["errno"])
        return True

    def _serve_egress(self, fds: list[int]) -> None:
        assert self._egress is not None
        sockets = [socket.socket(fileno=fd) for fd in fds]
        for sock in sockets:
            sock.setblocking(False)
        serving = self._egress.serve(self._network, sockets)
        self._egress_task = self._loop.create_task(self._enter_egress(serving))

    async def _enter_egress(self, serving: AbstractAsyncContextManager[None]) -> None:
        await self._stack.enter_async_context(serving)

    def failed(self, step: str, number: int) -> None:
        """The box could not be built, or the program not be started."""
        self._failure = (step, number)

    def _memory_limit_hit(self) -> None:
        assert self._group.oom_fd is not None
        self._loop.remove_reader(self._group.oom_fd)
        if not self._oom.done():
            self._oom.set_result(None)
        self._kill()

    # -- the end --

    def box_exited(self, cpu_ns: int) -> None:
        """Process 1 is reaped, so every process of the box is dead."""
        self._cpu_ns = cpu_ns
        while self._control is not None and self._readable():
            pass  # what it said last may still be unread
        if not self._exited.done():
            self._exited.set_result(None)

    def lost(self) -> None:
        """The launcher is gone, and every box with it."""
        self._failure = self._failure or ("launcher", 0)
        self.box_exited(0)

    async def until_end(self, stop: asyncio.Event) -> None:
        """Wait for the end, bring it about at the deadline or when `stop` is set."""
        stopping = self._loop.create_task(stop.wait())
        try:
            await self._wait({self._started, self._exited}, None)
            deadline = self._program.timeout_seconds or None
            await self._wait({self._exited, stopping}, deadline)
            if self._exited.done():
                return
            self._cancelled = stopping.done()
            self._timed_out = not self._cancelled
            self._ask_to_end()
            await self._wait({self._exited}, self._program.grace_seconds)
            if not self._exited.done():
                self._kill()
                await self._exited
        finally:
            stopping.cancel()

    async def _wait(self, events: set[asyncio.Future[Any]], seconds: float | None) -> None:
        await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def _ask_to_end(self) -> None:
        if self._control is not None:
            with suppress(OSError):
                self._control.send(b"TERM")

    def _kill(self) -> None:
        with suppress(LauncherLost):
            self._launcher.send({"request": "kill", "run": self._number})

    async def finish(self) -> None:
        """Make sure the box is dead and let go of everything; also after a cancelled task."""
        if not self._exited.done():
            self._kill()
            await asyncio.shield(self._exited)
        for pump in self._pumps:
            pump.close()
        self._close_control()
        if self._group.oom_fd is not None:
            self._loop.remove_reader(self._group.oom_fd)
        if self._egress_task is not None:
            await self._egress_task
        await self._stack.aclose()

    def _close_control(self) -> None:
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()
            self._control = None

    async def result(self, unenforced: tuple[str, ...]) -> Exit:
        """The outcome, once the box is dead.

        Raises:
            InternalError: `execution_failed`, when the box broke.
        """
        drained = [pump.finished for pump in self._pumps]
        await asyncio.wait(drained, timeout=_DRAIN_SECONDS)
        reading = self._group.read()
        oom = self._oom.done() or reading.oom_kills > 0
        if self._failure is not None:
            step, number = self._failure
            raise InternalError("execution_failed", details=f"{step}: {os.strerror(number)}")
        if self._status is None and not (oom or self._timed_out or self._cancelled):
            raise InternalError("execution_failed", details="the box ended unexpectedly")
        started = self._started.result() if self._started.done() else time.monotonic_ns()
        stdout, stderr = self._pumps
        return Exit(
            exit_code=self._exit_code(oom),
            signal=self._signal(oom),
            stdout=stdout.kept,
            stderr=stderr.kept,
            stdout_truncated=stdout.truncated,
            stderr_truncated=stderr.truncated,
            timed_out=self._timed_out and not oom,
            oom_killed=oom,
            cancelled=self._cancelled and not oom,
            duration_ns=max(0, (self._ended_ns or time.monotonic_ns()) - started),
            usage=self._usage(reading),
            warnings=unenforced,
        )

    def _usage(self, reading: Reading) -> Usage:
        cpu_ns = self._cpu_ns if reading.cpu_ns is None else reading.cpu_ns
        return Usage(cpu_ms=round(cpu_ns / 1e6), peak_memory_bytes=reading.peak_memory_bytes)

    def _exit_code(self, oom: bool) -> int:
        if oom:
            return _SIGNAL_BASE + signal.SIGKILL
        if self._timed_out:
            return _EXIT_TIMEOUT
        if self._cancelled:
            last = signal.SIGTERM if self._status is not None else signal.SIGKILL
            return _SIGNAL_BASE + last
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else _SIGNAL_BASE - code

    def _signal(self, oom: bool) -> str | None:
        if oom or self._status is None:
            return "SIGKILL"
        code = os.waitstatus_to_exitcode(self._status)
        if code >= 0:
            return None
        try:
            return signal.Signals(-code).name
        except ValueError:  # a real-time signal
            return f"SIGRTMIN+{-code - signal.SIGRTMIN}"


def _finished_pump() -> Pump:
    """A pump of nothing, for output that goes elsewhere."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(write)
    return Pump(read, 0)
