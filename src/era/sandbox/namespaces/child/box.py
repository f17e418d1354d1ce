"""Process 1 of a box and the program it starts.

Forked by the launcher (or by an interpreter that stands ready) into a new pid namespace.  `run_box`
is process 1: with the launcher's capabilities it makes the remaining namespaces and the root, then
enters a user namespace of its own, starts the program's process, drops everything and stays to reap.
The program's process locks itself up first and only then learns what to run (`gate.py`), so a box
made ahead of a request is the same box.  Only the standard library.

Order matters, and why:

1. the parent-death signal first, so that nothing outlives the launcher;
2. all namespaces but the user namespace, and every mount, with the launcher's capabilities: these
   namespaces then belong to the launcher's user namespace, so the box has no rights over them;
3. then the user namespace, holding one user and one group and no right outside itself;
4. then, in the program's process: cgroups (joined by descriptors opened by the server), a cgroup
   namespace rooted there, limits, capabilities away, no_new_privs, the filter;
5. the gate: what to run comes from the server, and the program starts.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from era.sandbox.namespaces.child import gate, mounts, redirect, wire
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.plan import Foundation, Plan, Start

PROXY_PORT = 3128
TRANSPARENT_PORT = 3129
DNS_PORT = 53
AHEAD_GATE = 3
AHEAD_START = 4
_STOP = b"TERM"
_NAMESPACES = sys.CLONE_NEWNS | sys.CLONE_NEWNET | sys.CLONE_NEWIPC | sys.CLONE_NEWUTS
_OOM_SCORE = 500
"""When the host itself runs out of memory, boxes go before the service and its neighbours."""


class StepError(Exception):
    """A step of building the box failed; `step` names it."""

    def __init__(self, step: str, cause: OSError) -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step
        self.errno = cause.errno or 0


class BoxFds:
    """The descriptors a box gets from the server, in the order they are sent."""

    def __init__(self, fds: list[int]) -> None:
        self.stdin, self.stdout, self.stderr, self.control, self.gate, self.start = fds[:6]
        self.cgroups = fds[6:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What the launcher gave one run: scratch, the run's number in its box, and the host's user.

    `idmap` is the descriptor of the mapping from the owner of files on disk to `uid`, or None when
    they are the same.
    """

    space: str
    serial: int
    uid: int
    gid: int
    idmap: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtGate:
    """Descriptors of the program's process, locked up: the gate, the memory file with the start, and
    where to say that it is ready; and what waits instead of it, if anything."""

    gate: int
    start: int
    ready: int
    ahead: Start | None


def _reset_signals() -> None:
    """Python's own dispositions must not reach the program: ignored signals survive exec."""
    for number in signal.valid_signals():
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue  # SIGKILL, SIGSTOP and libc's own cannot be set
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _keep_only(fds: BoxFds, seat: Seat) -> Seat:
    """Move the box's descriptors to 3 and up, and close everything else this process inherited."""
    wanted = [fds.stdin, fds.stdout, fds.stderr, fds.control, fds.gate, fds.start, *fds.cgroups]
    if seat.idmap is not None:
        wanted.append(seat.idmap)
    # First far above any target, so that no dup2 overwrites a source.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in wanted]
    for target, fd in enumerate(high, start=3):
        os.dup2(fd, target, inheritable=False)
    sys.close_range(3 + len(wanted))
    fds.stdin, fds.stdout, fds.stderr, fds.control, fds.gate, fds.start = range(3, 9)
    fds.cgroups = list(range(9, 9 + len(fds.cgroups)))
    return seat if seat.idmap is None else replace(seat, idmap=2 + len(wanted))


def _own_streams(fds: BoxFds, seat: Seat) -> None:
    """Pipes belong to who made them; /dev/stdout can be opened by its owner only."""
    for fd in (fds.stdout, fds.stderr):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, seat.uid, seat.gid)


def _be_first_to_go() -> None:
    """Raise the OOM score; what root sets here, nothing in the box can lower again."""
    with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
        if int(file.read()) < _OOM_SCORE:
            file.seek(0)
            file.write(str(_OOM_SCORE))


def _write_file(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _enter_user_namespace(foundation: Foundation, plan: Plan, seat: Seat) -> None:
    """Become the box's user in a user namespace that knows no other (user_namespaces(7)).

    The map may be written by the process itself because it names only its own ids; that needs
    `setgroups` denied, and a dumpable process (the files of /proc/self belong to root otherwise).
    Capabilities are kept over the change of user only so that a host which reserves user
    namespaces for privileged processes allows this one.
    """
    if not foundation.rootless:
        os.setgroups([])
        sys.prctl(sys.PR_SET_KEEPCAPS, 1)
        os.setresgid(seat.gid, seat.gid, seat.gid)
        os.setresuid(seat.uid, seat.uid, seat.uid)
        sys.raise_capabilities()
    sys.prctl(sys.PR_SET_DUMPABLE, 1)
    sys.unshare(sys.CLONE_NEWUSER)
    _write_file("/proc/self/setgroups", "deny")
    _write_file("/proc/self/uid_map", f"{plan.inside_uid} {seat.uid} 1")
    _write_file("/proc/self/gid_map", f"{plan.inside_gid} {seat.gid} 1")
    # From here on: the program must not look into process 1 even for the moment it takes to lock it.
    sys.prctl(sys.PR_SET_DUMPABLE, 0)


def _listener(family: socket.AddressFamily, port: int, backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", port))
    sock.listen(backlog)
    return sock


def _egress_sockets() -> list[socket.socket]:
    """Sockets inside the box's network namespace; the server's broker serves them.

    A socket stays in the namespace it was made in, so the box needs no route to anywhere.  In this
    order: HTTP proxy, name service by TCP and by UDP, then, where the kernel can redirect, the
    listeners for programs that know of no proxy (IPv4, IPv6).
    """
    names_udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names_udp.bind(("127.0.0.1", DNS_PORT))
    proxy = _listener(socket.AF_INET, PROXY_PORT, 128)
    sockets = [proxy, _listener(socket.AF_INET, DNS_PORT, 16), names_udp]
    try:
        redirect.lead_to(TRANSPARENT_PORT)
    except OSError:
        return sockets  # without redirection such programs reach nothing: less, never more
    sockets.append(_listener(socket.AF_INET, TRANSPARENT_PORT, 128))
    sockets.append(_listener(socket.AF_INET6, TRANSPARENT_PORT, 128))
    return sockets


def _start_network(plan: Plan, control: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sys.loopback_up(sock.fileno())
    if not plan.egress:
        return
    sockets = _egress_sockets()
    wire.send(control, {"event": "egress"}, [sock.fileno() for sock in sockets])
    for sock in sockets:
        sock.close()


def _enter_root(foundation: Foundation, plan: Plan, seat: Seat) -> None:
    mounts.enter(foundation, plan, seat.space, seat.serial, seat.idmap)


def _build(foundation: Foundation, plan: Plan, seat: Seat, control: socket.socket) -> None:
    """Steps 2 and 3 of the module's order; each failure names its step."""
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("namespaces", lambda: sys.unshare(_NAMESPACES)),
        ("hostname", lambda: sys.set_names(plan.hostname)),
        ("network", lambda: _start_network(plan, control)),
        ("mounts", lambda: _enter_root(foundation, plan, seat)),
        ("user namespace", lambda: _enter_user_namespace(foundation, plan, seat)),
    )
    for name, step in steps:
        try:
            step()
        except OSError as error:
            raise StepError(name, error) from error


def _lock_up(plan: Plan, fds: BoxFds, seccomp: sys.FilterProgram) -> None:
    """Step 4 of the module's order, in the program's own process."""
    for fd in fds.cgroups:
        os.write(fd, b"0")
    sys.unshare(sys.CLONE_NEWCGROUP)
    os.setsid()
    for target, fd in enumerate((fds.stdin, fds.stdout, fds.stderr)):
        os.dup2(fd, target, inheritable=True)
    for name, value in plan.rlimits:
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))
    os.umask(0o022)
    sys.drop_capabilities()
    sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install()


def _locked_up(plan: Plan, fds: BoxFds, seccomp: sys.FilterProgram, ready_fd: int) -> AtGate:
    """The program's own process, from fork to the gate; why it did not come so far is told as the
    number of the error on `ready_fd`."""
    try:
        _lock_up(plan, fds, seccomp)
    except OSError as error:
        os.write(ready_fd, str(error.errno or 0).encode())
        os._exit(gate.NOT_EXECUTABLE)
    return AtGate(gate=fds.gate, start=fds.start, ready=ready_fd, ahead=plan.ahead)


def run_program(at: AtGate) -> NoReturn:
    """In the program's process, locked up: say so, wait at the gate, become the program."""
    gate.say_ready(at.ready)
    if at.ahead is not None:
        _become_ahead(at.ahead, at)
    told = gate.wait(at.gate, at.start)
    gate.become(told["argv"], dict(told["env"]))


def _become_ahead(start: Start, at: AtGate) -> NoReturn:
    """Become an interpreter that waits at the gate itself: descriptor 3 is the gate, 4 the start.

    It says `ahead` once it waits, and `started` when it goes on; it closes both before anything of
    the client's program runs.
    """
    os.chdir(start.cwd)
    high, told = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (at.gate, at.start))
    os.dup2(high, AHEAD_GATE, inheritable=True)
    os.dup2(told, AHEAD_START, inheritable=True)
    gate.become(list(start.argv), dict(start.env))


def _lock_down_init(seccomp: sys.FilterProgram) -> None:
    """Process 1 keeps no right either."""
    sys.drop_capabilities()
    sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install()


def _tend(control: socket.socket, main: int) -> NoReturn:
    """Process 1's life: reap until the main process ends, pass on a request to stop, then end.

    When this process ends, the kernel kills whatever is left in the box (pid_namespaces(7)).
    """
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while not _reap(control, main):
        for fd, _events in poll.poll():
            if fd == wake_read:
                os.read(wake_read, 4096)
                continue
            request = control.recv(64)
            if not request:
                os._exit(0)  # the server is gone, and with this process the box
            if request == _STOP:
                _signal_everyone(signal.SIGTERM)
    os._exit(0)


def _signal_everyone(number: int) -> None:
    try:
        os.kill(-1, number)  # every process of this pid namespace but process 1 (kill(2))
        os.kill(-1, signal.SIGCONT)  # a stopped process must wake to act on it
    except ProcessLookupError:
        return


def _reap(control: socket.socket, main: int) -> bool:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return False
        if pid == main:
            ended: dict[str, Any] = {"event": "ended", "status": status}
            wire.send(control, ended | {"at_ns": time.monotonic_ns()})
            return True


def _init(
    control: socket.socket, fds: BoxFds, seccomp: sys.FilterProgram, main: int, ready_fd: int
) -> NoReturn:
    """Process 1, from the fork of the program's process on."""
    for fd in range(fds.stdin, fds.gate + len(fds.cgroups) + 2):
        if fd != fds.control:
            os.close(fd)
    _lock_down_init(seccomp)
    report = os.read(ready_fd, 64)
    os.close(ready_fd)
    if report != gate.READY:
        raise StepError("program", OSError(int(report or b"0"), "the program's process"))
    mounts_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    wire.send(control, {"event": "ready"}, [mounts_fd])
    os.close(mounts_fd)
    _tend(control, main)


def _make(
    foundation: Foundation, plan: Plan, seat: Seat, fds: BoxFds, control: socket.socket
) -> tuple[int, int, int]:
    """Build the box and fork; (pid or 0, read end, write end of the pipe that says `ready`)."""
    _build(foundation, plan, seat, control)
    # A change of user clears the parent-death signal (prctl(2)).
    sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    if seat.idmap is not None:
        os.close(seat.idmap)
    ready_read, ready_write = os.pipe()
    return os.fork(), ready_read, ready_write


def run_box(
    foundation: Foundation, plan: Plan, seat: Seat, fds: BoxFds, seccomp: sys.FilterProgram
) -> AtGate:
    """Process 1 of a box: build it, start the program's process, tend it, end.

    Returns in the program's process only, locked up.
    """
    control: socket.socket | None = None
    try:
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        _reset_signals()
        seat = _keep_only(fds, seat)
        _be_first_to_go()
        _own_streams(fds, seat)
        control = socket.socket(fileno=fds.control)
        main, ready_read, ready_write = _make(foundation, plan, seat, fds, control)
        if main:
            os.close(ready_write)
            _init(control, fds, seccomp, main, ready_read)
        os.close(ready_read)
    except StepError as error:
        if control is not None:
            report = {"event": "failed", "step": error.step, "errno": error.errno}
            wire.send(control, report)
        os._exit(1)
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        os._exit(1)
    control.detach()
    os.close(fds.control)
    return _locked_up(plan, fds, seccomp, ready_write)
