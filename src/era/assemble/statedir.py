"""The state directory: everything the server keeps, for one server at a time.

lock        held while a server runs
era.db      records
secret.key  key for secrets at rest
node.id     the server's name among those on the same database
blobs/      bytes of files and layers, by hash
cache/      those of an object store that were used lately, instead of blobs/
trees/      sessions' files as directories, a cache
layers/     setup layers as directories, a cache
deno/       modules that deno programs import, a cache
kept-vms/   workspaces of deleted VMs that were to be kept; the service never looks at them
programs/   compiled programs of sessions, a cache
runtime/    small files that boxes see
native/     the helper in C, compiled here
boxes/      mount points and scratch of boxes; nothing in it outlives the server
"""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass
from typing import Final

from era.errors import UnavailableError

_DIRS: Final = (
    "blobs",
    "trees",
    "layers",
    "deno",
    "go",
    "npm",
    "programs",
    "runtime",
    "native",
    "boxes",
    "kept-vms",
)
_BOXES: Final = ("base", "scratch", "images")


class StartError(UnavailableError):
    """Why the server cannot start: `text` in one line, `hint` what would help.

    `in_use`: because another server is at work in the same state directory.
    """

    default_code = "internal"

    def __init__(self, text: str, hint: str, *, in_use: bool = False) -> None:
        super().__init__("internal", text, hint=hint)
        self.in_use: Final = in_use


@dataclass(slots=True, kw_only=True)
class StateDir:
    """An open state directory; `close` lets another server have it."""

    path: str
    _lock_fd: int

    @classmethod
    def open(cls, path: str) -> StateDir:
        """Take the directory, making it when missing (mode 0700).

        Raises:
            StartError: it cannot be written, or another server has it.
        """
        path = os.path.abspath(path)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            lock_fd = os.open(
                os.path.join(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = cls(path=path, _lock_fd=lock_fd)
            state._prepare()
        except BlockingIOError:
            os.close(lock_fd)
            raise StartError(
                f"the state directory {path} is in use by another server",
                "Stop that server, or choose another --state-dir or AGENT_STATE_DIR.",
                in_use=True,
            ) from None
        except OSError as error:
            os.close(lock_fd)
            raise unwritable(path, error) from None
        return state

    @classmethod
    def in_use(cls, path: str) -> bool:
        """Whether a server has the directory now.  Nothing is left of the look.

        Raises:
            StartError: no server could use it, or make it.
        """
        path = os.path.abspath(path)
        try:
            lock_fd = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            _check_writable(path)
            return False
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock_fd)
        _check_writable(path)
        return False

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def of(self, name: str) -> str:
        """The path of one entry."""
        return os.path.join(self.path, name)

    def _prepare(self) -> None:
        """Make what is missing, and remove what a killed server's boxes left."""
        for name in (*_DIRS, *(f"boxes/{name}" for name in _BOXES)):
            os.makedirs(self.of(name), mode=0o700, exist_ok=True)
        images = self.of("boxes/images")
        for name in os.listdir(images):
            os.unlink(os.path.join(images, name))


def _check_writable(path: str) -> None:
    """Whether a directory can be written, or made if it is not there.

    Raises:
        StartError: it cannot.
    """
    missing = path
    while not os.path.lexists(os.path.dirname(missing)):
        missing = os.path.dirname(missing)
    try:
        if not os.path.lexists(path):  # only trying tells, in /proc or on a read-only disk
            os.mkdir(missing, 0o700)
            os.rmdir(missing)
        elif not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        elif not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: str, error: OSError) -> StartError:
    """The refusal of a directory that cannot be written."""
    reason = (error.strerror or str(error)).lower()
    return StartError(
        f"the state directory {path} cannot be used: {reason}",
        "Mend its rights, or choose another --state-dir or AGENT_STATE_DIR.",
    )
