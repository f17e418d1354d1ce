"""Laying out a workspace before the program starts: the data file, the entry file, extra files."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

from era import jsontext
from era.errors import InputError
from era.models import JsonText
from era.workspace import beneath
from era.workspace.failures import translated

MAX_PRETTY_BYTES: Final = 4 << 20
"""Indentation can make deeply nested data some hundred times longer; beyond this it stays compact."""

_IN_THE_WAY: Final = (errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.EISDIR)


def data_text(data: JsonText) -> bytes:
    """The content of the data file: `data` over several lines, two spaces for each level.

    Numbers keep every digit, and lone surrogates stay escapes.
    """
    text = data.encode()
    if _pretty_bound(data) <= MAX_PRETTY_BYTES:
        text = jsontext.pretty(jsontext.loads(data)).encode()
    return text


def _pretty_bound(data: JsonText) -> int:
    """At least the length of the pretty form: each value begins a line, and so may each bracket."""
    lines = data.count(",") + 2 * (data.count("[") + data.count("{")) + 1
    return len(data.encode()) + lines * (2 * jsontext.depth(data) + 2)


def place(dir_fd: int, files: Mapping[str, bytes], *, owner: int | None, mode: int = 0o644) -> None:
    """Create `files` (checked relative path to content) below an open directory, parents included.

    Nothing that is there already is replaced or written through.

    Raises:
        InputError: `invalid_path`, when one of the files is where another needs a directory.
        UnavailableError: `storage_full`.
    """
    with translated():
        for path in sorted(files):
            _place_one(dir_fd, path, files[path], owner, mode)


def _place_one(dir_fd: int, path: str, content: bytes, owner: int | None, mode: int) -> None:
    above, _, name = path.rpartition("/")
    try:
        parent = beneath.make_dirs(dir_fd, above or ".", owner=owner)
        try:
            beneath.write_file(parent, name, content, owner=owner, mode=mode)
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise InputError(
                "invalid_path", details=f"{path} is in the way of another file"
            ) from None
        raise
