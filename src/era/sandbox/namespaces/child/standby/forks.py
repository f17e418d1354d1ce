"""The standing process: forks programs' processes on the launcher's request and reaps them.

It runs in the interpreter that programs run in, inside the launcher's namespaces and with its
capabilities.
"""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from contextlib import suppress
from typing import Any

from era.sandbox.namespaces.child import box, program, syscalls, wire
from era.sandbox.namespaces.child.standby import CONTROL_FD

_AtGate = tuple[int, int]
_SPACES = 1 + len(box.NAMESPACES)
"""A request's descriptors: a box's pid namespace, its others, its control socket, then those of the
program's process."""


class Standby:
    """Forks the processes of programs into boxes, and tells the server how each ended."""

    def __init__(self, control: socket.socket, filter_code: bytes) -> None:
        self._control = control
        self._seccomp = syscalls.FilterProgram(filter_code)
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._runs: dict[int, tuple[int, int]] = {}  # pidfd -> pid, control socket of its box
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def serve(self) -> _AtGate:
        """Until the launcher is gone; returns in a program's process only."""
        wire.send(self._control, {"event": "standing"})
        while True:
            for fd, _events in self._poll.poll():
                if fd != self._control.fileno():
                    self._ended(fd)
                    continue
                packet, fds, flags, _ = socket.recv_fds(
                    self._control, wire.MAX_PACKET, wire.MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
                if not packet:
                    os._exit(0)
                run, terms = program.Terms.unpack(packet)
                if flags & socket.MSG_CTRUNC:
                    for given in fds:
                        os.close(given)
                    # The box's own control socket is among what did not come.
                    wire.send(self._control, {"event": "unable", "run": run})
                    continue
                at_gate = self._fork(terms, fds)
                if at_gate is not None:
                    return at_gate

    def _fork(self, terms: program.Terms, fds: list[int]) -> _AtGate | None:
        """A child in the pid namespace of a box; it goes into the others itself."""
        pids, spaces, control = fds[0], fds[1:_SPACES], fds[_SPACES]
        given = fds[_SPACES + 1 :]
        try:
            pid = self._fork_into(pids)
        except OSError as error:  # the box has ended, or no process can be made
            _tell(control, {"event": "failed", "step": "fork", "errno": error.errno or 0})
            os.close(control)
        else:
            if pid == 0:
                return _become(terms, spaces, program.ProgramFds.of(given), self._seccomp)
            pidfd = os.pidfd_open(pid)
            self._runs[pidfd] = (pid, control)
            self._poll.register(pidfd, select.POLLIN)
        for fd in (pids, *spaces, *given):
            os.close(fd)
        return None

    def _fork_into(self, pids: int) -> int:
        """fork(2) with the child in the pid namespace `pids`."""
        syscalls.setns(pids, syscalls.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                syscalls.setns(self._pid_namespace, syscalls.CLONE_NEWPID)
        return pid

    def _ended(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        pid, control = self._runs.pop(pidfd)
        before_ns = _used_by_children_ns()
        _, status = os.waitpid(pid, 0)  # os.wait4 would import a module, in the sight of programs
        cpu_ns = _used_by_children_ns() - before_ns
        event = {"event": "ended", "status": status, "cpu_ns": cpu_ns}
        _tell(control, event | {"at_ns": time.monotonic_ns()})
        os.close(control)


def _used_by_children_ns() -> int:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((used.ru_utime + used.ru_stime) * 1e9)


def _become(
    terms: program.Terms,
    spaces: list[int],
    fds: program.ProgramFds,
    seccomp: syscalls.FilterProgram,
) -> _AtGate:
    """In the child: into the box, and locked up there."""
    program.enter(spaces)
    program.lock_up(terms, fds, seccomp)
    return fds.gate, fds.start


def _tell(control: int, event: dict[str, Any]) -> None:
    """Tell the server about one box, over its control socket; it may have given the box up."""
    with suppress(OSError):
        os.write(control, wire.pack(event))


def serve(filter_code: bytes) -> _AtGate:
    """Serve the launcher; in a program's process, locked up, the descriptors of its gate and of the
    memory file with the start."""
    control = socket.socket(fileno=CONTROL_FD)
    at_gate = Standby(control, filter_code).serve()
    control.detach()
    return at_gate
