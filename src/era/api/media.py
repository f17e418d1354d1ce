"""Content types of session files, independent of the host's own tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

DEFAULT: Final = "application/octet-stream"

_BY_SUFFIX: Final[Mapping[str, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "txt": "text/plain",
    "log": "text/plain",
    "md": "text/markdown",
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "ts": "application/typescript",
    "py": "text/x-python",
    "go": "text/x-go",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "pdf": "application/pdf",
    "zip": "application/zip",
    "gz": "application/gzip",
    "parquet": "application/vnd.apache.parquet",
}

_TOKEN: Final = r"[A-Za-z0-9!#$&^_.+-]{1,64}"  # noqa: S105 - a grammar, not a secret
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}(?:\s*;[\x20-\x7e]{{0,128}})?")
_SAYS_NOTHING: Final = (DEFAULT, "application/x-www-form-urlencoded", "multipart/")
"""What clients send when nobody chose a type."""


def chosen(content_type: str | None) -> str | None:
    """The type given with an upload, None when it says nothing about the file."""
    if content_type is None or not _MEDIA_TYPE.fullmatch(content_type):
        return None
    return None if content_type.lower().startswith(_SAYS_NOTHING) else content_type


def of_file(path: str, stored: str | None) -> str:
    """The `Content-Type` of a download: the stored one, else by the name's last suffix."""
    if stored is not None:
        return stored
    name = path.rsplit("/", 1)[-1]
    by_suffix = _BY_SUFFIX.get(name.rpartition(".")[2].lower(), DEFAULT) if "." in name else DEFAULT
    return f"{by_suffix}; charset=utf-8" if by_suffix.startswith("text/") else by_suffix


def attachment(path: str) -> str:
    """A `Content-Disposition` that saves the file under its own name, whatever it is."""
    name = path.rsplit("/", 1)[-1]
    plain = re.sub(r'[^\x20-\x7e]|["\\]', "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
