"""Thin bindings to the kernel: one function per call, errno kept as OSError.

Runs in the launcher and its children only.  ctypes rather than `os`: Python 3.11 has neither
unshare nor the mount calls.  The numbers of mount_setattr and later are the same on every
architecture (asm-generic/unistd.h); pivot_root and seccomp are not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long
_MACHINE: Final = platform.machine()
_NR: Final = {
    "x86_64": {"pivot_root": 155, "seccomp": 317},
    "aarch64": {"pivot_root": 41, "seccomp": 277},
}[_MACHINE if _MACHINE == "aarch64" else "x86_64"]
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432
_NR_CLOSE_RANGE: Final = 436
_NR_MOUNT_SETATTR: Final = 442

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_NOATIME: Final = 0x400
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MNT_DETACH: Final = 2

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
_MOUNT_ATTR_IDMAP: Final = 0x100000

_OPEN_TREE_CLONE: Final = 1
_AT_RECURSIVE: Final = 0x8000
_AT_EMPTY_PATH: Final = 0x1000
_AT_FDCWD: Final = -100
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_CLOEXEC: Final = 1

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_CAPBSET_DROP: Final = 24
PR_SET_NAME: Final = 15
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63
_SECCOMP_SET_MODE_FILTER: Final = 1
_SIGNALS: Final = 65


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _path(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, kind), f"setns {kind:#x}")


def set_names(host: str) -> None:
    """sethostname(2) and setdomainname(2): the host's NIS domain is no business of a box."""
    name, domain = host.encode(), b"(none)"
    _check(_libc.sethostname(name, len(name)), "sethostname")
    _check(_libc.setdomainname(domain, len(domain)), "setdomainname")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            _path(source),
            _path(target),
            _path(kind),
            ctypes.c_ulong(flags),
            _path(data) if data else None,
        ),
        f"mount {target}",
    )


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2); detached by default, so that a busy mount goes when its last user does."""
    _check(_libc.umount2(_path(target), flags), f"umount {target}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_syscall(_NR["pivot_root"], _path(new_root), _path(put_old)), "pivot_root")


def clone_mount(source: str, *, recursive: bool) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `source`, as a descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    return _check(_syscall(_NR_OPEN_TREE, _AT_FDCWD, _path(source), flags), f"open_tree {source}")


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def set_mount_flags(fd: int, attributes: int, *, recursive: bool, idmap: int | None = None) -> None:
    """mount_setattr(2) on the mount that `fd` is the root of; it is made private too.  `idmap` is
    the descriptor of a user namespace whose map the (detached) mount takes."""
    attr = _MountAttr(attributes, 0, MS_PRIVATE, 0)
    if idmap is not None:
        attr.attr_set |= _MOUNT_ATTR_IDMAP
        attr.userns_fd = idmap
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _check(
        _syscall(_NR_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)),
        "mount_setattr",
    )


def attach_mount(fd: int, target: str) -> None:
    """move_mount(2): put the detached mount `fd` at `target`."""
    _check(
        _syscall(_NR_MOVE_MOUNT, fd, b"", _AT_FDCWD, _path(target), _MOVE_MOUNT_F_EMPTY_PATH),
        f"move_mount {target}",
    )


def new_mount(kind: str, options: dict[str, str | None], attributes: int) -> int:
    """fsopen(2), fsconfig(2), fsmount(2): a new file system as a detached mount, by descriptor.
    An option without a value is None; a value has at most 255 bytes."""
    context = _check(_syscall(_NR_FSOPEN, _path(kind), _CLOEXEC), f"fsopen {kind}")
    try:
        for key, value in options.items():
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            result = _syscall(_NR_FSCONFIG, context, command, _path(key), _path(value), 0)
            _check(result, f"fsconfig {kind} {key}")
        created = _syscall(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        _check(created, f"fsconfig {kind}")
        return _check(_syscall(_NR_FSMOUNT, context, _CLOEXEC, attributes), f"fsmount {kind}")
    finally:
        os.close(context)


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    """prctl(2) with up to two arguments, the rest zero."""
    zero = ctypes.c_ulong(0)
    return _check(
        _libc.prctl(option, ctypes.c_ulong(arg2), ctypes.c_ulong(arg3), zero, zero),
        f"prctl {option}",
    )


def set_name(name: str) -> None:
    """prctl(2) PR_SET_NAME: what ps and top call this process; 15 bytes at most."""
    _check(_libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0), "prctl")


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """close_range(2): close the descriptors from `first` to `last`, by default all others."""
    result = _syscall(_NR_CLOSE_RANGE, first, ctypes.c_uint(last), 0)
    if result < 0 and ctypes.get_errno() == errno.ENOSYS:
        os.closerange(first, min(last + 1, os.sysconf("SC_OPEN_MAX")))


def staying_open(fds: Iterable[int]) -> list[tuple[int, int, int]]:
    """Actions of posix_spawn(3) that let `fds` stay open across exec: each is moved to its own number,
    which only does that (posix_spawn_file_actions_adddup2(3))."""
    return [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds]


def default_signals() -> None:
    """signal(2) SIG_DFL for every signal that can be set, by the C library: `signal.signal` would
    touch a page of Python's for each."""
    for number in range(1, _SIGNALS):
        _libc.signal(number, None)  # refused for SIGKILL, SIGSTOP and the C library's own


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _capset(mask: int) -> None:
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _check(_libc.capset(ctypes.byref(header), data), "capset")


def raise_capabilities() -> None:
    """Make every permitted capability effective again after a change of user id with KEEPCAPS."""
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(ctypes.byref(header), data), "capget")
    _capset(data[1] | data[4] << 32)


def drop_capabilities() -> None:
    """Empty all five capability sets: bounding, ambient, then effective, permitted, inheritable."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: past this kernel's last capability
                raise
            break
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _capset(0)


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class FilterProgram:
    """A seccomp program in memory, ready to be installed by this process or a child of it."""

    def __init__(self, code: bytes) -> None:
        if not code or len(code) % 8:
            raise ValueError("a seccomp program is a sequence of 8-byte instructions")
        self._buffer = ctypes.create_string_buffer(code, len(code))
        self._program = _SockFprog(len(code) // 8, ctypes.addressof(self._buffer))

    def install(self) -> None:
        """seccomp(2) SECCOMP_SET_MODE_FILTER; needs no_new_privs.  It cannot be taken off again."""
        _check(
            _syscall(_NR["seccomp"], _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(self._program)),
            "seccomp",
        )


def loopback_up(fd: int) -> None:
    """ioctl SIOCSIFFLAGS: bring `lo` up in the network namespace of the socket `fd`."""
    import fcntl

    ifreq = struct.pack("16sh22x", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
    fcntl.ioctl(fd, 0x8914, ifreq)
