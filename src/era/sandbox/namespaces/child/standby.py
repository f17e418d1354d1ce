"""A Python that stands ready: started once, forked for each box.

Runs in a process of its own that the launcher starts inside its namespaces, with the launcher's
capabilities, in the interpreter that programs run in.  It imports what programs often import, never
runs anything of a client, and holds no secret.  A fork becomes process 1 of a box, and a fork of
that, once it is locked up and the gate opens, returns through `hook/sitecustomize.py` into the
interpreter's own start.

Everything that must differ from run to run is made anew after the fork: the random module reseeds
itself, numpy is reseeded here, environment and arguments are the program's own.  Hash seed and
addresses are those of the standing process; therefore it is replaced regularly (see `pool.py`).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import types
from typing import Any

from era.sandbox.namespaces.child import box as boxes
from era.sandbox.namespaces.child import syscalls, wire
from era.sandbox.plan import Foundation, Start, decode_foundation, decode_plan

CONTROL_FD = 3
PAD = "ERA_PAD"
"""A variable of this process that only makes room: a program's environment is written over it, so
that /proc/self/environ shows the program's own."""
PAD_BYTES = 4096
_ENV_START_FIELD = 49
_ENV_END_FIELD = 50


def _environment_area() -> tuple[int, int]:
    """Where the kernel looks for /proc/self/environ (proc_pid_stat(5), fields 50 and 51)."""
    with open("/proc/self/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    # The first field after the name is the third of the line.
    return int(fields[_ENV_START_FIELD - 2]), int(fields[_ENV_END_FIELD - 2])


def _show_environment(area: tuple[int, int], env: tuple[tuple[str, str], ...]) -> None:
    start, end = area
    text = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env)
    room = end - start
    if len(text) > room:
        text = text[: text.rfind(b"\0", 0, room) + 1]
    ctypes.memset(start, 0, room)
    ctypes.memmove(start, text, len(text))


class Standby:
    """Forks boxes on the launcher's request and reaps them."""

    def __init__(self, control: socket.socket, foundation: Foundation) -> None:
        self._control = control
        self._foundation = foundation
        self._seccomp = syscalls.FilterProgram(bytes.fromhex(foundation.filter))
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._runs: dict[int, tuple[int, int]] = {}  # pidfd -> (run, pid)
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def serve(self) -> Start:
        """Until the launcher is gone; returns in a program's process only."""
        wire.send(self._control, {"event": "standing"})
        while True:
            for fd, _events in self._poll.poll():
                if fd != self._control.fileno():
                    self._ended(fd)
                    continue
                message, fds = wire.receive(self._control)
                if message is None:
                    os._exit(0)
                start = self._fork(message, fds)
                if start is not None:
                    return start

    def _fork(self, message: dict[str, Any], fds: list[int]) -> Start | None:
        plan = decode_plan(wire.read_all(fds[0]))
        members = dict(message["seat"])
        if members["idmap"] is not None:
            members["idmap"] = fds.pop()
        seat = boxes.Seat(**members)
        given = boxes.BoxFds(fds[1:])
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = os.fork()
        except OSError:
            pid = -1
        if pid == 0:
            return boxes.run_box(self._foundation, plan, seat, given, self._seccomp)
        syscalls.setns(self._pid_namespace, syscalls.CLONE_NEWPID)
        if pid < 0:
            os._exit(1)  # no process can be made: end, and be started anew
        for fd in fds:
            os.close(fd)
        if seat.idmap is not None:
            os.close(seat.idmap)
        pidfd = os.pidfd_open(pid)
        self._runs[pidfd] = (message["run"], pid)
        self._poll.register(pidfd, select.POLLIN)
        wire.send(self._control, {"event": "forked", "run": message["run"]}, [pidfd])
        return None

    def _ended(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        run, pid = self._runs.pop(pidfd)
        _, _status, usage = os.wait4(pid, 0)
        cpu_ns = int((usage.ru_utime + usage.ru_stime) * 1e9)
        wire.send(self._control, {"event": "exited", "run": run, "cpu_ns": cpu_ns})


def _import_ahead(names: list[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # another Python version; a program that needs it will say so itself


def _settle() -> None:
    """Leave as few pages as possible that a fork would have to copy (gc.freeze, PEP 442 docs)."""
    gc.collect()
    gc.freeze()


def _renew_main() -> None:
    """Make `__main__` anew: garbage collection leaves alone what was frozen in the standing process,
    and the program's own objects hang on that dictionary, to be destroyed at its end."""
    old = sys.modules["__main__"]
    new = types.ModuleType("__main__")
    new.__dict__.clear()
    new.__dict__.update(old.__dict__)
    sys.modules["__main__"] = new


def _shadowed(start: Start) -> bool:
    """Whether the program brings a module of its own by the name of one that is imported already."""
    python_path = dict(start.env).get("PYTHONPATH", "")
    taken = {name.partition(".")[0] for name in sys.modules}
    for place in filter(None, (os.path.dirname(sys.argv[0]), *python_path.split(os.pathsep))):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        if not taken.isdisjoint(name.partition(".")[0] for name in names):
            return True
    return False


def _take_over(start: Start, area: tuple[int, int]) -> None:
    """In the program's process: what the interpreter's own start would have set."""
    syscalls.close_range(3)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    os.environ.clear()  # first: what the C library has of it lies where the other is written
    _show_environment(area, start.env)
    os.environ.update(start.env)
    time.tzset()
    extra = start.argv[len(sys.orig_argv) :]
    sys.argv.extend(extra)
    sys.orig_argv.extend(extra)
    _set_path(dict(start.env).get("PYTHONPATH", ""))
    _renew_main()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _set_path(python_path: str) -> None:
    """PYTHONPATH comes first; directories of the host that are not in the box go."""
    archive = sys.path[0] if sys.path and sys.path[0].endswith(".zip") else None
    kept = [path for path in sys.path if path == archive or os.path.isdir(path)]
    sys.path[:] = [*filter(None, python_path.split(os.pathsep)), *kept]
    sys.path_importer_cache.clear()


def stand_ready() -> None:
    """Entry point; returns in the process of a program, ready to go on as its interpreter."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    area = _environment_area()
    control = socket.socket(fileno=CONTROL_FD)
    message, fds = wire.receive(control)
    if message is None:
        os._exit(0)
    foundation = decode_foundation(wire.read_all(fds[0]))
    for fd in fds:
        os.close(fd)
    _import_ahead(message["modules"])
    _settle()
    start = Standby(control, foundation).serve()
    control.detach()
    if _shadowed(start):
        boxes.become(start)
    _take_over(start, area)
