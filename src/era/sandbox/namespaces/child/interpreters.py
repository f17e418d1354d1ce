"""The launcher's part of Pythons that stand ready (`standby`): it starts, asks, and ends them.

Launcher process.  A standing Python is a process of its own with a socket to the launcher; the programs'
processes that it forks are its children, not the launcher's, until it ends.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from era.sandbox.namespaces.child import mounts, standby, wire
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.plan import Foundation


class _Interpreter:
    """A Python that stands ready, and the runs whose program is its child."""

    def __init__(self, name: str, sock: socket.socket, pid: int) -> None:
        self.name = name
        self.socket = sock
        self.pid = pid
        self.standing = False
        self.runs: set[int] = set()


class Interpreters:
    """Every standing Python.  `tell` says to the server what happens, as the event `interpreter` with
    its name and whether it is `up`; `kill` ends the tree of a run."""

    def __init__(
        self,
        foundation: Foundation,
        poll: select.poll,
        tell: Callable[[dict[str, Any]], None],
        kill: Callable[[int], None],
    ) -> None:
        self._foundation = foundation
        self._poll = poll
        self._tell = tell
        self._kill = kill
        self._all: dict[int, _Interpreter] = {}  # descriptor of its socket -> it

    def __contains__(self, fd: object) -> bool:
        return fd in self._all

    def start(self, message: dict[str, Any], fds: Sequence[int]) -> None:
        """Start one, as the request `interpreter` says; `fds` is the foundation's memory file."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                _become(self._foundation, message, theirs.fileno())
            finally:
                os._exit(1)
        theirs.close()
        wire.send(ours, {"request": "stand"}, fds)
        self._all[ours.fileno()] = _Interpreter(message["name"], ours, pid)
        self._poll.register(ours.fileno(), select.POLLIN)

    def fork(self, name: str, run: int, request: bytes, fds: Sequence[int]) -> None:
        """Have the program's process of `run` forked from the interpreter `name`; OSError when none
        stands ready."""
        for interpreter in self._all.values():
            if interpreter.name == name and interpreter.standing:
                socket.send_fds(interpreter.socket, [request], list(fds))
                interpreter.runs.add(run)
                return
        raise OSError(errno.ESRCH, f"no {name} stands ready")

    def dismiss(self, name: str, *, now: bool) -> None:
        """No more forks of the interpreter `name`; it ends with its last box, or `now` with all."""
        for interpreter in list(self._all.values()):
            if interpreter.name == name:
                if now:
                    self._lose(interpreter)
                else:
                    interpreter.name = ""
                    self._end_if_idle(interpreter)

    def box_ended(self, run: int) -> None:
        """Every process of the tree `run` is dead."""
        for interpreter in list(self._all.values()):
            if run in interpreter.runs:
                interpreter.runs.discard(run)
                self._end_if_idle(interpreter)

    def hear(self, fd: int) -> None:
        """Take one message of the interpreter whose socket is `fd`."""
        interpreter = self._all[fd]
        try:
            message, _fds = wire.receive(interpreter.socket)
        except OSError:
            message = None
        if message is None:
            self._lose(interpreter)
        elif message["event"] == "unable":
            self._kill(message["run"])
        else:
            interpreter.standing = True
            self._tell({"event": "interpreter", "name": interpreter.name, "up": True})

    def _end_if_idle(self, interpreter: _Interpreter) -> None:
        if not interpreter.name and not interpreter.runs:
            self._lose(interpreter)

    def _lose(self, interpreter: _Interpreter) -> None:
        """It ended, or is to end, and its boxes with it: nobody would learn of their end."""
        self._poll.unregister(interpreter.socket.fileno())
        del self._all[interpreter.socket.fileno()]
        interpreter.socket.close()
        with suppress(ProcessLookupError):
            os.kill(interpreter.pid, signal.SIGKILL)
        for run in interpreter.runs:
            self._kill(run)
        if interpreter.name:
            self._tell({"event": "interpreter", "name": interpreter.name, "up": False})


def _become(foundation: Foundation, message: dict[str, Any], control_fd: int) -> NoReturn:
    """The child that becomes a standing Python.

    It sees the host's files as the launcher does, except that what the boxes' root covers is covered
    here too: the interpreter must find the same modules that it would find in a box.  Its standard
    streams are of the kinds that a program's are, since Python looks at them once, at its start; as
    the C library does at the stack's limit, for the stacks of threads.
    """
    sys.unshare(sys.CLONE_NEWNS)
    sys.mount(None, "/", None, sys.MS_REC | sys.MS_SLAVE)
    mounts.cover_host(foundation)
    os.dup2(control_fd, standby.CONTROL_FD, inheritable=True)
    os.dup2(os.memfd_create("stdin", 0), 0)
    _read, write = os.pipe()
    os.dup2(write, 1)
    os.dup2(write, 2)
    sys.close_range(standby.CONTROL_FD + 1)
    sys.default_signals()  # Python notes at its start what is ignored; the service's may be anything
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    soft = message["stack_bytes"]
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
    env = {"PYTHONPATH": standby.HOOK, **message["env"]}
    env |= {standby.AHEAD: " ".join(message["modules"]), standby.PAD: "x" * standby.PAD_BYTES}
    os.execve(message["argv"][0], message["argv"], env)
