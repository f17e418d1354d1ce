"""Copy-on-write without mounts: lowers are copied into a view, and what differs afterwards is
written down in the form of an overlay's upper directory (a deletion is a character device 0:0)."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from typing import Any


def copy_tree(source: str, target: str) -> None:
    """Lay `source` over `target`, as a higher layer lies over a lower one.  Deletions and special
    files of an upper directory are in the view already."""
    for name in os.listdir(source):
        here, there = os.path.join(source, name), os.path.join(target, name)
        info = os.lstat(here)
        if stat.S_ISDIR(info.st_mode):
            if os.path.lexists(there) and not stat.S_ISDIR(os.lstat(there).st_mode):
                os.unlink(there)
            os.makedirs(there, exist_ok=True)
            copy_tree(here, there)
            os.chmod(there, stat.S_IMODE(info.st_mode))
            os.utime(there, ns=(info.st_atime_ns, info.st_mtime_ns))
        elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            remove(there)
            shutil.copy2(here, there, follow_symlinks=False)


def remove(path: str) -> None:
    """Remove a file or a directory with all that is in it, if it is there."""
    if not os.path.lexists(path):
        return
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def open_up(root: str) -> None:
    """Let the owner, who is the service too, read everything: a program may have taken that away."""
    for name in os.listdir(root):
        path = os.path.join(root, name)
        mode = os.lstat(path).st_mode
        needed = 0o700 if stat.S_ISDIR(mode) else 0o400
        if not stat.S_ISLNK(mode) and mode & needed != needed:
            os.chmod(path, stat.S_IMODE(mode) | needed)
        if stat.S_ISDIR(mode):
            open_up(path)


def _signature(path: str) -> tuple[Any, ...]:
    """What makes an entry what it is; two equal ones need no copy in an upper directory."""
    info = os.lstat(path)
    if stat.S_ISLNK(info.st_mode):
        return ("link", os.readlink(path))
    if not stat.S_ISREG(info.st_mode):
        return (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    return ("file", stat.S_IMODE(info.st_mode), info.st_mtime_ns, digest)


def _entries(root: str) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for at, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(at, name)
            found[os.path.relpath(path, root)] = _signature(path)
    return found


def write_changes(base: str, view: str, upper: str) -> None:
    """Make `upper` what an overlay's upper would be, for a view that began as `base`."""
    open_up(view)
    for name in os.listdir(upper):
        remove(os.path.join(upper, name))
    before, after = _entries(base), _entries(view)
    for path in sorted(before.keys() - after.keys()):
        parent = os.path.dirname(path)
        if parent and not (parent in after and os.path.isdir(os.path.join(view, parent))):
            continue  # it went with its directory
        _make_parents(view, upper, path)
        os.mknod(os.path.join(upper, path), stat.S_IFCHR, os.makedev(0, 0))
    for path in sorted(p for p, signature in after.items() if before.get(p) != signature):
        source, target = os.path.join(view, path), os.path.join(upper, path)
        _make_parents(view, upper, path)
        _copy_entry(source, target)
    _copy_times(view, upper)


def _make_parents(view: str, upper: str, path: str) -> None:
    done = ""
    for name in os.path.dirname(path).split("/") if "/" in path else ():
        done = os.path.join(done, name)
        target = os.path.join(upper, done)
        if not os.path.isdir(target):
            os.mkdir(target)
            shutil.copymode(os.path.join(view, done), target)


def _copy_entry(source: str, target: str) -> None:
    info = os.lstat(source)
    if stat.S_ISDIR(info.st_mode):
        os.makedirs(target, exist_ok=True)
        shutil.copystat(source, target)
    elif stat.S_ISFIFO(info.st_mode) or stat.S_ISSOCK(info.st_mode):
        os.mkfifo(target)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _copy_times(view: str, upper: str) -> None:
    """Directories get their own times last: filling them has changed these."""
    for at, dirs, _ in os.walk(upper, topdown=False):
        for name in dirs:
            path = os.path.join(at, name)
            if not os.path.islink(path):
                shutil.copystat(os.path.join(view, os.path.relpath(path, upper)), path)
