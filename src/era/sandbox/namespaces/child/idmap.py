"""A host user of its own for each box, so that no two boxes share a per-user limit of the kernel.

Inotify instances, pipe buffers, pending signals and the like are counted by user: boxes under one
user could starve each other.  On disk everything belongs to one user all the same; an idmapped
mount (mount_setattr(2), MOUNT_ATTR_IDMAP) shows it to a box as that box's own.  Such a mount takes
its mapping from a user namespace, made here by a child that does nothing else.

Launcher process, as root only: rootless there is one user anyway.
"""

from __future__ import annotations

import os
from contextlib import suppress

from era.sandbox.namespaces.child import syscalls as sys


def _user_namespace(maps: str) -> int:
    """A descriptor of a new user namespace with `maps` for users and groups."""
    made_read, made_write = os.pipe()
    done_read, done_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(done_write)
            sys.unshare(sys.CLONE_NEWUSER)
            os.write(made_write, b"1")
            os.read(done_read, 1)
            code = 0
        finally:
            os._exit(code)
    os.close(made_write)
    os.close(done_read)
    try:
        if not os.read(made_read, 1):
            raise OSError(1, "user namespaces are refused")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{_outer_pid(pid)}/{name}", "w", encoding="ascii") as file:
                file.write(maps)
        return os.open(f"/proc/{_outer_pid(pid)}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(made_read)
        os.close(done_write)
        os.waitpid(pid, 0)


def _outer_pid(pid: int) -> int:
    """The pid as /proc here shows it: this /proc belongs to the launcher's outer pid namespace
    (proc_pid_status(5), NSpid lists the ids from the outermost namespace of the mount inwards)."""
    path = f"/proc/self/task/{_self_task()}/children"
    with open(path, encoding="ascii") as file:
        children = [int(text) for text in file.read().split()]
    for outer in children:
        with suppress(OSError), open(f"/proc/{outer}/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("NSpid:"))
            if int(line.split()[-1]) == pid:
                return outer
    raise ProcessLookupError(pid)


def _self_task() -> str:
    return os.readlink("/proc/thread-self").rpartition("/")[2]


class IdMaps:
    """Numbers the boxes' users; the numbers of closed boxes are used again."""

    def __init__(self, owner: int) -> None:
        self._owner = owner
        self._namespaces: dict[int, int] = {}
        self._free: list[int] = []

    def works_on(self, directories: list[str]) -> bool:
        """Whether the file systems of `directories` take idmapped mounts."""
        uid, namespace = self.take()
        try:
            for directory in directories:
                tree = sys.clone_mount(directory, recursive=False)
                try:
                    sys.set_mount_flags(tree, 0, recursive=False, idmap=namespace)
                finally:
                    os.close(tree)
        except OSError:
            return False
        finally:
            self.give_back(uid)
        return True

    def take(self) -> tuple[int, int]:
        """A user that no open box has, and the descriptor of its mapping (kept open)."""
        if self._free:
            uid = self._free.pop()
            return uid, self._namespaces[uid]
        uid = self._owner + 1 + len(self._namespaces)
        # Root maps to itself: the overlay's work directory is made as root.
        self._namespaces[uid] = _user_namespace(f"0 0 1\n{self._owner} {uid} 1\n")
        return uid, self._namespaces[uid]

    def give_back(self, uid: int) -> None:
        """The box is gone."""
        if uid in self._namespaces:
            self._free.append(uid)
