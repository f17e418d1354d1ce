"""One box of the `process` tier: a directory that looks like a box's root, and the processes of the
run in progress.

Nothing is mounted.  Every target of the box (/workspace, HOME, /tmp, overlays, binds) is below the
directory; names of targets in arguments, in values of the environment and in the working directory
are rewritten to it.  Names inside files are not: see `ProcessDriver` on `fixed`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from era import layout
from era.errors import InternalError
from era.models import Usage
from era.sandbox.base import BoxSpec, Exit, OutputSink, Overlay, Program, RootImage
from era.sandbox.namespaces.memfile import sealed
from era.sandbox.output import Pump
from era.sandbox.policy import rlimits
from era.sandbox.process import view

T = TypeVar("T")

SUPERVISOR: Final = os.path.join(os.path.dirname(__file__), "supervisor.py")
_EXIT_TIMEOUT: Final = 124
_SIGNAL_BASE: Final = 128
_OUTCOME_BYTES: Final = 1 << 16


async def finished(work: Awaitable[T]) -> T:
    """What `work` gives; it is waited for also when the task is cancelled, which is raised after."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        raise


class ProcessBox:
    """See `Box`.  `root` is an empty directory of its own."""

    def __init__(
        self,
        spec: BoxSpec,
        root: str,
        *,
        image: RootImage,
        python: str,
        unenforced: tuple[str, ...],
        closed_ports: frozenset[int],
    ) -> None:
        self.spec = spec
        self.root = root
        self._image = image
        self._python = python
        self._unenforced = unenforced
        self._closed_ports = closed_ports
        self._overlays = (
            Overlay(target=layout.WORKSPACE, lowers=spec.workspace),
            *(
                Overlay(target=target)
                for target in (layout.HOME, layout.TMP)
                if target not in [one.target for one in spec.overlays]
            ),
            *spec.overlays,
        )
        self._names = _pattern(spec, self._overlays)
        self._workspace_fd: int | None = None
        self._control: int | None = None
        self._running = False
        self._stop = asyncio.Event()
        self.supervisor: int | None = None
        """Its process id while it runs."""
        self.broken = False
        """Whether a supervisor ended before its work was done: a program can kill it."""

    # -- what is in it --

    @property
    def workspace_fd(self) -> int:
        """See `Box.workspace_fd`."""
        assert self._workspace_fd is not None
        return self._workspace_fd

    @property
    def owner(self) -> int | None:
        """See `Box.owner`: programs are of the service's own user."""
        return None

    def path(self, target: str) -> str:
        """The host path that stands for `target`."""
        return self.root + "/root" + target

    def _beside(self, kind: str, target: str) -> str:
        """A directory about the overlay at `target`: its `base`, or its `upper`."""
        return f"{self.root}/{kind}{target.replace('/', '-')}"

    def make(self) -> None:
        """Lay out everything; blocks."""
        for path in (*self._image.dirs, layout.BIN):
            if _is_ours(path):
                os.makedirs(self.path(path), exist_ok=True)
        for overlay in self._overlays:
            self._make_overlay(overlay)
        for bind in (*self._image.binds, *self.spec.binds):
            if bind.target == layout.BIN:
                self._make_tools(bind.source)
            elif _is_ours(bind.target):
                self._link(bind.target, bind.source)
        for target, content in self._image.files.items():
            if _is_ours(target) and not os.path.lexists(self.path(target)):
                os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
                with open(self.path(target), "wb") as file:
                    file.write(content)
        for target, source in self._image.links.items():
            if _is_ours(target):
                self._link(target, self.translate(source))
        upper = self._beside("upper", layout.WORKSPACE)
        self._workspace_fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY)

    def _make_overlay(self, overlay: Overlay) -> None:
        base, place = self._beside("base", overlay.target), self.path(overlay.target)
        kept = overlay.target in layout.VM_PLACES
        os.makedirs(place, exist_ok=True)
        for lower in reversed(overlay.lowers):
            view.copy_tree(lower, place)
        if kept:
            os.makedirs(self._beside("upper", overlay.target))
            os.makedirs(base)
            view.copy_tree(place, base)

    def _make_tools(self, source: str) -> None:
        """The links to every tool: they name places of the box."""
        for name in os.listdir(source):
            path = os.path.join(source, name)
            to = self.translate(os.readlink(path)) if os.path.islink(path) else path
            self._link(f"{layout.BIN}/{name}", to)

    def _link(self, target: str, source: str) -> None:
        """A symbolic link at `target`, unless that is within what is linked already."""
        path = self.path(target)
        parent = os.path.dirname(path)
        os.makedirs(parent, exist_ok=True)
        if os.path.realpath(parent) != os.path.realpath(self.root) + parent[len(self.root) :]:
            return
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        elif os.path.lexists(path):
            os.unlink(path)
        os.symlink(source, path)

    def translate(self, text: str) -> str:
        """`text` with the names of the box's directories replaced by those of the host."""
        shown = {bind.target: bind.source for bind in self.spec.binds}  # a link is not searched
        return self._names.sub(lambda found: shown.get(found[1]) or self.path(found[1]), text)

    def _program(self, name: str) -> str:
        """Where the program is: what lies in the host's own /tmp is the operator's."""
        return name if name.startswith(f"{layout.TMP}/") else self.translate(name)

    def changes(self, target: str) -> int | None:
        """See `Box.changes`."""
        upper = self._beside("upper", target)
        view.write_changes(self._beside("base", target), self.path(target), upper)
        return os.open(upper, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Let go of what is open."""
        if self._workspace_fd is not None:
            os.close(self._workspace_fd)

    # -- a run --

    async def run(self, program: Program, sink: OutputSink | None = None) -> Exit:
        """See `Box.run`."""
        if self._running:
            raise InternalError("execution_failed", "a program runs in this box already")
        self._running, self._stop = True, asyncio.Event()
        upper, place = self._beside("upper", layout.WORKSPACE), self.path(layout.WORKSPACE)
        try:
            await finished(asyncio.to_thread(view.copy_tree, upper, place))
            try:
                return await self._supervised(program, sink)
            finally:
                base = self._beside("base", layout.WORKSPACE)
                await finished(asyncio.to_thread(view.write_changes, base, place, upper))
        finally:
            self._running = False

    def _described(self, program: Program) -> bytes:
        limits = dict(rlimits(self.spec.limits)) | {"RLIMIT_FSIZE": self.spec.limits.disk_bytes}
        described = {
            "named": program.argv[0],
            "argv": [self._program(program.argv[0]), *map(self.translate, program.argv[1:])],
            "env": {name: self.translate(value) for name, value in program.env.items()},
            "cwd": self.translate(program.cwd),
            "rlimits": limits,
            "memory_bytes": self.spec.limits.memory_bytes,
        }
        return json.dumps(described).encode("ascii")

    async def _supervised(self, program: Program, sink: OutputSink | None) -> Exit:
        pumps: list[Pump] = []
        mine: list[int] = []
        control_read, self._control = os.pipe()
        report, report_write = os.pipe()
        mine += [control_read, report_write]
        try:
            stdin = program.stdin_fd
            if stdin is None:
                mine.append(stdin := sealed("stdin", program.stdin))
            stdout = program.stdout_fd
            if stdout is None:
                stdout = _piped("stdout", program, sink, pumps, mine)
            stderr = _piped("stderr", program, sink, pumps, mine)
            mine.append(described := sealed("era-program", self._described(program)))
            process = await finished(
                asyncio.create_subprocess_exec(
                    *(self._python, "-I", "-S", SUPERVISOR),
                    *map(str, (control_read, report_write, described)),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=(control_read, report_write, described),
                    env={},
                    start_new_session=True,
                )
            )
        except BaseException:
            self._let_go(report, mine, pumps)
            raise
        for fd in mine:
            os.close(fd)
        self.supervisor = process.pid
        try:
            try:
                reason, killed = await self._wait(process, program)
            finally:
                self._send(b"k")
                await finished(process.wait())
                self.supervisor = None
            outcome = json.loads(os.read(report, _OUTCOME_BYTES) or b"null")
            if outcome is None:
                self.broken = True
                raise InternalError("execution_failed", details="the box ended unexpectedly")
            await asyncio.gather(*(pump.finished for pump in pumps))
            return self._exit(outcome, reason, killed, pumps)
        finally:
            self._let_go(report, (), pumps)

    def _let_go(self, report: int, fds: list[int] | tuple[int, ...], pumps: list[Pump]) -> None:
        for pump in pumps:
            pump.close()
        for fd in (report, *fds):
            os.close(fd)
        if self._control is not None:
            os.close(self._control)
            self._control = None

    async def _wait(
        self, process: asyncio.subprocess.Process, program: Program
    ) -> tuple[str | None, bool]:
        """Wait for the end; why it was ended from outside, and whether it had to be killed."""
        ended = asyncio.create_task(process.wait())
        asked = asyncio.create_task(self._stop.wait())
        first = partial(asyncio.wait, return_when=asyncio.FIRST_COMPLETED)
        try:
            await first((ended, asked), timeout=program.timeout_seconds or None)
            if ended.done():
                return None, False
            reason = "cancelled" if asked.done() else "timed_out"
            self._send(b"t")
            await asyncio.wait((ended,), timeout=program.grace_seconds)
            killed = not ended.done()
            if killed:
                self._send(b"k")
                await asyncio.wait((ended,))
            return reason, killed
        finally:
            ended.cancel()
            asked.cancel()

    def _send(self, command: bytes) -> None:
        if self._control is not None:
            with suppress(BrokenPipeError):
                os.write(self._control, command)

    def _exit(
        self, outcome: Mapping[str, Any], reason: str | None, killed: bool, pumps: list[Pump]
    ) -> Exit:
        code = os.waitstatus_to_exitcode(outcome["status"])
        over = bool(outcome["over"])
        out, err = (pumps[0] if len(pumps) > 1 else None), pumps[-1]
        return Exit(
            exit_code=_code(code, None if over else reason, killed),
            signal=_signal_name(-code) if code < 0 else None,
            stdout=out.kept if out else b"",
            stderr=err.kept,
            stdout_truncated=out is not None and out.truncated,
            stderr_truncated=err.truncated,
            timed_out=reason == "timed_out" and not over,
            cancelled=reason == "cancelled" and not over,
            oom_killed=over,
            duration_ns=outcome["duration_ns"],
            usage=Usage(cpu_ms=outcome["cpu_ms"], peak_memory_bytes=outcome["peak_memory_bytes"]),
            warnings=self._unenforced,
        )

    async def connect(self, port: int) -> socket.socket:
        """See `Box.connect`; the loopback is the host's, so the service's own port is closed."""
        if self._control is None or port in self._closed_ports:
            raise ConnectionRefusedError
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return sock

    def cancel(self) -> None:
        """See `Box.cancel`."""
        self._stop.set()


def _is_ours(target: str) -> bool:
    """Whether a name of the root image has a place here: the rest is the host's own."""
    tops = (layout.RUNTIMES, *layout.VM_PLACES, layout.NODE_MODULES, "/package.json")
    return any(target == top or target.startswith(f"{top}/") for top in tops)


def _pattern(spec: BoxSpec, overlays: tuple[Overlay, ...]) -> re.Pattern[str]:
    targets = [one.target for one in overlays] + [one.target for one in spec.binds]
    names = sorted({layout.RUNTIMES, *targets}, key=len, reverse=True)
    return re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, names))})(?![\w.-])")


def _piped(
    name: str, program: Program, sink: OutputSink | None, pumps: list[Pump], mine: list[int]
) -> int:
    """The end of a pipe that the program writes to; ours is pumped."""
    read, write = os.pipe2(os.O_CLOEXEC)
    mine.append(write)
    feed: Callable[[bytes], None] | None = partial(sink, name) if sink is not None else None
    pumps.append(Pump(read, program.output_bytes, feed, tail=program.tail))
    return write


def _code(code: int, reason: str | None, killed: bool) -> int:
    if reason == "timed_out":
        return _EXIT_TIMEOUT
    if reason == "cancelled":
        return _SIGNAL_BASE + (signal.SIGKILL if killed else signal.SIGTERM)
    return code if code >= 0 else _SIGNAL_BASE - code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
