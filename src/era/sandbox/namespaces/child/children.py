"""The launcher's children: each is waited for once, and whoever made it is told.

The launcher is process 1 of its pid namespace, so what has lost its parent comes to it too; such
processes are reaped and nobody is told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended: its wait status, and the processor time of it and its reaped children."""

    status: int
    cpu_ns: int


class Children:
    """Wakes the poll loop when a child ends: `woken` becomes readable."""

    def __init__(self) -> None:
        self.woken, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._watched: dict[int, Callable[[Ended], None]] = {}

    def watch(self, pid: int, then: Callable[[Ended], None]) -> None:
        """Call `then` once the child `pid` is reaped."""
        self._watched[pid] = then

    def reap(self) -> None:
        """Wait for every child that has ended."""
        os.read(self.woken, 4096)
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            then = self._watched.pop(pid, None)
            if then is not None:
                cpu_ns = int((usage.ru_utime + usage.ru_stime) * 1e9)
                then(Ended(status=status, cpu_ns=cpu_ns))
