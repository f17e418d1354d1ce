"""cgroup v1: one hierarchy for each controller (Documentation/admin-guide/cgroup-v1)."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from era.sandbox.base import Limits
from era.sandbox.namespaces.cgroups.base import Reading

CONTROLLERS: Final = ("memory", "pids", "cpu", "cpuacct")
_PERIOD_US: Final = 100_000
_SOCKET_SHARE: Final = 8
_SOCKET_BYTES: Final = 16 << 20
_CLOSE_ATTEMPTS: Final = 3000
"""rmdir is refused for an instant after the last process of a group has died; 1 ms between tries.
When the service ends nobody waits, and what is not removed then stays until the next start."""
_KEEP: Final = 32
_LEFT_BYTES: Final = 1 << 20
"""What the kernel holds in advance for a group (64 pages a processor) or of its own for it; more
belongs to files that are still there."""
_FILES: Final = {
    "cpuacct.usage": os.O_RDWR,
    "memory.max_usage_in_bytes": os.O_RDWR,
    "memory.oom_control": os.O_RDONLY,
    "memory.usage_in_bytes": os.O_RDONLY,
    "pids.current": os.O_RDONLY,
}
"""Control files that stay open, since a group serves many boxes; named by their controller."""
FIRST: Final = 1
"""Process 1 of a box is in the group, but is not the program's."""


def write(path: str, value: str) -> None:
    """Write a control file in one write, as the kernel demands."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The text of a control file."""
    with open(path, encoding="ascii") as file:
        return file.read()


def remove_group(path: str) -> bool:
    """rmdir of an empty group; False when it is refused."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_service(home: str) -> None:
    """Remove a service's group, and those of boxes whose own removal came too early."""
    boxes = [entry.path for entry in os.scandir(home) if entry.is_dir(follow_symlinks=False)]
    for path in (*boxes, home):
        remove_patiently(path)


def remove_patiently(path: str) -> None:
    """As `remove_group`, waiting for the kernel to let go; what is another user's stays."""
    if not os.access(os.path.dirname(path), os.W_OK):
        return
    for _attempt in range(_CLOSE_ATTEMPTS):
        if remove_group(path):
            return
        time.sleep(0.001)


class GroupV1:
    """One box's groups: the same name in each hierarchy.  `keep` takes a group that can serve another
    box, or says no."""

    def __init__(
        self, paths: Mapping[str, str], limits: Limits, keep: Callable[[GroupV1], bool]
    ) -> None:
        self._paths = paths
        self._keep = keep
        self._limits: Limits | None = None
        self._files: dict[str, int] = {}
        self.join_fds: tuple[int, ...] = ()
        self.oom_fd: int | None = None
        try:
            for path in dict.fromkeys(paths.values()):
                os.mkdir(path, 0o755)
            self.adjust(limits)
            self.oom_fd = self._watch_oom()
            for name, mode in _FILES.items():
                path = f"{paths[name.partition('.')[0]]}/{name}"
                self._files[name] = os.open(path, mode | os.O_CLOEXEC)
            self.join_fds = tuple(
                os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
                for path in dict.fromkeys(paths.values())
            )
        except OSError:
            self.discard()
            raise

    def adjust(self, limits: Limits) -> None:
        """See `Group`."""
        if limits == self._limits:
            return
        self._limits = None
        memory = self._paths["memory"]
        write(f"{memory}/memory.limit_in_bytes", str(limits.memory_bytes))
        with suppress(OSError):  # absent on kernels without swap accounting
            write(f"{memory}/memory.memsw.limit_in_bytes", str(limits.memory_bytes))
        with suppress(OSError):
            write(f"{memory}/memory.swappiness", "0")
        with suppress(OSError):  # buffers of TCP and UDP sockets count apart from other memory
            sockets = max(_SOCKET_BYTES, limits.memory_bytes // _SOCKET_SHARE)
            write(f"{memory}/memory.kmem.tcp.limit_in_bytes", str(sockets))
        write(f"{self._paths['pids']}/pids.max", str(limits.pids + FIRST))
        write(f"{self._paths['cpu']}/cpu.cfs_period_us", str(_PERIOD_US))
        write(f"{self._paths['cpu']}/cpu.cfs_quota_us", str(int(limits.cpus * _PERIOD_US)))
        self._limits = limits

    def _watch_oom(self) -> int:
        """An eventfd that counts hits of the memory limit (memory.rst, section 10)."""
        memory = self._paths["memory"]
        event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        control = os.open(f"{memory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(f"{memory}/cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
        return event

    def unbind(self) -> None:
        """See `Group`."""
        self._limits = None
        write(f"{self._paths['cpu']}/cpu.cfs_quota_us", "-1")

    def alone(self) -> bool:
        """See `Group`.  A process counts until it is reaped (pids.rst)."""
        return int(self._tell("pids.current")) <= FIRST

    def empty(self) -> bool:
        """See `Group`."""
        return int(self._tell("pids.current")) == 0

    def mark(self) -> None:
        """See `Group`.  Writing 0 resets both figures (memory.rst, cpuacct.rst)."""
        os.write(self._files["cpuacct.usage"], b"0")
        os.write(self._files["memory.max_usage_in_bytes"], b"0")

    def read(self) -> Reading:
        """See `Group`."""
        kills = 0
        for line in self._tell("memory.oom_control").splitlines():
            if line.startswith("oom_kill "):
                kills = int(line.split()[1])
        return Reading(
            cpu_ns=int(self._tell("cpuacct.usage")),
            peak_memory_bytes=int(self._tell("memory.max_usage_in_bytes")),
            oom_kills=kills,
        )

    def _tell(self, name: str) -> str:
        """What a control file says now."""
        return os.pread(self._files[name], 4096, 0).decode()

    def recycle(self) -> bool:
        """See `Group`.  To make and to remove one takes a millisecond, so it may serve again."""
        return self._is_as_new() and self._keep(self)

    def _is_as_new(self) -> bool:
        """Whether nothing of the box that was is left: no process, no hit of a limit, no memory."""
        try:
            if self._limits is None or self.oom_fd is None:
                return False
            if not self.empty():
                return False
            if self.read().oom_kills or select.select([self.oom_fd], [], [], 0)[0]:
                return False
            if self._used_bytes() > _LEFT_BYTES:
                write(f"{self._paths['memory']}/memory.force_empty", "0")
            return self._used_bytes() <= _LEFT_BYTES
        except (OSError, ValueError):
            return False

    def _used_bytes(self) -> int:
        return int(self._tell("memory.usage_in_bytes"))

    def discard(self) -> bool:
        """See `Group`."""
        for fd in (*self.join_fds, *self._files.values()):
            os.close(fd)
        self.join_fds = ()
        self._files.clear()
        if self.oom_fd is not None:
            os.close(self.oom_fd)
            self.oom_fd = None
        gone = [remove_group(path) for path in dict.fromkeys(self._paths.values())]
        return all(gone)


class CgroupsV1:
    """Groups below `parents[controller]/<service name>`."""

    unenforced: tuple[str, ...] = ()

    def __init__(self, parents: Mapping[str, str], service: str) -> None:
        self._kept: list[GroupV1] = []
        self._homes = {name: f"{parents[name]}/{service}" for name in CONTROLLERS}
        for path in dict.fromkeys(self._homes.values()):
            os.makedirs(path, 0o755, exist_ok=True)

    def create(self, name: str, limits: Limits) -> GroupV1:
        """See `Cgroups`."""
        if self._kept:
            group = self._kept.pop()
            try:
                group.adjust(limits)
                group.mark()
            except OSError:
                group.discard()
            else:
                return group
        paths = {key: f"{home}/{name}" for key, home in self._homes.items()}
        return GroupV1(paths, limits, self._keep)

    def _keep(self, group: GroupV1) -> bool:
        if len(self._kept) >= _KEEP:
            return False
        self._kept.append(group)
        return True

    def close(self) -> None:
        """See `Cgroups`."""
        for group in self._kept:
            group.discard()
        self._kept.clear()
        for path in dict.fromkeys(self._homes.values()):
            remove_service(path)
