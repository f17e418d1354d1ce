"""The driver of a host on which no tier works: it opens no box, and says why."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

from era.errors import UnavailableError
from era.sandbox.base import Box, BoxSpec


class RefusingDriver:
    """Keeps `Driver` as far as that goes.  `reason` in one line, `remedy` what would help."""

    tier = "none"
    unenforced: tuple[str, ...] = ()
    owner: int | None = None

    def __init__(self, reason: str, remedy: str) -> None:
        self.reason: Final = reason
        self.remedy: Final = remedy

    async def start(self) -> None:
        """Nothing has to be made ready."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """Raises UnavailableError `isolation_unavailable`, with the remedy."""
        raise UnavailableError(message=self.reason, hint=self.remedy)
