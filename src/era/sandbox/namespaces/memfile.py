"""Memory files: content handed to a box by descriptor, filled once, then nobody can change it."""

from __future__ import annotations

import fcntl
import os


class MemoryFile:
    """A memory file that is filled later; `reader` is open for reading, at offset 0."""

    def __init__(self, name: str) -> None:
        self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(self._fd, 0o444)
        self.reader = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def fill(self, data: bytes) -> None:
        """Write `data` and seal the file."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
        self._close_writer()

    def _close_writer(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def release_reader(self) -> None:
        """Close our reader: the box has its own."""
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def close(self) -> None:
        """Let go of everything."""
        self._close_writer()
        self.release_reader()


def sealed(name: str, data: bytes) -> int:
    """A descriptor of a filled and sealed memory file, open for reading."""
    file = MemoryFile(name)
    file.fill(data)
    return file.reader
