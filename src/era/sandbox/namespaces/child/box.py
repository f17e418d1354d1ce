"""How a box is made: its namespaces and its root, in the launcher itself.

The launcher leaves its own namespaces for new ones, lays out the box around itself, forks process 1
of the box (`first.py`) and the program's process (`program.py`) there, and comes back.  Its pages are
its own already, so the steps cost system calls and no page faults, and no process of a box ever has
a right over the box's namespaces: they belong to the launcher's user namespace.

The launcher, with its capabilities.  Only the standard library.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from era.sandbox.namespaces.child import mounts, networks, redirect, wire
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.namespaces.child.users import User
from era.sandbox.plan import Foundation, Plan

PROXY_PORT = 3128
TRANSPARENT_PORT = 3129
DNS_PORT = 53
NAMESPACES = (
    ("mnt", sys.CLONE_NEWNS),
    ("net", sys.CLONE_NEWNET),
    ("ipc", sys.CLONE_NEWIPC),
    ("uts", sys.CLONE_NEWUTS),
)
"""Those that every process of a box is in, beside the pid, cgroup and user namespaces: name in
/proc, and kind."""
KINDS = sys.CLONE_NEWNS | sys.CLONE_NEWNET | sys.CLONE_NEWIPC | sys.CLONE_NEWUTS


class StepError(Exception):
    """A step of building the box failed; `step` names it."""

    def __init__(self, step: str, cause: OSError) -> None:
        super().__init__(f"{step}: {cause}")
        self.step = step
        self.errno = cause.errno or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What the launcher gives one run: scratch, the run's number in its box, and the host's user."""

    space: str
    serial: int
    user: User


class Home:
    """The launcher's own namespaces, to be left and come back to."""

    def __init__(self) -> None:
        # Held open: away from home there is no /proc of the launcher's.
        path = "/proc/thread-self/ns"
        self._names = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._own = [(self.here(name), kind) for name, kind in NAMESPACES]
        self._own.append((self.here("pid"), sys.CLONE_NEWPID))

    def here(self, name: str) -> int:
        """A descriptor of the namespace that this process is in now."""
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._names)

    def leave(self, network: int | None) -> None:
        """Into new namespaces, or into a `network` that is there.  The pid namespace is for children:
        the next one is process 1 in it, and the ones after that are in it too (pid_namespaces(7))."""
        if network is None:
            sys.unshare(KINDS | sys.CLONE_NEWPID)
            networks.loopback_up()
            return
        sys.unshare((KINDS & ~sys.CLONE_NEWNET) | sys.CLONE_NEWPID)
        sys.setns(network, sys.CLONE_NEWNET)

    def come_back(self) -> None:
        """Whatever of `leave` happened.  A launcher that cannot come back ends, with every box."""
        try:
            for fd, kind in self._own:
                sys.setns(fd, kind)
        except OSError:
            os._exit(1)

    def visit(self, namespace: int, kind: int, act: Callable[[], None]) -> None:
        """Do something in another namespace of one kind."""
        sys.setns(namespace, kind)
        try:
            act()
        finally:
            self.come_back()


def own_streams(fds: Iterable[int], user: User) -> None:
    """Pipes belong to who made them; /dev/stdout can be opened by its owner only."""
    for fd in fds:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, user.uid, user.gid)


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


def _lead_out(control: socket.socket) -> None:
    sockets = _egress_sockets()
    wire.send(control, {"event": "egress"}, [sock.fileno() for sock in sockets])
    for sock in sockets:
        sock.close()


def build(foundation: Foundation, plan: Plan, seat: Seat, control: socket.socket) -> None:
    """Lay out the box around this process, which has just left home; a failure names its step.

    Raises:
        StepError: the kernel refused a step.
    """

    def enter_root() -> None:
        mounts.enter(foundation, plan, seat.space, seat.serial, seat.user.idmap)

    steps: list[tuple[str, Callable[[], None]]] = [
        ("hostname", lambda: sys.set_names(plan.hostname)),
        ("mounts", enter_root),
    ]
    if plan.egress:
        steps.insert(1, ("network", lambda: _lead_out(control)))
    for name, step in steps:
        try:
            step()
        except OSError as error:
            raise StepError(name, error) from error
