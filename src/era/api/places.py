"""How much goes on at once behind the proxy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from era.errors import BusyError

MAX_AT_ONCE: Final = 1024
MAX_OF_SESSION: Final = 128


class Places:
    """How many requests are on their way to servers in boxes and to stored code."""

    def __init__(self, limit: int = MAX_AT_ONCE, of_session: int = MAX_OF_SESSION) -> None:
        self._limit = limit
        self._of_session = of_session
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, session_id: str) -> Iterator[None]:
        """Have a place.  Raises BusyError `server_busy`."""
        if self._taken.total() >= self._limit or self._taken[session_id] >= self._of_session:
            raise BusyError("server_busy")
        self._taken[session_id] += 1
        try:
            yield
        finally:
            self._taken[session_id] -= 1
            if not self._taken[session_id]:
                del self._taken[session_id]
