"""RelPath: a path relative to a workspace, checked once at birth and trusted afterwards."""

from __future__ import annotations

from typing import Final

from era.errors import InputError

MAX_PATH_BYTES: Final = 1024
MAX_SEGMENT_BYTES: Final = 255
DATA_FILE: Final = ".session_data.json"
RESERVED_DIR: Final = ".era"


class RelPath(str):
    """A checked relative path: `/` separates; no empty, `.` or `..` segment; no NUL; UTF-8.

    At most 1024 bytes, 255 a segment.  It is a `str`, so it stores and compares as one.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> RelPath:
        """Check `text`.

        Raises:
            InputError: `invalid_path`.
        """
        reason = problem(text)
        if reason is not None:
            raise InputError("invalid_path", details=reason)
        return super().__new__(cls, text)

    @property
    def segments(self) -> list[str]:
        """The names between the slashes."""
        return self.split("/")

    @property
    def parents(self) -> list[RelPath]:
        """The directories above, nearest last: `a/b/c` gives `a`, `a/b`."""
        # What lies above a checked path needs no check: that would cost its length squared.
        cuts = (at for at, char in enumerate(self) if char == "/")
        return [str.__new__(RelPath, self[:at]) for at in cuts]


def under(top: str, path: RelPath) -> RelPath:
    """`path` below the directory `top` of the service's own, which counts for no limit."""
    return str.__new__(RelPath, f"{top}/{path}")


def problem(text: str) -> str | None:
    """Why `text` cannot be a workspace path, or None when it can."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        return "the path is not valid Unicode"
    if not raw or len(raw) > MAX_PATH_BYTES:
        return f"a path has 1 to {MAX_PATH_BYTES} bytes"
    if b"\0" in raw:
        return "a path holds no NUL"
    for segment in raw.split(b"/"):
        if segment in (b"", b".", b".."):
            return "no segment may be empty, '.' or '..'"
        if len(segment) > MAX_SEGMENT_BYTES:
            return f"a segment has at most {MAX_SEGMENT_BYTES} bytes"
    return None


def is_reserved(path: str) -> bool:
    """Whether `path` is a name of the service's own: the data file, or anything under `.era/`."""
    return path == DATA_FILE or path.split("/", 1)[0] == RESERVED_DIR


def user_path(text: str) -> RelPath:
    """A path that a client may write: checked, and none of the service's own names.

    Raises:
        InputError: `invalid_path` or `reserved_path`.
    """
    path = RelPath(text)
    if is_reserved(path):
        raise InputError("reserved_path")
    return path
