"""What a driver leaves in the machine: counted from outside, by looking at the kernel's own lists."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from glob import glob

from era.sandbox.namespaces.cgroups import detect
from era.sandbox.namespaces.driver import NamespacesDriver

_BOUND_SECONDS = 30.0
"""Only a test that fails waits this long."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something the kernel does in its own time; fail when it never comes."""
    end = time.monotonic() + _BOUND_SECONDS
    while not condition():
        assert time.monotonic() < end, f"this never came: {what}"
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one of the same number by when it started."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        state = _stat(self.pid)
        return state is not None and state[19] == self.started and state[0] not in "ZX"

    @property
    def name(self) -> str:
        """What it calls itself (proc_pid_comm(5))."""
        return _read(f"/proc/{self.pid}/comm").strip()

    def children(self) -> list[Process]:
        """Its children."""
        numbers = _read(f"/proc/{self.pid}/task/{self.pid}/children").split()
        return [child for child in map(process, map(int, numbers)) if child is not None]

    def family(self) -> list[Process]:
        """Its children, theirs, and so on."""
        found = self.children()
        for child in found:
            found += child.children()
        return found


def _stat(pid: int) -> list[str] | None:
    """The fields after the name (proc_pid_stat(5))."""
    text = _read(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split() if text else None


def process(pid: int) -> Process | None:
    """The process with this number now."""
    state = _stat(pid)
    return None if state is None else Process(pid, state[19])


def launcher_processes(driver: NamespacesDriver) -> tuple[Process, Process]:
    """The outer process, which the server started, and the launcher proper."""
    launcher = driver._launcher
    assert launcher is not None
    assert launcher._process is not None
    outer = process(launcher._process.pid)
    assert outer is not None
    (inner,) = outer.children()
    return outer, inner


async def settled(driver: NamespacesDriver) -> None:
    """Wait until nothing of a box that was left is still being taken away."""
    while driver.winding_up:
        await asyncio.wait(set(driver.winding_up))


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def mounts_naming(token: str) -> list[str]:
    """Mounts whose line names `token`, in every mount namespace that a process here is in."""
    seen: set[str] = set()
    found: list[str] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in seen:
                seen.add(namespace)
                lines = _read(f"/proc/{pid}/mountinfo").splitlines()
                found += [line for line in lines if token in line]
    return found


def loops_naming(token: str) -> list[str]:
    """Loop devices whose file's path names `token`."""
    files = glob("/sys/block/loop*/loop/backing_file")
    return [path for path in files if token in _read(path)]


def groups_of(pid: int) -> list[str]:
    """cgroup directories of the service with this process id, those of its boxes among them."""
    unified = detect.find_v2()
    parents = (detect.find_v1() or {}).values() or ([unified] if unified else [])
    found: list[str] = []
    for parent in dict.fromkeys(parents):
        for home in glob(f"{parent}/era-{pid}-*"):
            found += [home, *(path for path in glob(f"{home}/*") if os.path.isdir(path))]
    return found


def groups_in_use(driver: NamespacesDriver) -> list[str]:
    """cgroups of boxes of this driver that have a process."""
    homes = getattr(driver._cgroups, "_homes", {}).values()
    return [path for home in homes for path in glob(f"{home}/*/") if processes_in(path)]


def processes_in(group: str) -> list[int]:
    """Processes of a cgroup directory."""
    return list(map(int, _read(f"{group}/cgroup.procs").split()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What a driver holds.  Two counts of an idle driver must be equal."""

    server_fds: int
    server_children: int
    launcher_fds: int
    launcher_children: int
    mounts: int
    loops: int
    groups: int
    networks: int


def _links(directory: str) -> list[str]:
    found = []
    for name in os.listdir(directory):
        with suppress(OSError):
            found.append(os.readlink(f"{directory}/{name}"))
    return found


def count(driver: NamespacesDriver, directory: str) -> Census:
    """Count what `driver`, at work below `directory`, holds now; but for the launcher's user and
    network namespaces and for cgroups, which are kept for the next boxes."""
    _, inner = launcher_processes(driver)
    children = inner.family()
    kept = getattr(driver._cgroups, "_kept", [])
    kept_fds = sum(len(group.join_fds) + len(group._files) + 1 for group in kept)
    kept_groups = {path for group in kept for path in group._paths.values()}
    return Census(
        server_fds=len(os.listdir("/proc/self/fd")) - kept_fds,
        server_children=len(Process(os.getpid(), "").children()),
        launcher_fds=len(
            [to for to in _links(f"/proc/{inner.pid}/fd") if not to.startswith(("user:", "net:"))]
        ),
        launcher_children=len(children),
        mounts=len(_read(f"/proc/{inner.pid}/mountinfo").splitlines()),
        loops=len(loops_naming(directory)),
        groups=len(set(groups_of(os.getpid())) - kept_groups),
        networks=len({network_of(one.pid) for one in (inner, *children)} - {""}),
    )


def network_of(pid: int) -> str:
    """The network namespace it is in; empty when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""
