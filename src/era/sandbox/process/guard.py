"""Keeps the service whole among programs of its own user.  Called once, by the server's process."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Set
from contextlib import suppress

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def protect() -> None:
    """Close the process to others of its user: no /proc/PID/environ, no memory, no descriptors, no
    ptrace (ptrace(2) refuses what is not dumpable).  And inherit what outlives its supervisor."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_strays(known: Set[int]) -> None:
    """End children that are not `known`, and theirs, which become ours as their parents end: what a
    program left that has killed its supervisor."""
    while strays := _children() - known:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    found = set()
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.add(int(name))
    return found
