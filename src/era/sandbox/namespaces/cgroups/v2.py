"""cgroup v2: one hierarchy (Documentation/admin-guide/cgroup-v2.rst).

The subtree must be delegated to the service.  Processes may live in leaves only, so the service
moves itself into a leaf of its own before it gives controllers to the groups beside it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from era.sandbox.base import Limits
from era.sandbox.namespaces.cgroups.base import Reading
from era.sandbox.namespaces.cgroups.v1 import FIRST, read, remove_group, remove_service, write

CONTROLLERS: Final = ("cpu", "memory", "pids")
_PERIOD_US: Final = 100_000
_NONE: Final = -1


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


class GroupV2:
    """One box's group.  `memory.oom.group` makes the kernel kill all of it at the limit."""

    oom_fd: int | None = None

    def __init__(self, path: str, limits: Limits) -> None:
        self._path = path
        self.join_fds: tuple[int, ...] = ()
        self._cpu_before_ns = 0
        self._peak_fd = _NONE
        os.mkdir(path, 0o755)
        try:
            write(f"{path}/memory.oom.group", "1")
            self.adjust(limits)
            self.join_fds = (os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC),)
        except OSError:
            self.discard()
            raise

    def adjust(self, limits: Limits) -> None:
        """See `Group`."""
        write(f"{self._path}/memory.max", str(limits.memory_bytes))
        if os.path.exists(f"{self._path}/memory.swap.max"):
            write(f"{self._path}/memory.swap.max", "0")
        write(f"{self._path}/pids.max", str(limits.pids + FIRST))
        write(f"{self._path}/cpu.max", f"{int(limits.cpus * _PERIOD_US)} {_PERIOD_US}")

    def unbind(self) -> None:
        """See `Group`."""
        write(f"{self._path}/cpu.max", f"max {_PERIOD_US}")

    def alone(self) -> bool:
        """See `Group`.  A process counts until it is reaped (cgroup-v2.rst, PID)."""
        return self._processes() <= FIRST

    def empty(self) -> bool:
        """See `Group`."""
        return self._processes() == 0

    def _processes(self) -> int:
        return int(read(f"{self._path}/pids.current"))

    def mark(self) -> None:
        """See `Group`.  The peak can be reset since Linux 6.12, for who reads it by the descriptor that
        it was reset by; before, it includes the making."""
        self._cpu_before_ns = self._cpu_ns()
        with suppress(OSError):
            self._let_go_of_peak()
            self._peak_fd = os.open(f"{self._path}/memory.peak", os.O_RDWR | os.O_CLOEXEC)
            os.write(self._peak_fd, b"0")

    def _cpu_ns(self) -> int:
        return _field(read(f"{self._path}/cpu.stat"), "usage_usec") * 1000

    def read(self) -> Reading:
        """See `Group`."""
        return Reading(
            cpu_ns=self._cpu_ns() - self._cpu_before_ns,
            peak_memory_bytes=self._peak(),
            oom_kills=_field(read(f"{self._path}/memory.events"), "oom_kill"),
        )

    def _peak(self) -> int | None:
        """In bytes; the kernel tells it since Linux 5.19."""
        if self._peak_fd != _NONE:
            return int(os.pread(self._peak_fd, 32, 0))
        path = f"{self._path}/memory.peak"
        return int(read(path)) if os.path.exists(path) else None

    def _let_go_of_peak(self) -> None:
        if self._peak_fd != _NONE:
            os.close(self._peak_fd)
            self._peak_fd = _NONE

    def recycle(self) -> bool:
        """See `Group`.  Never: its count of hits of the limit cannot be set back."""
        return False

    def discard(self) -> bool:
        """See `Group`."""
        self._let_go_of_peak()
        for fd in self.join_fds:
            os.close(fd)
        self.join_fds = ()
        return remove_group(self._path)


class CgroupsV2:
    """Groups below `parent/<service name>`; the service itself moves to `parent/<service>-self`."""

    unenforced: tuple[str, ...] = ()

    def __init__(self, parent: str, service: str) -> None:
        self._parent = parent
        self._home = f"{parent}/{service}"
        leaf = f"{parent}/{service}-self"
        os.makedirs(leaf, 0o755, exist_ok=True)
        write(f"{leaf}/cgroup.procs", str(os.getpid()))
        enable = " ".join(f"+{name}" for name in CONTROLLERS)
        write(f"{parent}/cgroup.subtree_control", enable)
        os.makedirs(self._home, 0o755, exist_ok=True)
        write(f"{self._home}/cgroup.subtree_control", enable)

    def create(self, name: str, limits: Limits) -> GroupV2:
        """See `Cgroups`."""
        return GroupV2(f"{self._home}/{name}", limits)

    def close(self) -> None:
        """See `Cgroups`.  The service's own leaf stays: a process cannot leave it for an inner node."""
        remove_service(self._home)
