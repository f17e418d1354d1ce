"""Process 1 of a box: finishes the box from inside, then reaps and passes on a request to stop.

Forked by the launcher into the box's namespaces.  It mounts the box's /proc, which only a process of
the pid namespace can, gives up every right, and says so on a pipe that the program's process waits
at.  It is in the box's cgroups: what it does for the box, the box pays.  When it ends, the kernel
kills whatever is left in the box (pid_namespaces(7)).  Only the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from dataclasses import dataclass
from typing import NoReturn

from era.sandbox.namespaces.child import confine, mounts, wire
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.plan import Plan

STOP = b"TERM"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFds:
    """Descriptors of process 1: the server's control socket, the write end of the pipe that says
    `built`, the box's user namespace, and its cgroups."""

    control: int
    built: int
    user_namespace: int
    cgroups: tuple[int, ...]


def spawn(path: str, plan: Plan, fds: FirstFds, filter_fd: int, *, rootless: bool) -> int:
    """As a program of its own (native/first.c) at `path`: the same, in fewer pages.  Its number."""
    numbers = [fds.control, fds.built, fds.user_namespace, filter_fd]
    numbers += [plan.inside_uid, plan.inside_gid, rootless, len(fds.cgroups), *fds.cgroups]
    orders = [f"m{at}" for at in plan.masked] + [f"r{at}" for at in plan.read_only]
    given = (fds.control, fds.built, fds.user_namespace, filter_fd, *fds.cgroups)
    argv = ["era-box", *(str(int(number)) for number in numbers), *orders]
    return os.posix_spawn(path, argv, {}, file_actions=sys.staying_open(given))


def can_be_spawned(path: str) -> bool:
    """Whether the program at `path` runs on this host at all.  Without arguments it ends with 1."""
    try:
        pid = os.posix_spawn(path, ["era-box"], {})
    except OSError:
        return False
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def run(plan: Plan, fds: FirstFds, seccomp: sys.FilterProgram, *, rootless: bool) -> NoReturn:
    """The whole life of process 1."""
    control: socket.socket | None = None
    try:
        control = socket.socket(fileno=fds.control)
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        sys.set_name("era-box")
        confine.reset_signals()
        confine.join(fds.cgroups)
        mounts.mount_proc(plan, rootless=rootless)
        confine.be_first_to_go()
        confine.become_user(fds.user_namespace, plan.inside_uid, plan.inside_gid, rootless=rootless)
        # A change of user clears the parent-death signal (prctl(2)).
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        confine.keep_only((fds.control, fds.built))
        confine.drop_everything(seccomp)
        os.write(fds.built, b"1")
        os.close(fds.built)
        _tend(control)
    except OSError as error:
        if control is not None:
            wire.send(control, {"event": "failed", "step": "process 1", "errno": error.errno or 0})
    finally:
        os._exit(1)  # a forked child must never return into its parent's code


def _tend(control: socket.socket) -> NoReturn:
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        for fd, _events in poll.poll():
            if fd == wake_read:
                os.read(wake_read, 4096)
                _reap()
                continue
            request = control.recv(64)
            if not request:
                os._exit(0)  # the server is done with the box, or gone: the box ends
            if request == STOP:
                _signal_everyone(signal.SIGTERM)


def _signal_everyone(number: int) -> None:
    try:
        os.kill(-1, number)  # every process of this pid namespace but process 1 (kill(2))
        os.kill(-1, signal.SIGCONT)  # a stopped process must wake to act on it
    except ProcessLookupError:
        return


def _reap() -> None:
    """Orphans of the box."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
