"""Bounded pumps for a program's output: keep the first bytes, drop the rest, never block the program."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

_CHUNK = 65536


def cut_at_character(data: bytes) -> bytes:
    """`data` without a UTF-8 character that was cut at its end; other bytes stay as they are."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue  # a continuation byte: its lead is further left
        length = 1 if byte < 0x80 else 2 if byte >> 5 == 6 else 3 if byte >> 4 == 14 else 4
        return data[:-back] if byte >= 0xC0 and length > back else data
    return data


def cut_before_character(data: bytes) -> bytes:
    """`data` without the rest of a UTF-8 character that was cut at its beginning."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:]


class Pump:
    """Reads the pipe `fd` (owned from now on) to its end within the running event loop.

    `kept` holds at most `cap` bytes, the first ones or with `tail` the last; `on_data` sees each
    kept piece as it comes (with `tail`, every piece).
    """

    def __init__(
        self,
        fd: int,
        cap: int,
        on_data: Callable[[bytes], None] | None = None,
        *,
        tail: bool = False,
    ) -> None:
        self._fd = fd
        self._cap = cap
        self._tail = tail
        self._on_data = on_data
        self._kept = bytearray()
        self.truncated = False
        self._loop = asyncio.get_running_loop()
        self.finished: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._readable)

    @property
    def kept(self) -> bytes:
        """What was kept, cut at a character boundary when there was more."""
        data = bytes(self._kept)
        if not self.truncated:
            return data
        return cut_before_character(data) if self._tail else cut_at_character(data)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        data = self._keep(data)
        if data and self._on_data is not None:
            self._on_data(data)

    def _keep(self, data: bytes) -> bytes:
        """Add `data` within the bound; the part that a sink sees."""
        room = self._cap - len(self._kept)
        if len(data) <= room:
            self._kept += data
            return data
        self.truncated = True
        if self._tail:
            self._kept += data
            del self._kept[: len(self._kept) - self._cap]
            return data
        data = data[:room]
        self._kept += data
        return data

    def close(self) -> None:
        """Stop reading; what was kept stays."""
        if self.finished.done():
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self.finished.set_result(None)
