"""Scratch space of boxes: bounded by the kernel, removed without trace.

Two kinds.  In memory: a tmpfs a box, its pages part of the box's memory.  On disk (root only): a
small ext4 file system without journal in a sparse image, mounted once and used by one box after the
other; its size is the box's disk limit, so a full disk is an honest ENOSPC, and files deleted soon
never reach the disk.  Launcher process, with its capabilities, in its mount namespace: the mounts
and the loop devices (autoclear) end with it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress

from era.sandbox.namespaces.child import syscalls as sys

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
_FITRIM = 0xC0185879
_TRIM_ABOVE_BYTES = 64 << 20
"""Give blocks back to the host after a box that used more than this; less is cheaper to keep."""
_STALE_INODES = 256
"""Without a journal ext4 does not give a file the inode of one deleted in the last minute, and looks
at each such inode on the way (fs/ext4/ialloc.c, recently_deleted): thousands of them make every new
file slow.  Mounted anew it has forgotten them (about 5 ms), so no box pays for the one before."""
_QUICK_INODES = 128
_QUICK_BYTES = 4 << 20
"""Less than this is removed in a fraction of the time that a process takes to start."""
_KEEP = 32
"""Empty spaces kept ready for each size."""
_BYTES_PER_INODE = 16384
_MKE2FS = ("/sbin/mke2fs", "/usr/sbin/mke2fs")
_MOUNT_FLAGS = sys.MS_NOSUID | sys.MS_NODEV | sys.MS_NOATIME


def _unnamed_image(directory: str, name: str, size: int) -> int:
    """A sparse file of `size` bytes without a name, so that no crash can leave it behind."""
    path = f"{directory}/{name}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    os.truncate(fd, size)
    return fd


def _mke2fs(image: int) -> None:
    """Make an empty file system in the open file `image` (takes about 30 ms)."""
    program = next(path for path in _MKE2FS if os.path.exists(path))
    argv = [program, "-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"]
    argv += ["-i", str(_BYTES_PER_INODE), "-O", "^has_journal,^resize_inode"]
    argv += ["-E", "lazy_itable_init=1,nodiscard", "/proc/self/fd/3"]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    given = [(os.POSIX_SPAWN_DUP2, image, 3)]
    pid = os.posix_spawn(program, argv, environment, file_actions=given)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(5, f"mke2fs ended with status {status}")


def _attach_loop(image: int) -> tuple[str, int]:
    """A loop device for the open file `image`: its path and an open descriptor; it goes when nobody
    uses it."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _attempt in range(16):  # another program may take the free device first
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            flags = _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO
            # struct loop_config: fd, block size, then struct loop_info64 with lo_flags at 52
            info = struct.pack("=QQQQQIIIII", 0, 0, 0, 0, 0, 0, 0, 0, flags, 0).ljust(232, b"\0")
            config = struct.pack("=II", image, 4096) + info + bytes(64)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
                return path, device
            except OSError:
                os.close(device)
        raise OSError(16, "no loop device is free")
    finally:
        os.close(control)


def _remove_content(root: str) -> None:
    """Delete everything below `root`, whatever a program left there.

    By descriptor, never following a link, and without recursion: directories are moved up beside
    `root`'s own entries one level at a time, so depth costs neither stack nor descriptors.
    """
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    serial = 0
    try:
        while True:
            names = os.listdir(top)
            if not names:
                return
            for name in names:
                serial = _remove_one(top, name, serial)
    finally:
        os.close(top)


def _remove_one(top: int, name: str, serial: int) -> int:
    mode = os.lstat(name, dir_fd=top).st_mode
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=top)
        return serial
    directory = os.open(
        name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top
    )
    try:
        for child in os.listdir(directory):
            if stat.S_ISDIR(os.lstat(child, dir_fd=directory).st_mode):
                os.rename(child, f".removed-{serial}", src_dir_fd=directory, dst_dir_fd=top)
                serial += 1
            else:
                os.unlink(child, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=top)
    return serial


def _mount_memory(mount_point: str, size: int) -> None:
    inodes = max(1024, size // _BYTES_PER_INODE)
    options = f"size={size},nr_inodes={inodes},mode=755"
    os.mkdir(mount_point, 0o700)
    try:
        sys.mount("era-scratch", mount_point, "tmpfs", sys.MS_NOSUID | sys.MS_NODEV, options)
    except OSError:
        os.rmdir(mount_point)
        raise


class Slot:
    """A mounted scratch file system on disk.  `stale` counts the inodes deleted since the mount."""

    def __init__(self, mount_point: str, device: str) -> None:
        self.mount_point = mount_point
        self.device = device
        self.stale = 0

    def mount(self) -> None:
        """Mount it where it belongs."""
        sys.mount(self.device, self.mount_point, "ext4", _MOUNT_FLAGS, "nobarrier")

    def mount_anew(self) -> None:
        """Unmount and mount again, so that nothing of what was cached remains."""
        held = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)  # or it would go with the mount
        try:
            sys.umount(self.mount_point, 0)
            self.mount()
        finally:
            os.close(held)


class Space:
    """Scratch of one box: `path` holds one directory for each name used; `slot` None: in memory."""

    def __init__(self, path: str, mount_point: str, size: int, slot: Slot | None) -> None:
        self.path = path
        self.mount_point = mount_point
        self.size = size
        self.slot = slot


class Scratch:
    """Hands out and takes back scratch spaces; `images` None means in memory."""

    def __init__(self, root: str, images: str | None, uid: int, gid: int) -> None:
        self._root = root
        self._images = images
        self._owner = (uid, gid)
        self._free: dict[int, list[Slot]] = {}
        self._serial = 0

    def open(self, size: int) -> Space:
        """A new empty space of `size` bytes."""
        self._serial += 1
        slot = None
        if self._images is None:
            mount_point = f"{self._root}/{self._serial}"
            _mount_memory(mount_point, size)
        else:
            slot = self._slot(size)
            mount_point = slot.mount_point
        space = Space(f"{mount_point}/box-{self._serial}", mount_point, size, slot)
        try:
            os.mkdir(space.path, 0o755)
        except OSError:
            self.recycle(space, clean=slot is not None)
            raise
        return space

    def _slot(self, size: int) -> Slot:
        free = self._free.setdefault(size, [])
        if free:
            return free.pop()
        assert self._images is not None
        mount_point = f"{self._root}/{self._serial}"
        image = _unnamed_image(self._images, f"{self._serial}.img", size)
        try:
            _mke2fs(image)
            device_path, device = _attach_loop(image)
        finally:
            os.close(image)  # the loop device keeps it; with the device the bytes go
        slot = Slot(mount_point, device_path)
        os.mkdir(mount_point, 0o700)
        try:
            slot.mount()
        except OSError:
            os.rmdir(mount_point)
            raise
        finally:
            os.close(device)
        return slot

    def add(self, space: Space, name: str, mode: int) -> str:
        """Make the directory `name` in `space`, owned by the box's user; its path."""
        path = f"{space.path}/{name}"
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
            os.chown(path, *self._owner)
            os.chmod(path, mode)
        return path

    def retire(self, space: Space) -> bool:
        """The box is done with `space`: to be called before `clean`, in the launcher itself.  Whether
        cleaning it will be so quick that the launcher may do it itself."""
        used = os.statvfs(space.mount_point)
        inodes = used.f_files - used.f_ffree
        if space.slot is not None:
            space.slot.stale += inodes
            if space.slot.stale > _STALE_INODES:
                return False
        used_bytes = (used.f_blocks - used.f_bfree) * used.f_frsize
        return inodes < _QUICK_INODES and used_bytes < _QUICK_BYTES

    def clean(self, space: Space) -> None:
        """Empty `space`.  Runs in a process of its own: a box may have left a million files."""
        if space.slot is None:
            sys.umount(space.mount_point)
            return
        used = os.statvfs(space.mount_point)
        _remove_content(space.path)
        os.rmdir(space.path)
        if (used.f_blocks - used.f_bfree) * used.f_frsize > _TRIM_ABOVE_BYTES:
            fd = os.open(space.mount_point, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # a backing file system without holes keeps the blocks
                fcntl.ioctl(fd, _FITRIM, struct.pack("=QQQ", 0, 2**64 - 1, 0))
            os.close(fd)
        if space.slot.stale > _STALE_INODES:
            space.slot.mount_anew()

    def recycle(self, space: Space, *, clean: bool) -> None:
        """After `clean`: keep the space for another box, or let go of it when cleaning failed."""
        if space.slot is not None:
            free = self._free[space.size]
            if clean and len(free) < _KEEP:
                if space.slot.stale > _STALE_INODES:
                    space.slot.stale = 0
                free.append(space.slot)
                return
        if space.slot is not None or not clean:
            sys.umount(space.mount_point)
        os.rmdir(space.mount_point)
