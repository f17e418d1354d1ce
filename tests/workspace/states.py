"""Directories as plain values, to compare what is with what should be.

`state` is also run inside overlays, by another interpreter without this package: it needs the
standard library alone.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from era.models import Changes, FileKind

State = dict[str, list[Any]]
"""Path to [kind, content (latin-1) or target, mode, mtime in ns]."""


def state(top: str) -> State:
    """Everything below `top`."""
    import os
    import stat

    found: State = {}
    for above, dirs, files in os.walk(top):
        for name in dirs + files:
            path = os.path.join(above, name)
            status = os.lstat(path)
            kind, content = "special", ""
            if stat.S_ISREG(status.st_mode):
                kind = "file"
                with open(path, "rb") as file:
                    content = file.read().decode("latin-1")
            elif stat.S_ISLNK(status.st_mode):
                kind, content = "link", os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                kind = "dir"
            look = [kind, content, status.st_mode & 0o777, status.st_mtime_ns]
            found[os.path.relpath(path, top)] = look
    return found


def applied(before: State, changes: Changes, contents: dict[str, bytes]) -> State:
    """`before` with `changes` made to it, as a commit does."""
    after = dict(before)
    for removed in changes.removed:
        for path in list(after):
            if path == removed or path.startswith(removed + "/"):
                del after[path]
    for entry in changes.written:
        content = entry.target or ""
        if entry.kind is FileKind.FILE:
            assert entry.blob is not None
            content = contents[entry.blob].decode("latin-1")
            assert entry.size == len(contents[entry.blob])
        after[entry.path] = [entry.kind.value, content, entry.mode, entry.mtime_ns]
    for path in after:
        above = os.path.dirname(path)
        assert not above or after[above][0] == "dir", f"{path} is in something that is no directory"
    return after


def owners(top: str) -> set[tuple[int, int]]:
    """Every uid and gid in use at and below `top`."""
    paths = [top] + [os.path.join(top, path) for path in state(top)]
    return {(os.lstat(path).st_uid, os.lstat(path).st_gid) for path in paths}


def is_directory(path: str) -> bool:
    """Whether a directory itself stands at `path`."""
    return stat.S_ISDIR(os.lstat(path).st_mode)
