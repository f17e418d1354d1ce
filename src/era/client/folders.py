"""Which files of a local directory are uploaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from era.client.worlds import Local

SKIPPED: Final = (
    "node_modules .git .venv venv __pycache__ dist build .next .cache coverage .DS_Store *.pyc *.pyo "
    ".env .env.local .env.production .env.development "
    "secrets.json secrets.yaml secrets.yml credentials.json"
).split()
"""Names of files and directories below the one given that are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file of a directory: its path in the session, and its size or why it is not there."""

    path: str
    size: int = 0
    error: Exception | None = None


def found(local: Local) -> list[str]:
    """The files below a directory that are uploaded, as paths relative to it, in order.

    Links to files are files; links to directories are not followed.

    Raises:
        NotADirectoryError: it is none.
    """
    if not os.path.isdir(local):
        raise NotADirectoryError(20, "Not a directory", os.fspath(local))
    return sorted(_below(os.fspath(local), ""))


def _below(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if any(fnmatchcase(entry.name, pattern) for pattern in SKIPPED):
                continue
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, f"{path}/")
            elif _is_file(entry):
                yield path


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link that leads nowhere
        return False
