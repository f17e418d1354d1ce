"""Process trees of boxes: process 1, and the program's process beside it.

Launcher process.  Both are its children (or the program's process that of a standing interpreter), so
that it knows how each ended; `tell` gets `ended` for the program's process and `exited` once process 1
is reaped and with it every process of the box is dead.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic_ns
from typing import Any

from era.sandbox.namespaces.child import box, first, mounts, networks, program
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.namespaces.child.children import Children, Ended
from era.sandbox.namespaces.child.interpreters import Interpreters
from era.sandbox.plan import Foundation, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFds:
    """What the server sends for a tree: the program's streams, its own control socket, the gate, the
    memory file with the start, and the cgroups."""

    stdin: int
    stdout: int
    stderr: int
    control: int
    gate: int
    start: int
    cgroups: tuple[int, ...]

    @classmethod
    def of(cls, fds: Sequence[int]) -> TreeFds:
        """In the order in which they are sent."""
        names = ("stdin", "stdout", "stderr", "control", "gate", "start")
        return cls(**dict(zip(names, fds, strict=False)), cgroups=tuple(fds[len(names) :]))


class Trees:
    """Makes trees and ends them, each known by the number of its run."""

    def __init__(
        self,
        foundation: Foundation,
        children: Children,
        interpreters: Interpreters,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._foundation = foundation
        code = bytes.fromhex(foundation.filter)
        self._seccomp = sys.FilterProgram(code)
        self._filter = _in_memory("era-filter", code)
        self._children = children
        self._interpreters = interpreters
        self._tell = tell
        self._home = box.Home()
        self._first: dict[int, int] = {}  # run -> pidfd of process 1
        self._unused = networks.Networks()
        self._networks: dict[int, int] = {}  # run -> its network namespace
        self._led_out: set[int] = set()  # runs whose network has a way out

    def make(self, run: int, plan: Plan, seat: box.Seat, fds: TreeFds, interpreter: str) -> int:
        """Start a tree up to its gate, from `interpreter` if one is named; a descriptor of its mount
        namespace.

        Raises:
            StepError, OSError: there is no tree, or it is ending.
        """
        box.own_streams((fds.stdout, fds.stderr), seat.user)
        built, built_write = os.pipe()
        held = [built, built_write]
        mine = _program_fds(seat, fds, built)
        network = None if plan.egress else self._unused.take()
        try:
            self._home.leave(network)
            self._networks[run] = self._home.here("net") if network is None else network
            if plan.egress:
                self._led_out.add(run)
            mounts_fd = self._home.here("mnt")
            held.append(mounts_fd)
            with socket.socket(fileno=os.dup(fds.control)) as control:
                box.build(self._foundation, plan, seat, control)
            self._fork_first(run, plan, seat, fds, built_write)
            if interpreter:
                spaces = self._spaces(run, held)
                self._ask(interpreter, run, plan, [*spaces, fds.control, *mine.all()])
            else:
                self._fork_program(run, plan, mine)
            held.remove(mounts_fd)
        except BaseException:
            self.kill(run)
            if run not in self._first:
                self._forget_network(run, network)
            raise
        finally:
            self._home.come_back()
            for fd in held:
                os.close(fd)
        return mounts_fd

    def _spaces(self, run: int, held: list[int]) -> list[int]:
        """The namespaces of the box for who is to enter them, the one for its children first; what is
        opened for it is noted in `held`, whose last is that of the mounts."""
        there = {"mnt": held[-1], "net": self._networks[run]}
        spaces = []
        for name in ("pid_for_children", *(name for name, _kind in box.NAMESPACES)):
            if name not in there:
                there[name] = self._home.here(name)
                held.append(there[name])
            spaces.append(there[name])
        return spaces

    def visit(self, mounts_fd: int, act: Callable[[], None]) -> None:
        """Do something in the mount namespace of a tree."""
        self._home.visit(mounts_fd, sys.CLONE_NEWNS, act)

    def sockets(self, run: int) -> list[socket.socket]:
        """Sockets for a connection to a server inside a tree: for IPv4, and for IPv6 where there is any.

        A socket stays in the network namespace it was made in, so whoever holds these can reach the
        loopback of that box and nothing else.  They are not connected: that could take its time.

        Raises:
            OSError: the tree is gone.
        """
        made: list[socket.socket] = []

        def make() -> None:
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with suppress(OSError):
                made.append(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))

        if run not in self._networks:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self._home.visit(self._networks[run], sys.CLONE_NEWNET, make)
        return made

    def kill(self, run: int) -> None:
        """End every process of a tree: the kernel does so when process 1 ends."""
        pidfd = self._first.get(run)
        if pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _fork_first(
        self, run: int, plan: Plan, seat: box.Seat, fds: TreeFds, built_write: int
    ) -> None:
        rootless = self._foundation.rootless
        own = first.FirstFds(
            control=fds.control,
            built=built_write,
            user_namespace=seat.user.namespace,
            cgroups=fds.cgroups,
        )
        if self._foundation.first:
            pid = first.spawn(mounts.FIRST, plan, own, self._filter, rootless=rootless)
        else:
            pid = os.fork()
            if pid == 0:
                first.run(plan, own, self._seccomp, rootless=rootless)
        self._first[run] = os.pidfd_open(pid)
        self._children.watch(pid, lambda ended: self._exited(run, ended))

    def _fork_program(self, run: int, plan: Plan, fds: program.ProgramFds) -> None:
        terms = program.Terms.of(plan, rootless=self._foundation.rootless)
        if self._foundation.first:
            pid = program.spawn(mounts.FIRST, terms, fds, self._filter, plan.ahead)
        else:
            pid = os.fork()
            if pid == 0:
                program.run(terms, fds, self._seccomp, plan.ahead)
        self._children.watch(pid, lambda ended: self._ended(run, ended))

    def _ask(self, interpreter: str, run: int, plan: Plan, fds: Sequence[int]) -> None:
        terms = program.Terms.of(plan, rootless=self._foundation.rootless)
        self._interpreters.fork(interpreter, run, terms.pack(run), fds)

    def _ended(self, run: int, ended: Ended) -> None:
        event = {"event": "ended", "run": run, "status": ended.status, "cpu_ns": ended.cpu_ns}
        self._tell(event | {"at_ns": monotonic_ns()})

    def _exited(self, run: int, ended: Ended) -> None:
        os.close(self._first.pop(run))
        self._let_go(self._networks.pop(run), led_out=run in self._led_out)
        self._led_out.discard(run)
        self._interpreters.box_ended(run)
        event = {"event": "exited", "run": run, "status": ended.status}
        self._tell(event | {"cpu_ns": ended.cpu_ns})

    def _forget_network(self, run: int, taken: int | None) -> None:
        """There was no tree after all."""
        network = self._networks.pop(run, taken)
        self._led_out.discard(run)
        if network is not None:
            os.close(network)

    def _let_go(self, network: int, *, led_out: bool) -> None:
        if led_out:
            os.close(network)
        else:
            self._unused.give_back(network)


def _in_memory(name: str, data: bytes) -> int:
    """A memory file with `data`."""
    fd = os.memfd_create(name)
    os.write(fd, data)
    return fd


def _program_fds(seat: box.Seat, fds: TreeFds, built: int) -> program.ProgramFds:
    return program.ProgramFds(
        stdin=fds.stdin,
        stdout=fds.stdout,
        stderr=fds.stderr,
        gate=fds.gate,
        start=fds.start,
        built=built,
        user_namespace=seat.user.namespace,
        cgroups=fds.cgroups,
    )
