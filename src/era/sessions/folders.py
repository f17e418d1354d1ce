"""Directories of the service's own whose entries are caches: half-made ones are never seen."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from era.ids import new_token
from era.workspace import beneath

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_UNFINISHED: Final = ".tmp-"
BOOT: Final = "boot-"
"""How the name of the entry begins that tells which start of the machine the others are from."""


def unfinished(name: str) -> str:
    """A new name for an entry that is being made or removed; `clean` knows it."""
    return f"{name}{_UNFINISHED}{new_token()}"


def clean(root: str) -> None:
    """Remove what a killed server left; after a reboot of the machine, everything, since the entries
    are never flushed to the disk."""
    with open(_BOOT_ID, encoding="ascii") as file:
        boot = f"{BOOT}{file.read().strip()}"
    names = os.listdir(root)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            if boot not in names or _UNFINISHED in name:
                beneath.remove_tree(fd, name)
        os.close(os.open(boot, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=fd))
    finally:
        os.close(fd)


def remove(root: str, name: str) -> None:
    """Remove an entry, which from the first moment on nobody can find."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        gone = unfinished(name)
        with suppress(FileNotFoundError):
            os.rename(name, gone, src_dir_fd=fd, dst_dir_fd=fd)
            beneath.remove_tree(fd, gone)
    finally:
        os.close(fd)


def move_out(directory: str, name: str, root: str) -> str | None:
    """Move an entry of `directory` into `root`, under a name that `clean` knows, to be removed later;
    that name, or None when there is no such entry."""
    gone = unfinished(name)
    try:
        os.rename(os.path.join(directory, name), os.path.join(root, gone))
    except FileNotFoundError:
        return None
    return gone
