"""Users of boxes, and the user namespaces that know them alone.

As root each box has a host user of its own, so that no two boxes share a per-user limit of the kernel:
inotify instances, pipe buffers, pending signals and the like are counted by user, and boxes under one
user could starve each other.  On disk everything belongs to one user all the same; an idmapped
mount (mount_setattr(2), MOUNT_ATTR_IDMAP) shows it to a box as that box's own.  Rootless there is one
user anyway.

A user namespace is made once for each user, by a child that does nothing else, and used by one box
after the other: it holds nothing but its map.

Launcher process.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from era.sandbox.namespaces.child import syscalls as sys


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who a box is on the host, as the launcher sees it.

    `namespace` is the descriptor of the user namespace of the box, in which it is all there is;
    `idmap` that of the mapping from the owner of files on disk, or None when they are the same.
    """

    uid: int
    gid: int
    namespace: int
    idmap: int | None


def _user_namespace(user_map: str, group_map: str, creator: tuple[int, int] | None = None) -> int:
    """A descriptor of a new user namespace; nobody in it may change supplementary groups.

    Limits by user are counted in every namespace upwards, there for who created the one below
    (kernel/ucount.c): `creator` is that user and group, by default this process's.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            _hold_namespace(ours, theirs, creator)
        theirs.close()
        try:
            if not ours.recv(1):
                raise OSError(1, "user namespaces are refused")
            process = f"/proc/{_outer_pid(pid)}"
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", user_map),
                ("gid_map", group_map),
            ):
                with open(f"{process}/{name}", "w", encoding="ascii") as file:
                    file.write(text)
            return os.open(f"{process}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            ours.close()
            os.waitpid(pid, 0)


def _hold_namespace(
    ours: socket.socket, theirs: socket.socket, creator: tuple[int, int] | None
) -> NoReturn:
    """The child: in a new user namespace until the launcher has opened it."""
    code = 1
    try:
        ours.close()
        if creator is not None:
            _become(*creator)
        sys.unshare(sys.CLONE_NEWUSER)
        theirs.send(b"1")
        theirs.recv(1)
        code = 0
    finally:
        os._exit(code)


def _become(uid: int, gid: int) -> None:
    """Capabilities are kept over the change of user only so that a host which reserves user
    namespaces for privileged processes allows this one."""
    os.setgroups([])
    sys.prctl(sys.PR_SET_KEEPCAPS, 1)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    sys.raise_capabilities()


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


class Users:
    """Gives each box a user; those of closed boxes are used again.

    `owner` is the user and group that files on disk belong to, `inside` what a box's user is called
    within the box.  With `apart` each box has a host user above `owner`, else all are `owner`.
    """

    def __init__(self, owner: tuple[int, int], inside: tuple[int, int], *, apart: bool) -> None:
        self._owner = owner
        self._inside = inside
        self._apart = apart
        self._made = 0
        self._free: list[User] = []

    def take(self) -> User:
        """A user that no open box has (its descriptors stay open here)."""
        if self._free:
            return self._free.pop()
        self._made += 1
        uid, gid = self._owner
        idmap = creator = None
        if self._apart:
            owner, uid = uid, uid + self._made
            gid = uid
            creator = (uid, gid)
            # Root maps to itself: the overlay's work directory is made as root.
            text = f"0 0 1\n{owner} {uid} 1\n"
            idmap = _user_namespace(text, text)
        inside_uid, inside_gid = self._inside
        try:
            inside = (f"{inside_uid} {uid} 1\n", f"{inside_gid} {gid} 1\n")
            namespace = _user_namespace(*inside, creator)
        except OSError:
            if idmap is not None:
                os.close(idmap)
            raise
        return User(uid=uid, gid=gid, namespace=namespace, idmap=idmap)

    def give_back(self, user: User) -> None:
        """The box is gone."""
        self._free.append(user)


def idmaps_work_on(owner: int, directories: list[str]) -> bool:
    """Whether the file systems of `directories` take idmapped mounts."""
    try:
        text = f"0 0 1\n{owner} {owner + 1} 1\n"
        namespace = _user_namespace(text, text)
    except OSError:
        return False
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
        os.close(namespace)
    return True
