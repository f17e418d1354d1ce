"""The standing process: forks boxes on the launcher's request and reaps them.

It runs in the interpreter that programs run in, inside the launcher's namespaces and with its
capabilities.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import Any

from era.sandbox.namespaces.child import box as boxes
from era.sandbox.namespaces.child import syscalls, wire
from era.sandbox.namespaces.child.standby import CONTROL_FD
from era.sandbox.plan import Foundation, decode_foundation, decode_plan


class Standby:
    """Forks boxes and tells the launcher of each; `foundation` is what it builds them on."""

    def __init__(self, control: socket.socket, foundation: Foundation) -> None:
        self._control = control
        self._foundation = foundation
        self._seccomp = syscalls.FilterProgram(bytes.fromhex(foundation.filter))
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._runs: dict[int, tuple[int, int]] = {}  # pidfd -> (run, pid)
        self._poll = select.poll()
        self._poll.register(control.fileno(), select.POLLIN)

    def serve(self) -> boxes.AtGate:
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
                at_gate = self._fork(message, fds)
                if at_gate is not None:
                    return at_gate

    def _fork(self, message: dict[str, Any], fds: list[int]) -> boxes.AtGate | None:
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


def serve() -> tuple[int, int, int]:
    """Serve the launcher; in a program's process, locked up, the descriptors of its gate: the gate,
    the memory file with the start, and where to say that it is ready."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=CONTROL_FD)
    message, fds = wire.receive(control)
    if message is None:
        os._exit(0)
    foundation = decode_foundation(wire.read_all(fds[0]))
    for fd in fds:
        os.close(fd)
    at_gate = Standby(control, foundation).serve()
    control.detach()
    return at_gate.gate, at_gate.start, at_gate.ready
