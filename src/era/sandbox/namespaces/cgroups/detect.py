"""Finds out which cgroup keeper this host allows, and removes what a killed service left.

The service's groups lie below the cgroup it runs in itself, so a limit that the operator set on the
service holds for its boxes too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from era.sandbox.namespaces.cgroups.base import Cgroups
from era.sandbox.namespaces.cgroups.none import NoCgroups
from era.sandbox.namespaces.cgroups.v1 import CONTROLLERS as V1_CONTROLLERS
from era.sandbox.namespaces.cgroups.v1 import CgroupsV1, read, remove_patiently
from era.sandbox.namespaces.cgroups.v2 import CONTROLLERS as V2_CONTROLLERS
from era.sandbox.namespaces.cgroups.v2 import CgroupsV2

_PREFIX = "era-"
_keepers = itertools.count(1)


def _start_time(pid: int) -> str | None:
    """When the process started, in clock ticks since boot (proc_pid_stat(5), field 22)."""
    try:
        text = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    return text.rpartition(")")[2].split()[19]


def service_name() -> str:
    """A name for the groups of one keeper in this process; no later process can have it."""
    return f"{_PREFIX}{os.getpid()}-{_start_time(os.getpid())}-{next(_keepers)}"


def _mounts() -> Iterator[tuple[str, str, str, frozenset[str]]]:
    """(mount root, mount point, file system, super options) of each mount (proc_pid_mountinfo(5))."""
    for line in read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _source, options) = left.split(), right.split(maxsplit=2)
        yield fields[3], fields[4], kind, frozenset(options.split(","))


def _own_paths() -> Mapping[str, str]:
    """Controller -> own cgroup path; the empty name stands for v2."""
    paths = {}
    for line in read("/proc/self/cgroup").splitlines():
        _number, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def _directory(mount_root: str, mount_point: str, own: str) -> str | None:
    """Where the own cgroup `own` is seen under a mount of the hierarchy's directory `mount_root`."""
    if mount_root == "/":
        path = mount_point + own
    elif own == mount_root or own.startswith(mount_root + "/"):
        path = mount_point + own[len(mount_root) :]
    else:
        path = mount_point
    path = path.rstrip("/")
    return path if os.path.isdir(path) else None


def find_v1() -> dict[str, str] | None:
    """Own directory for each controller, when all four hierarchies are mounted."""
    own = _own_paths()
    found: dict[str, str] = {}
    for root, point, kind, options in _mounts():
        for name in V1_CONTROLLERS:
            if kind == "cgroup" and name in options and name in own and name not in found:
                directory = _directory(root, point, own[name])
                if directory is not None:
                    found[name] = directory
    return found if len(found) == len(V1_CONTROLLERS) else None


def find_v2() -> str | None:
    """Own directory in the unified hierarchy, when it offers the controllers needed."""
    own = _own_paths().get("")
    if own is None:
        return None
    for root, point, kind, _options in _mounts():
        directory = _directory(root, point, own) if kind == "cgroup2" else None
        if directory is None:
            continue
        with suppress(OSError):
            if set(V2_CONTROLLERS) <= set(read(f"{directory}/cgroup.controllers").split()):
                return directory
    return None


def _keeper_name() -> str:
    """One of a keeper's own: a process may have several, and each removes what is in its group."""
    return f"{service_name()}-{next(_keepers)}"


def _is_stale(name: str) -> bool:
    pid, start, *_ = [*name.removeprefix(_PREFIX).split("-"), ""]
    return pid.isdigit() and start.isdigit() and _start_time(int(pid)) != start


def sweep(parent: str) -> None:
    """Remove groups below `parent` whose service is gone."""
    for name in os.listdir(parent):
        if not name.startswith(_PREFIX) or not _is_stale(name):
            continue
        home = f"{parent}/{name}"
        with suppress(OSError):  # a process of it may still be dying; the next start gets it
            for box in os.listdir(home):
                if os.path.isdir(f"{home}/{box}"):
                    remove_patiently(f"{home}/{box}")
            remove_patiently(home)


_keepers = itertools.count(1)


def detect() -> Cgroups:
    """The best keeper that works here; NoCgroups says itself what is missing."""
    parents = find_v1()
    if parents is not None:
        with suppress(OSError):
            for parent in dict.fromkeys(parents.values()):
                sweep(parent)
            return CgroupsV1(parents, _keeper_name())
    unified = find_v2()
    if unified is not None:
        with suppress(OSError):
            sweep(unified)
            return CgroupsV2(unified, _keeper_name())
    return NoCgroups()
