"""The program's process of a box: locks itself up, and only then learns what to run.

Forked by the launcher inside the box, or by a standing interpreter that enters it (`enter`).  Since
it waits at a gate (`gate.py`) after the last of its rights is gone, a box made ahead of a request is
the same box.  Its parent is outside of the box, as process 1 of the box is: the parent alone learns
how it ended.  Only the standard library.
"""

from __future__ import annotations

import fcntl
import os
import resource
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from era.sandbox.namespaces.child import box, confine, gate
from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.plan import Plan, Start

_HEAD = struct.Struct("=6I")
_LIMIT = struct.Struct("=2IQ")
_LIMIT_NAMES = {value: name for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
AHEAD_GATE = 3
AHEAD_START = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFds:
    """Descriptors of the program's process: its three streams, the gate, the memory file with the
    start, the read end of the pipe on which process 1 says `built`, the user namespace, cgroups."""

    stdin: int
    stdout: int
    stderr: int
    gate: int
    start: int
    built: int
    user_namespace: int
    cgroups: tuple[int, ...]

    def all(self) -> list[int]:
        """In the order of the fields."""
        streams = [self.stdin, self.stdout, self.stderr]
        return [*streams, self.gate, self.start, self.built, self.user_namespace, *self.cgroups]

    @classmethod
    def of(cls, fds: list[int]) -> ProgramFds:
        """From the order of `all`."""
        names = ("stdin", "stdout", "stderr", "gate", "start", "built", "user_namespace")
        return cls(**dict(zip(names, fds, strict=False)), cgroups=tuple(fds[len(names) :]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What of a plan the program's process carries out itself."""

    uid: int
    gid: int
    rlimits: tuple[tuple[str, int], ...]
    rootless: bool

    @classmethod
    def of(cls, plan: Plan, *, rootless: bool) -> Terms:
        """The terms of `plan`."""
        return cls(
            uid=plan.inside_uid,
            gid=plan.inside_gid,
            rlimits=plan.rlimits,
            rootless=rootless,
        )

    def pack(self, run: int) -> bytes:
        """A request to a standing interpreter: `struct request` of native/stand.c."""
        limits = [(getattr(resource, name), value) for name, value in self.rlimits]
        head = _HEAD.pack(run, self.uid, self.gid, self.rootless, len(limits), 0)
        return head + b"".join(_LIMIT.pack(kind, 0, value) for kind, value in limits)

    @classmethod
    def unpack(cls, packet: bytes) -> tuple[int, Terms]:
        """The run, and the terms, of what `pack` made."""
        run, uid, gid, rootless, count, _ = _HEAD.unpack_from(packet)
        limits = []
        for at in range(count):
            kind, _, value = _LIMIT.unpack_from(packet, _HEAD.size + at * _LIMIT.size)
            limits.append((_LIMIT_NAMES[kind], value))
        terms = cls(uid=uid, gid=gid, rlimits=tuple(limits), rootless=bool(rootless))
        return run, terms


def spawn(path: str, terms: Terms, fds: ProgramFds, filter_fd: int, ahead: Start | None) -> int:
    """As a program of its own (native/program.c) at `path`: the same as `run`, in fewer pages.  Its
    number."""
    numbers = [fds.gate, fds.start, fds.built, fds.user_namespace, filter_fd]
    numbers += [terms.uid, terms.gid, int(terms.rootless), len(fds.cgroups), *fds.cgroups]
    numbers.append(len(terms.rlimits))
    for name, value in terms.rlimits:
        numbers += [getattr(resource, name), value]
    rest = [] if ahead is None else [ahead.cwd, *ahead.argv]
    kept = (fds.gate, fds.start, fds.built, fds.user_namespace, filter_fd, *fds.cgroups)
    moves = [
        (os.POSIX_SPAWN_DUP2, fd, at) for at, fd in enumerate((fds.stdin, fds.stdout, fds.stderr))
    ]
    moves += sys.staying_open(kept)
    argv = ["era-program", *map(str, numbers), *rest]
    return os.posix_spawn(path, argv, dict(ahead.env) if ahead else {}, file_actions=moves)


def enter(spaces: Sequence[int]) -> None:
    """Into the namespaces of a box, by descriptors in the order of `box.NAMESPACES`."""
    for fd, (_name, kind) in zip(spaces, box.NAMESPACES, strict=True):
        sys.setns(fd, kind)


def lock_up(terms: Terms, fds: ProgramFds, seccomp: sys.FilterProgram) -> None:
    """Give up every right; what cannot be done is told at the gate, and the process ends."""
    try:
        confine.reset_signals()
        confine.join(fds.cgroups)
        sys.unshare(sys.CLONE_NEWCGROUP)
        os.setsid()
        for target, fd in enumerate((fds.stdin, fds.stdout, fds.stderr)):
            os.dup2(fd, target, inheritable=True)
        _limit(terms)
        os.umask(0o022)
        if not os.read(fds.built, 1):
            os._exit(gate.NOT_EXECUTABLE)  # process 1 has told why
        confine.be_first_to_go()
        confine.become_user(fds.user_namespace, terms.uid, terms.gid, rootless=terms.rootless)
        confine.keep_only((fds.gate, fds.start))
        confine.drop_everything(seccomp)
    except OSError as error:
        gate.say(fds.gate, {"event": "failed", "step": "program", "errno": error.errno or 0})
        os._exit(gate.NOT_EXECUTABLE)


def _limit(terms: Terms) -> None:
    for name, value in terms.rlimits:
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def run(terms: Terms, fds: ProgramFds, seccomp: sys.FilterProgram, ahead: Start | None) -> NoReturn:
    """The whole life of a program's process that the launcher forked, up to the program."""
    try:
        lock_up(terms, fds, seccomp)
        gate.say_ready(fds.gate)
        if ahead is not None:
            _become_ahead(ahead, fds)
        told = gate.wait(fds.gate, fds.start)
        gate.become(told["argv"], dict(told["env"]))
    finally:
        os._exit(gate.NOT_EXECUTABLE)


def _become_ahead(start: Start, fds: ProgramFds) -> NoReturn:
    """Become an interpreter that waits at the gate itself: descriptor 3 is the gate, 4 the start.

    It says `ahead` once it waits, and `started` when it goes on; it closes both before anything of
    the client's program runs.
    """
    os.chdir(start.cwd)
    high, told = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (fds.gate, fds.start))
    os.dup2(high, AHEAD_GATE, inheritable=True)
    os.dup2(told, AHEAD_START, inheritable=True)
    gate.become(list(start.argv), dict(start.env))
