"""One process tree in a box, from its making to its reaped end.

It is made up to the gate (`prepare`), then told what to run (`go`): right away, or later when it was
made ahead of the request.  Everything here runs in the server's event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, Final

from era.errors import InternalError
from era.models import Network, Usage
from era.sandbox.base import Egress, Exit, OutputSink, Program
from era.sandbox.namespaces.cgroups.base import Group, Reading
from era.sandbox.namespaces.child import wire
from era.sandbox.namespaces.memfile import MemoryFile, sealed
from era.sandbox.namespaces.refusals import refused
from era.sandbox.namespaces.spawn import Launcher, LauncherLost
from era.sandbox.output import Pump
from era.sandbox.plan import Plan, Start, encode, tail

_DRAIN_SECONDS: Final = 5.0
"""All writers are dead when this starts to count; a pipe's rest takes microseconds."""
_MAKING_SECONDS: Final = 30.0
"""A box is made in milliseconds; what takes so long has stopped."""
_FINISH_SECONDS: Final = 1.0
"""Process 1 ends at once when it is let go of; what takes so long is ended by force."""
_DEATH_SECONDS: Final = 30.0
"""What was killed is gone in milliseconds, and with gigabytes to give back in a second; when it takes
so long, who should have reaped it has stopped."""
_REMOVE_ATTEMPTS: Final = 200
_REMOVE_PAUSE_SECONDS: Final = 0.002
_EXIT_TIMEOUT: Final = 124
_SIGNAL_BASE: Final = 128
_STOP: Final = b"TERM"
_GO: Final = b"go"


class Channel:
    """Our end of a packet socket to a process of a box; `on_message` gets what it says."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket: socket.socket | None = ours
        self.other_end = theirs.detach()
        self._loop.add_reader(ours.fileno(), self.read)

    def read(self) -> bool:
        """Take one message; False when there is none."""
        if self._socket is None:
            return False
        try:
            message, fds = wire.receive(self._socket)
        except BlockingIOError:
            return False
        except OSError:
            message, fds = None, []
        if message is None:
            self.close()
            return False
        self._run.heard(message, fds)
        return True

    def say(self, packet: bytes) -> None:
        """Send a packet; a process that is gone does not hear it."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.send(packet)

    def close(self) -> None:
        """Stop listening."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None


class Run:
    """One process tree.  `finish` must be awaited, whatever happened before."""

    def __init__(
        self, number: int, group: Group, launcher: Launcher, egress: Egress | None, network: Network
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.number = number
        self.group = group
        self._launcher = launcher
        self._egress = egress
        self._network = network
        self._program: Program | None = None
        self._missing = {"ready"}
        self._reads_no_json = False
        self._channels: list[Channel] = []
        self._read_ends: list[int] = []
        self._pumps: list[Pump] = []
        self._stdin = MemoryFile("stdin")
        try:
            self._start = MemoryFile("era-start")
        except OSError:
            self._stdin.close()
            raise
        self._stack = AsyncExitStack()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.attached: asyncio.Future[None] = loop.create_future()
        self._started: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._oom: asyncio.Future[None] = loop.create_future()
        self._status: int | None = None
        self._ended_ns: int | None = None
        self._failure: tuple[str, int] | None = None
        self._cpu_ns = 0
        self._timed_out = False
        self._cancelled = False
        self._forced = False
        self._killed = False
        self._egress_task: asyncio.Task[None] | None = None

    # -- up to the gate --

    def prepare(
        self,
        box: int,
        plan: Plan,
        *,
        interpreter: str = "",
        stdin_fd: int | None = None,
        stdout_fd: int | None = None,
    ) -> None:
        """Hand the plan to the launcher.  `interpreter` names one that stands ready; the tree is
        forked from it then.  The open files given become the program's streams."""
        mine: list[int] = []
        if plan.ahead is not None:
            self._missing.add("ahead")
        self._reads_no_json = not interpreter and plan.ahead is None
        try:
            mine.append(sealed("era-plan", encode(plan)))
            stdin = self._stdin.reader if stdin_fd is None else stdin_fd
            stdout = self._pipe() if stdout_fd is None else stdout_fd
            if stdout_fd is None:
                mine.append(stdout)
            stderr = self._pipe()
            mine.append(stderr)
            control, gate = self._channel(mine), self._channel(mine)
            if self.group.oom_fd is not None:
                self._loop.add_reader(self.group.oom_fd, self._memory_limit_hit)
            message = {"request": "prepare", "box": box, "run": self.number}
            fds = [mine[0], stdin, stdout, stderr, control, gate, self._start.reader]
            self._launcher.send(
                message | {"interpreter": interpreter}, [*fds, *self.group.join_fds]
            )
        except BaseException:
            self.box_exited()
            raise
        finally:
            for fd in mine:
                os.close(fd)
            self._stdin.release_reader()
            self._start.release_reader()

    def attach(self, box: int, plan: Plan) -> None:
        """Ask for the mounts of `plan` in the waiting tree; `attached` is done once they are there."""
        fd = sealed("era-plan", encode(plan))
        try:
            message = {"request": "attach", "box": box}
            self._launcher.send(message | {"run": self.number}, [fd])
        finally:
            os.close(fd)

    def _channel(self, mine: list[int]) -> int:
        """One more channel; its other end is noted in `mine`."""
        channel = Channel(self)
        self._channels.append(channel)
        mine.append(channel.other_end)
        return channel.other_end

    def _pipe(self) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        self._read_ends.append(read)
        return write

    def go(self, program: Program, start: Start, sink: OutputSink | None) -> None:
        """Open the gate: the tree learns what it is.  May be called before it is ready."""
        self._program = program
        names = ("stderr",) if program.stdout_fd is not None else ("stdout", "stderr")
        for name, fd in zip(names, self._read_ends, strict=True):
            self._pumps.append(self._pump(name, fd, program, sink))
        self._read_ends.clear()
        if program.stdout_fd is not None:
            self._pumps.insert(0, _finished_pump())
        self._stdin.fill(program.stdin)
        self._start.fill(encode(start) + (tail(start) if self._reads_no_json else b""))
        self._channels[1].say(_GO)

    def _pump(self, name: str, fd: int, program: Program, sink: OutputSink | None) -> Pump:
        on_data = None if sink is None else lambda data: sink(name, data)
        return Pump(fd, program.output_bytes, on_data, tail=program.tail)

    # -- what the processes of the box say --

    def heard(self, message: dict[str, Any], fds: list[int]) -> None:
        """A message of process 1, or of the program's process at the gate."""
        event = message["event"]
        if event == "egress":
            self._serve_egress(fds)
        elif event in ("ready", "ahead"):
            self._missing.discard(event)
            if not self._missing and not self.ready.done():
                self.ready.set_result(None)
        elif event == "started":
            # The gate has no more to say, and must not be believed once a program runs behind it.
            self._channels[1].close()
            self._started.set_result(message["at_ns"])
        elif event == "ended":
            self.ended(message)
        elif event == "failed":
            self.failed(message["step"], message["errno"])
            self.kill()

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
        self._settle(self.ready)

    def _memory_limit_hit(self) -> None:
        assert self.group.oom_fd is not None
        self._loop.remove_reader(self.group.oom_fd)
        if not self._oom.done():
            self._oom.set_result(None)
        self.kill()

    @property
    def begun(self) -> bool:
        """Whether anything of the program may have run."""
        return self._started.done()

    @property
    def over(self) -> bool:
        """Whether the program's process or process 1 has ended."""
        return self._ended.done() or self.exited.done()

    @property
    def broken(self) -> bool:
        """Whether nothing can run here any more."""
        return self.over or self._failure is not None

    # -- the end --

    def ended(self, message: dict[str, Any]) -> None:
        """The program's process is reaped; what its parent says of it."""
        self._status, self._ended_ns = message["status"], message["at_ns"]
        self._cpu_ns += message["cpu_ns"]
        while self._channels and self._channels[1].read():
            pass  # that it began came before this, by another way
        self._settle(self._ended, self.ready)

    def box_exited(self, cpu_ns: int = 0, status: int = 0) -> None:
        """Process 1 is reaped, so every process of the box is dead."""
        self._cpu_ns += cpu_ns
        if status and not self._killed:
            self._failure = self._failure or ("process 1", 0)
        for channel in self._channels:
            while channel.read():
                pass  # what it said last may still be unread
        self._settle(self.exited, self.ready, self.attached)

    def _settle(self, *events: asyncio.Future[None]) -> None:
        """These have come, or will not come any more."""
        for event in events:
            if not event.done():
                event.set_result(None)

    def lost(self) -> None:
        """The launcher is gone, and every box with it."""
        self._failure = self._failure or ("launcher", 0)
        self.box_exited()

    async def until_end(self, stop: asyncio.Event) -> None:
        """Wait for the end, bring it about at the deadline or when `stop` is set; afterwards no
        process of the box is left but, perhaps, process 1."""
        assert self._program is not None
        over = {self._ended, self.exited}
        stopping = self._loop.create_task(stop.wait())
        try:
            await _first({*over, self._started}, _MAKING_SECONDS)
            if not (self.begun or self.over):
                self._launcher.give_up()
            await _first({*over, stopping}, self._program.timeout_seconds or None)
            if not self.over:
                self._cancelled = stopping.done()
                self._timed_out = not self._cancelled
                self._channels[0].say(_STOP)
                await _first(over, self._program.grace_seconds)
                self._forced = not self.over
        finally:
            stopping.cancel()
        if self._ended.done() and self._status == signal.SIGKILL:
            await self._let_end()  # who was it?  If process 1 was killed, the box broke
        elif not self._ended.done() or not self.group.alone():
            await self._end_by_force()

    async def _let_end(self) -> None:
        """Let process 1 end by itself, and with it everything in the box."""
        self._channels[0].close()
        await _first({self.exited}, _FINISH_SECONDS)
        if not self.exited.done():
            await self._end_by_force()

    async def _end_by_force(self) -> None:
        self.kill()
        await _first({self.exited}, _DEATH_SECONDS)
        if not self.exited.done():
            self._launcher.give_up()
            await self.exited

    def kill(self) -> None:
        """End every process of the tree, now."""
        self._killed = True
        with suppress(OSError):  # what is left needs processor time to end
            self.group.unbind()
        with suppress(LauncherLost):
            self._launcher.send({"request": "kill", "run": self.number})

    async def finish(self) -> None:
        """Make sure the box is dead and let go of everything, its group among it."""
        if self._channels:
            await self._let_end()
        for channel in self._channels:
            channel.close()
        for pump in self._pumps:
            pump.close()
        for fd in self._read_ends:
            os.close(fd)
        self._read_ends.clear()
        self._stdin.close()
        self._start.close()
        if self.group.oom_fd is not None:
            self._loop.remove_reader(self.group.oom_fd)
        if self._egress_task is not None:
            await self._egress_task
        await self._stack.aclose()
        await self._remove_group()

    async def _remove_group(self) -> None:
        """The program's process counts until its parent has reaped it, and rmdir is refused for an
        instant after that; what a loaded kernel does not let go of is swept when the service ends."""
        for _attempt in range(_REMOVE_ATTEMPTS):
            if self.group.empty():
                break
            await asyncio.sleep(_REMOVE_PAUSE_SECONDS)
        if self.group.recycle():
            return
        for _attempt in range(_REMOVE_ATTEMPTS):
            if await asyncio.to_thread(self.group.discard):
                return
            await asyncio.sleep(_REMOVE_PAUSE_SECONDS)

    async def result(self, unenforced: tuple[str, ...]) -> Exit:
        """The outcome, once the box is dead.

        Raises:
            EraError: `execution_failed`, when the box broke; `server_busy` or `storage_full`, when there
                was not enough of something to make it.
        """
        await asyncio.wait([pump.finished for pump in self._pumps], timeout=_DRAIN_SECONDS)
        reading = self.group.read()
        oom = self._oom.done() or reading.oom_kills > 0
        # At the limit the kernel may choose process 1, or the whole group (memory.oom.group).
        if self._failure is not None and not oom:
            raise refused(*self._failure)
        # Ended before its program began, it was ours: its status says nothing of a program.
        told = self._status is not None and self.begun
        if not (told or oom or self._timed_out or self._cancelled):
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
            return _SIGNAL_BASE + (signal.SIGKILL if self._forced else signal.SIGTERM)
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


async def _first(events: set[asyncio.Future[Any]], seconds: float | None) -> None:
    await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def _finished_pump() -> Pump:
    """A pump of nothing, for output that goes elsewhere."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.close(write)
    return Pump(read, 0)
