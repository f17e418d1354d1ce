"""ProcessDriver: keeps `era.sandbox.base.Driver` with real processes, for tests.

It is a fake, not a tier: nothing is isolated and no limit but time and output is enforced.  What
it keeps is the behaviour the rest of the service relies on: exit codes, deadlines, cancel, output
caps, no process left, scratch kept between the runs of one box, and a `workspace_fd` that looks
like the upper directory of an overlay (deletions are character devices 0:0).

A box is a temporary directory; every target of the box (/workspace, HOME, /tmp, overlays, binds) is
a directory below it or the bind's source.  Names of targets in `argv[1:]`, in values of the
environment and in `cwd` are rewritten to these directories; names inside files are not, so programs
of tests use relative paths.  Ownership, nodev and read-only binds are not imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

from era import layout
from era.errors import InternalError
from era.models import Usage
from era.sandbox.base import Box, BoxSpec, Exit, OutputSink, Overlay, Program

_SUPERVISOR: Final = os.path.join(os.path.dirname(__file__), "supervisor.py")
_PYTHON: Final = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
_CHUNK: Final = 1 << 16


def _copy_tree(source: str, target: str) -> None:
    """Lay `source` over `target`, as a higher layer lies over a lower one.  Deletions and special
    files of an upper directory are in the view already."""
    for name in os.listdir(source):
        here, there = os.path.join(source, name), os.path.join(target, name)
        info = os.lstat(here)
        if stat.S_ISDIR(info.st_mode):
            if os.path.lexists(there) and not stat.S_ISDIR(os.lstat(there).st_mode):
                os.unlink(there)
            os.makedirs(there, exist_ok=True)
            _copy_tree(here, there)
            os.chmod(there, stat.S_IMODE(info.st_mode))
            os.utime(there, ns=(info.st_atime_ns, info.st_mtime_ns))
        elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            _remove(there)
            shutil.copy2(here, there, follow_symlinks=False)


def _remove(path: str) -> None:
    if not os.path.lexists(path):
        return
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _signature(path: str) -> tuple[Any, ...]:
    """What makes an entry what it is; two equal ones need no copy in an upper directory."""
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        return ("link", os.readlink(path))
    if not stat.S_ISREG(info.st_mode):
        return (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return ("file", stat.S_IMODE(info.st_mode), info.st_mtime_ns, digest)


def _entries(root: str) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for at, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(at, name)
            found[os.path.relpath(path, root)] = _signature(path)
    return found


def _write_changes(base: str, view: str, upper: str) -> None:
    """Make `upper` what an overlay's upper would be, for a view that began as `base`."""
    for name in os.listdir(upper):
        _remove(os.path.join(upper, name))
    before, after = _entries(base), _entries(view)
    for path in sorted(before.keys() - after.keys()):
        parent = os.path.dirname(path)
        if parent and not (parent in after and os.path.isdir(os.path.join(view, parent))):
            continue  # it went with its directory
        _make_parents(view, upper, path)
        os.mknod(os.path.join(upper, path), stat.S_IFCHR, os.makedev(0, 0))
    for path in sorted(p for p, signature in after.items() if before.get(p) != signature):
        source, target = os.path.join(view, path), os.path.join(upper, path)
        _make_parents(view, upper, path)
        _copy_entry(source, target)
    _copy_times(view, upper)


def _make_parents(view: str, upper: str, path: str) -> None:
    done = ""
    for name in os.path.dirname(path).split("/") if "/" in path else ():
        done = os.path.join(done, name)
        target = os.path.join(upper, done)
        if not os.path.isdir(target):
            os.mkdir(target)
            shutil.copymode(os.path.join(view, done), target)


def _copy_entry(source: str, target: str) -> None:
    info = os.lstat(source)
    if stat.S_ISDIR(info.st_mode):
        os.makedirs(target, exist_ok=True)
        shutil.copystat(source, target)
    elif stat.S_ISFIFO(info.st_mode) or stat.S_ISSOCK(info.st_mode):
        os.mkfifo(target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _copy_times(view: str, upper: str) -> None:
    """Directories get their own times last: filling them has changed these."""
    for at, dirs, _ in os.walk(upper, topdown=False):
        for name in dirs:
            path = os.path.join(at, name)
            if not os.path.islink(path):
                shutil.copystat(os.path.join(view, os.path.relpath(path, upper)), path)


@dataclass(slots=True)
class _Pump:
    """Reads one stream to its end, keeping the first `limit` bytes, or the last."""

    name: str
    limit: int
    tail: bool
    sink: OutputSink | None
    kept: bytearray = field(default_factory=bytearray)
    truncated: bool = False

    async def run(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(_CHUNK):
            room = chunk if self.tail else chunk[: self.limit - len(self.kept)]
            self.kept += room
            self.truncated = self.truncated or len(room) < len(chunk)
            if len(self.kept) > self.limit:
                self.truncated = True
                del self.kept[: -self.limit]
            if room and self.sink is not None:
                self.sink(self.name, room)


class ProcessBox:
    """One box: a temporary directory and the processes of the run in progress."""

    def __init__(self, spec: BoxSpec, root: str) -> None:
        self.spec = spec
        self.root = root
        self._targets: dict[str, str] = {}
        self._lower: dict[str, str] = {}
        self._make_dirs()
        self.workspace_fd = os.open(self._dir("upper"), os.O_RDONLY | os.O_DIRECTORY)
        self._control: int | None = None
        self._cancelled = asyncio.Event()

    @property
    def owner(self) -> int | None:
        return None

    def changes(self, target: str) -> int | None:
        """See `Box.changes`."""
        upper = self._dir(f"changes-{os.path.basename(self._targets[target])}")
        _write_changes(self._lower[target], self._targets[target], upper)
        return os.open(upper, os.O_RDONLY | os.O_DIRECTORY)

    def path(self, target: str) -> str:
        """The host directory that stands for `target`; tests look into it."""
        return self._targets[target]

    def _dir(self, name: str) -> str:
        path = os.path.join(self.root, name)
        os.makedirs(path, exist_ok=True)
        return path

    def _make_dirs(self) -> None:
        base, view = self._dir("base"), self._dir("view")
        for lower in reversed(self.spec.workspace):
            _copy_tree(lower, base)
        _copy_tree(base, view)
        self._targets[layout.WORKSPACE] = view
        overlays = [Overlay(target=layout.HOME), Overlay(target=layout.TMP), *self.spec.overlays]
        for number, overlay in enumerate(overlays):
            place, under = self._dir(f"overlay{number}"), self._dir(f"under{number}")
            for lower in reversed(overlay.lowers):
                _copy_tree(lower, under)
            _copy_tree(under, place)
            self._targets[overlay.target] = place
            self._lower[overlay.target] = under
        for bind in self.spec.binds:
            self._targets[bind.target] = bind.source

    def translate(self, text: str) -> str:
        """`text` with the names of the box's directories replaced by those of the host."""
        names = sorted(self._targets, key=len, reverse=True)
        pattern = rf"(?<![\w./-])({'|'.join(map(re.escape, names))})(?![\w.-])"
        return re.sub(pattern, lambda found: self._targets[found[1]], text)

    def _prepared(self, program: Program) -> str:
        """Write down the program for the supervisor; the name of that file."""
        first, *rest = program.argv
        if first.startswith((layout.WORKSPACE, layout.LAYER)):
            first = self.translate(first)
        described = {
            "argv": [first, *map(self.translate, rest)],
            "env": {name: self.translate(value) for name, value in program.env.items()},
            "cwd": self.translate(program.cwd),
        }
        path = os.path.join(self.root, "program.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(described, file)
        return path

    async def run(self, program: Program, sink: OutputSink | None = None) -> Exit:
        """See `Box.run`."""
        if self._control is not None:
            raise InternalError("execution_failed", "a program runs in this box already")
        upper, view, base = self._dir("upper"), self._dir("view"), self._dir("base")
        _copy_tree(upper, view)
        control_read, control_write = os.pipe()
        report_read, report_write = os.pipe()
        self._control, self._cancelled = control_write, asyncio.Event()
        try:
            argv = (_PYTHON, "-I", "-S", _SUPERVISOR, str(control_read), str(report_write))
            process = await asyncio.create_subprocess_exec(
                *argv,
                self._prepared(program),
                stdin=asyncio.subprocess.PIPE if program.stdin_fd is None else program.stdin_fd,
                stdout=asyncio.subprocess.PIPE if program.stdout_fd is None else program.stdout_fd,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(control_read, report_write),
                env={},
                start_new_session=True,
            )
            os.close(control_read)
            os.close(report_write)
            try:
                return await self._attend(process, program, sink, report_read)
            finally:
                await self._end(process)
                _write_changes(base, view, upper)
        finally:
            self._control = None
            os.close(control_write)
            os.close(report_read)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Nothing of the run is alive after this, whoever stopped waiting for it."""
        if process.returncode is None:
            self._send(b"k")
            while process.returncode is None:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(process.wait())
        if process.stdin is not None:
            process.stdin.close()

    def _send(self, command: bytes) -> None:
        if self._control is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._control, command)

    async def connect(self, port: int) -> socket.socket:
        """See `Box.connect`; the loopback is that of the host, as nothing is isolated."""
        if self._control is None:
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
        self._cancelled.set()

    async def _attend(
        self,
        process: asyncio.subprocess.Process,
        program: Program,
        sink: OutputSink | None,
        report: int,
    ) -> Exit:
        pumps = [
            _Pump(name, program.output_bytes, program.tail, sink) for name in ("stdout", "stderr")
        ]
        streams = zip(pumps, (process.stdout, process.stderr), strict=True)
        tasks = [asyncio.create_task(pump.run(stream)) for pump, stream in streams if stream]
        if process.stdin is not None:
            tasks.append(asyncio.create_task(_feed(process.stdin, program.stdin)))
        try:
            reason, killed = await self._wait(process, program)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        outcome = json.loads(os.read(report, 1 << 16) or b"null")
        if outcome is None:
            raise InternalError("execution_failed")
        return _exit(outcome, reason, killed, pumps)

    async def _wait(
        self, process: asyncio.subprocess.Process, program: Program
    ) -> tuple[str | None, bool]:
        """Wait for the end; why it was ended from outside, and whether it had to be killed."""
        ended = asyncio.create_task(process.wait())
        asked = asyncio.create_task(self._cancelled.wait())
        try:
            await asyncio.wait(
                (ended, asked),
                timeout=program.timeout_seconds or None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ended.done():
                return None, False
            reason = "cancelled" if asked.done() else "timed_out"
            self._send(b"t")
            await asyncio.wait((ended,), timeout=program.grace_seconds)
            if ended.done():
                return reason, False
            self._send(b"k")
            await ended
            return reason, True
        finally:
            ended.cancel()
            asked.cancel()


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(data)
        await stdin.drain()
    stdin.close()
    # Also after a broken pipe: asyncio complains of an error that nobody asked for.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        # Its future is the protocol's own: cancelled with us, it would break the loop's callback.
        await asyncio.shield(stdin.wait_closed())


def _exit(
    outcome: Mapping[str, int], reason: str | None, killed: bool, pumps: Iterable[_Pump]
) -> Exit:
    code = os.waitstatus_to_exitcode(outcome["status"])
    name = signal.Signals(-code).name if code < 0 else None
    code = 128 - code if code < 0 else code
    if reason == "timed_out":
        code = 124
    elif reason == "cancelled":
        code = 137 if killed else 143
    out, err = pumps
    return Exit(
        exit_code=code,
        stdout=bytes(out.kept),
        stderr=bytes(err.kept),
        stdout_truncated=out.truncated,
        stderr_truncated=err.truncated,
        signal=name,
        timed_out=reason == "timed_out",
        cancelled=reason == "cancelled",
        duration_ns=outcome["duration_ns"],
        usage=Usage(cpu_ms=outcome["cpu_ms"], peak_memory_bytes=outcome["peak_memory_bytes"]),
    )


class ProcessDriver:
    """Opens process boxes below a directory of its own; `specs` remembers what was asked for."""

    tier = "process"
    unenforced: tuple[str, ...] = ()

    def __init__(self, scratch: str | None = None) -> None:
        self._root = tempfile.mkdtemp(prefix="boxes-", dir=scratch)
        self.specs: list[BoxSpec] = []
        self.boxes: set[ProcessBox] = set()

    async def start(self) -> None:
        """Nothing has to be made ready."""

    async def close(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._root, ignore_errors=True)

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """See `Driver.box`."""
        return self._box(spec)

    @contextlib.asynccontextmanager
    async def _box(self, spec: BoxSpec) -> AsyncIterator[Box]:
        self.specs.append(spec)
        root = tempfile.mkdtemp(dir=self._root)
        box = ProcessBox(spec, root)
        self.boxes.add(box)
        try:
            yield box
        finally:
            self.boxes.discard(box)
            os.close(box.workspace_fd)
            shutil.rmtree(root, ignore_errors=True)
