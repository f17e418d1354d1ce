"""The file system of a box: the base all boxes share, and what one box adds to it.

`build_base` runs once in the launcher; `enter` runs in the launcher too, in the new mount namespace of
a box, which belongs to the launcher's user namespace; `mount_proc` in process 1 of the box before it
gives up its rights.  So no process of the box that runs a program ever has a capability over its own
mounts.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass

from era.sandbox.namespaces.child import syscalls as sys
from era.sandbox.plan import BindMount, Foundation, Plan, ScratchMount

_RO = sys.MOUNT_ATTR_RDONLY | sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV
_DEVICES = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
_EMPTY_FILE = "/.empty"
_EMPTY_DIR = "/.empty.d"
_HOST_PROC = "/.proc"
FIRST = "/.first"
"""The program that is process 1, where there is one.  It belongs to the service's user: as root nobody in
a box may read or run it, and to run it without rights does nothing."""
_TMPFS_FLAGS = sys.MS_NOSUID | sys.MS_NODEV


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a box sees files on disk."""

    rootless: bool
    idmap: int | None


def device_binds() -> tuple[BindMount, ...]:
    """The device files of every box."""
    return tuple(
        BindMount(source=f"/dev/{name}", target=f"/dev/{name}", writable=True, device=True)
        for name in _DEVICES
    )


def _mount_point(base: str, target: str, *, directory: bool) -> str:
    path = base + target
    if os.path.lexists(path):
        return path
    os.makedirs(path if directory else os.path.dirname(path), mode=0o755, exist_ok=True)
    if not directory:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    return path


def _clone(bind: BindMount, idmap: int | None) -> int:
    """The bind as a detached mount."""
    flags = sys.MOUNT_ATTR_NOSUID
    flags |= sys.MOUNT_ATTR_NOEXEC if bind.device else sys.MOUNT_ATTR_NODEV
    if not bind.writable:
        flags |= sys.MOUNT_ATTR_RDONLY
    tree = sys.clone_mount(bind.source, recursive=idmap is None)
    try:
        sys.set_mount_flags(tree, flags, recursive=idmap is None, idmap=idmap)
    except OSError:
        os.close(tree)
        raise
    return tree


def _attach(mount: int, target: str) -> None:
    try:
        sys.attach_mount(mount, target)
    finally:
        os.close(mount)


def build_base(foundation: Foundation) -> None:
    """Make the root that every box copies, below `foundation.base_dir`.

    The launcher, in its own mount namespace.  The tree stays writable to the launcher, which adds
    mount points to it; boxes see it read-only.
    """
    base = foundation.base_dir
    sys.mount("era-root", base, "tmpfs", _TMPFS_FLAGS, "mode=755,size=16m")
    sys.mount(None, base, None, sys.MS_PRIVATE)
    for directory in ("/proc", "/dev", "/dev/shm", *foundation.dirs):
        os.makedirs(base + directory, mode=0o755, exist_ok=True)
    for path, content in foundation.files:
        os.makedirs(os.path.dirname(base + path), mode=0o755, exist_ok=True)
        fd = os.open(base + path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(content.encode("latin-1"))
    for path, link_target in (*foundation.links, *_DEVICE_LINKS):
        os.makedirs(os.path.dirname(base + path), mode=0o755, exist_ok=True)
        os.symlink(link_target, base + path)
    os.close(os.open(base + _EMPTY_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    os.mkdir(base + _EMPTY_DIR, 0o555)
    os.mkdir(base + _HOST_PROC, 0o555)
    if foundation.first:
        shutil.copyfile(foundation.first, base + FIRST)
        os.chmod(base + FIRST, 0o500)
    for bind in (*device_binds(), *foundation.binds):
        target = _mount_point(base, bind.target, directory=os.path.isdir(bind.source))
        _attach(_clone(bind, None), target)


def cover_host(foundation: Foundation) -> None:
    """Cover on the host's own tree what the boxes' root covers below its copy of /usr.  For a process
    in a mount namespace of its own."""
    for bind in foundation.binds:
        if bind.target.startswith("/usr/") and bind.source != bind.target:
            with suppress(OSError):  # not there on the host: nothing to cover
                _attach(_clone(bind, None), bind.target)


def _open_layer(path: str, idmap: int | None) -> int:
    if idmap is None:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = sys.clone_mount(path, recursive=False)
    try:
        sys.set_mount_flags(tree, 0, recursive=False, idmap=idmap)
    except OSError:
        os.close(tree)
        raise
    return tree


def _overlay(space: str, scratch: ScratchMount, work: str, view: View) -> int:
    """One overlay as a detached mount.  Layers are named by descriptor (`/proc/self/fd/N`), so no
    path is too long for the mount options and no character of it needs escaping."""
    place = _open_layer(space, view.idmap)  # upper and work must lie on one mount (overlayfs.rst)
    fds = [place]
    try:
        for name in (scratch.name, work):
            fds.append(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place))
        for lower in scratch.lowers:
            fds.append(_open_layer(lower, view.idmap))
        upper_name, work_name, *lower_names = (f"/proc/self/fd/{fd}" for fd in fds[1:])
        options: dict[str, str | None] = {
            "source": "era",
            "upperdir": upper_name,
            "workdir": work_name,
            "lowerdir": ":".join(lower_names),
            "volatile": None,
        }
        if view.rootless:
            options["userxattr"] = None
        else:
            options |= {"redirect_dir": "nofollow", "metacopy": "off"}
        return sys.new_mount("overlay", options, sys.MOUNT_ATTR_NOSUID | sys.MOUNT_ATTR_NODEV)
    finally:
        for fd in fds:
            os.close(fd)


def _scratch(space: str, scratch: ScratchMount, serial: int, view: View) -> int:
    if scratch.lowers:
        # A work directory serves one mount only: `volatile` marks it so (overlayfs.rst).
        work = f".work-{serial}-{scratch.name}"
        os.mkdir(f"{space}/{work}", 0o700)
        return _overlay(space, scratch, work, view)
    source = f"{space}/{scratch.name}"
    return _clone(BindMount(source=source, target=scratch.target, writable=True), view.idmap)


def detach(
    foundation: Foundation, plan: Plan, space: str, serial: int, idmap: int | None
) -> list[tuple[str, int]]:
    """What a plan adds to the base, as detached mounts: (path in the box, descriptor) in order.

    Needs the host's view.  The mount points are made in the base.  `space` is the box's scratch
    directory, `serial` numbers the runs of the box, `idmap` maps the owner of files on disk to the
    box's user.
    """
    view = View(rootless=foundation.rootless, idmap=idmap)
    made: list[tuple[str, int]] = []
    try:
        for scratch in plan.scratch:
            _mount_point(foundation.base_dir, scratch.target, directory=True)
            made.append((scratch.target, _scratch(space, scratch, serial, view)))
        for bind in plan.binds:
            directory = os.path.isdir(bind.source)
            _mount_point(foundation.base_dir, bind.target, directory=directory)
            made.append((bind.target, _clone(bind, view.idmap)))
    except OSError:
        for _target, mount in made:
            os.close(mount)
        raise
    return made


def attach(mounts: list[tuple[str, int]], root: str = "") -> None:
    """Attach what `detach` made, below `root`, in the mount namespace of the caller."""
    for index, (target, mount) in enumerate(mounts):
        try:
            _attach(mount, root + target)
        except OSError:
            for _target, rest in mounts[index + 1 :]:
                os.close(rest)
            raise


def replace(mounts: list[tuple[str, int]]) -> None:
    """As `attach`, in the root of a box that has other mounts in some of these places."""
    for target, _mount in mounts:
        if os.path.ismount(target):
            sys.umount(target)
    attach(mounts)


def _mask(path: str) -> None:
    if not os.path.lexists(path):
        return
    source = _EMPTY_DIR if os.path.isdir(path) else _EMPTY_FILE
    tree = sys.clone_mount(source, recursive=False)
    try:
        sys.set_mount_flags(tree, _RO | sys.MOUNT_ATTR_NOEXEC, recursive=False)
        sys.attach_mount(tree, path)
    finally:
        os.close(tree)


def _read_only(path: str) -> None:
    if os.path.lexists(path):
        tree = sys.clone_mount(path, recursive=True)
        try:
            sys.set_mount_flags(tree, _RO | sys.MOUNT_ATTR_NOEXEC, recursive=True)
            sys.attach_mount(tree, path)
        finally:
            os.close(tree)


def mount_proc(plan: Plan, *, rootless: bool) -> None:
    """Mount the box's /proc and cover what the plan covers of it.  In process 1: /proc shows the pid
    namespace of who mounts it."""
    sys.mount("proc", "/proc", "proc", sys.MS_NOSUID | sys.MS_NODEV | sys.MS_NOEXEC, "hidepid=2")
    if rootless:
        sys.umount(_HOST_PROC)
    for path in plan.masked:
        _mask(path)
    for path in plan.read_only:
        _read_only(path)


def enter(foundation: Foundation, plan: Plan, space: str, serial: int, idmap: int | None) -> None:
    """Give this process (the launcher, in a fresh mount namespace) the box's root, but for /proc.

    Afterwards nothing of the host is reachable by path.  Arguments as of `detach`.
    """
    base = foundation.base_dir
    sys.mount(None, "/", None, sys.MS_REC | sys.MS_PRIVATE)
    shm = f"mode=1777,size={plan.shm_bytes},nr_inodes=65536"
    sys.mount("shm", f"{base}/dev/shm", "tmpfs", _TMPFS_FLAGS, shm)
    attach(detach(foundation, plan, space, serial, idmap), base)
    if foundation.rootless:
        # A user namespace may mount /proc only where one is in sight (fs/namespace.c,
        # mount_too_revealing): the host's, until process 1 has mounted the box's own.
        _attach(sys.clone_mount("/proc", recursive=True), base + _HOST_PROC)
    root = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sys.set_mount_flags(root, _RO, recursive=False)
    os.fchdir(root)
    os.close(root)
    # pivot_root(".", "."): the old root comes to lie over the new one and is taken off again
    # (pivot_root(2), NOTES), so no directory for it is needed inside the box.
    sys.pivot_root(".", ".")
    sys.umount(".")
    os.chdir("/")
