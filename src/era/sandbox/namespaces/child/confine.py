"""How a process of a box gives up its rights; what process 1 and the program's process share.

Forked from the launcher or from a standing interpreter, with the launcher's capabilities, which end
here.  Order matters, and why: cgroups first, so that nothing is done unbounded; the user namespace
before the capabilities go, since entering it takes them; the filter last, since it allows none of
this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence

from era.sandbox.namespaces.child import syscalls as sys

_OOM_SCORE = 500
"""When the host itself runs out of memory, boxes go before the service and its neighbours."""


def reset_signals() -> None:
    """Python's own dispositions must not reach the program: ignored signals survive exec."""
    sys.default_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def keep_only(fds: Iterable[int]) -> None:
    """Close every descriptor from 3 on that is not in `fds`."""
    low = 3
    for fd in sorted(fds):
        if fd > low:
            sys.close_range(low, fd - 1)
        low = fd + 1
    sys.close_range(low)


def join(cgroups: Sequence[int]) -> None:
    """Into the box's cgroups, by descriptors of their `cgroup.procs` that the server opened."""
    for fd in cgroups:
        os.write(fd, b"0")


def be_first_to_go() -> None:
    """Raise the OOM score; what root sets here, nothing in the box can lower again."""
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    try:
        if int(os.read(fd, 16)) < _OOM_SCORE:
            os.pwrite(fd, str(_OOM_SCORE).encode(), 0)
    finally:
        os.close(fd)


def become_user(namespace: int, uid: int, gid: int, *, rootless: bool) -> None:
    """Become the box's user in its user namespace, which knows no other (user_namespaces(7)).

    Not dumpable from before the change of user on: no program of the box may look into a process
    that is not locked up yet.
    """
    sys.prctl(sys.PR_SET_DUMPABLE, 0)
    if not rootless:
        os.setgroups([])
    sys.setns(namespace, sys.CLONE_NEWUSER)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    sys.prctl(sys.PR_SET_DUMPABLE, 0)  # a change of user sets it by the host's fs.suid_dumpable


def drop_everything(seccomp: sys.FilterProgram) -> None:
    """No capability, none to be gained, and no system call but the allowed."""
    sys.drop_capabilities()
    sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install()
