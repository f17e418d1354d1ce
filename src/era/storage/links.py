"""Following a link inside a workspace by its manifest alone, without touching a file system."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from typing import Final

from era.ids import is_vm_key
from era.layout import WORKSPACE
from era.models import FileEntry, FileKind

MAX_HOPS: Final = 40
"""Links followed for one entry, as in Linux (path_resolution(7)); loops end here."""
MAX_LOOKUPS: Final = 256
"""Paths asked for one entry: bounds what a maze of deep links can cost a reader."""

Walk = Generator[str, FileEntry | None, FileEntry | None]
"""Yields a path, is sent the entry stored there (None: no such entry), returns where it ended."""


def root_of(session_id: str) -> str:
    """Where in a box the manifest of that session, or VM, begins."""
    return "/" if is_vm_key(session_id) else WORKSPACE


def destination(path: str, target: str, root: str = WORKSPACE) -> str | None:
    """Where the link at `path` points, as a path below `root`; None: outside, or `root` itself.

    `..` is taken lexically.  An absolute target counts when it lies below `root` in the box.
    """
    whole = posixpath.normpath(posixpath.join(root, posixpath.dirname(path), target))
    top = root.rstrip("/") + "/"
    return whole[len(top) :] or None if whole.startswith(top) else None


def walk(link: FileEntry, root: str = WORKSPACE) -> Walk:
    """The steps to the file that `link` leads to; returns None when it leads nowhere, to a
    directory, or out of `root`.  Sans I/O: the caller looks paths up as it likes."""
    entry, lookups = link, 0
    for _ in range(MAX_HOPS):
        wanted = destination(entry.path, entry.target or "", root)
        if wanted is None:
            return None
        # An entry stored at the whole path has real directories above it, so one look suffices
        # unless a link stands in the middle.
        found = yield wanted
        lookups += 1
        if found is None:
            for directory in above(wanted):
                if (lookups := lookups + 1) > MAX_LOOKUPS:
                    return None
                middle = yield directory
                if middle is not None and middle.kind is not FileKind.DIR:
                    break
            else:
                return None
            if middle.kind is not FileKind.LINK:
                return None
            rest = wanted[len(directory) + 1 :]
            entry = _moved(middle, f"{middle.target}/{rest}")
        elif found.kind is FileKind.FILE:
            return found
        elif found.kind is FileKind.DIR:
            return None
        else:
            entry = found
    return None


def follow(link: FileEntry, entries: Mapping[str, FileEntry]) -> FileEntry | None:
    """The file that `link` leads to in a whole tree given by path."""
    steps = walk(link)
    try:
        path = next(steps)
        while True:
            path = steps.send(entries.get(path))
    except StopIteration as end:
        result: FileEntry | None = end.value
        return result


def above(path: str) -> Iterator[str]:
    """The directories above `path`, topmost first: `a/b/c` gives `a`, `a/b`."""
    at = path.find("/")
    while at > 0:
        yield path[:at]
        at = path.find("/", at + 1)


def nearest_above(path: str, known: Collection[str]) -> Iterator[str]:
    """The directories above `path`, nearest first, up to the first that is `known`.

    Whoever notes in `known` what comes out sees each directory once, however many paths lie deep
    below it.
    """
    at = path.rfind("/")
    while at > 0 and (directory := path[:at]) not in known:
        yield directory
        at = path.rfind("/", 0, at)


def all_above(paths: Iterable[str]) -> set[str]:
    """The directories above any of `paths`."""
    found: set[str] = set()
    for path in paths:
        for directory in nearest_above(path, found):
            found.add(directory)
    return found


def _moved(link: FileEntry, target: str) -> FileEntry:
    return FileEntry(path=link.path, kind=FileKind.LINK, target=target)
