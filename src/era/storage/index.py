"""The promise of the index of an object store: which object each blob is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a blob is in an object store: `size` bytes from `offset` of the object `object`."""

    blob: str
    object: str
    offset: int
    size: int


class BlobIndex(Protocol):
    """Which object of an object store each blob is in.  Every method is atomic.

    An object is announced before it is uploaded and filled afterwards, so that whatever breaks off
    in between is found again without listing the store.  `now_ms` None is the index's own clock,
    one for all nodes.
    """

    async def announce(self, objects: Sequence[str], now_ms: int | None = None) -> None:
        """Objects are about to be uploaded; nobody else has their names."""

    async def fill(self, places: Sequence[Place], now_ms: int | None = None) -> None:
        """What announced objects hold; called once for each object.  A blob that is known keeps its
        place and counts as stored again.

        Raises:
            InternalError: one of the objects was abandoned meanwhile; nothing was noted.
        """

    async def places(
        self, blobs: Sequence[str], *, renew: bool = False, now_ms: int | None = None
    ) -> tuple[Place, ...]:
        """Those of `blobs` that are known; with `renew` they count as stored again."""

    async def aged(
        self, age_seconds: float, after: str, limit: int, now_ms: int | None = None
    ) -> tuple[str, ...]:
        """The next `limit` blobs behind `after`, in order, stored at least `age_seconds` ago."""

    async def drop(self, blob: str, age_seconds: float, now_ms: int | None = None) -> bool:
        """Forget a blob, unless it was stored less than `age_seconds` ago; whether it is unknown."""

    async def abandon(
        self, emptied_seconds: float, unfilled_seconds: float, now_ms: int | None = None
    ) -> tuple[str, ...]:
        """Objects that hold no blob any more, announced at least `emptied_seconds` ago, and those
        never filled, `unfilled_seconds` ago.  They never will be, and are returned until `removed`.
        """

    async def sparse(
        self, age_seconds: float, after: str, limit: int, now_ms: int | None = None
    ) -> tuple[Place, ...]:
        """What the next `limit` objects behind `after`, in order, still hold, of those announced at
        least `age_seconds` ago that have lost half of their blobs or more; by object and offset."""

    async def move(self, places: Sequence[Place], now_ms: int | None = None) -> None:
        """Blobs are now at `places` too, in announced objects; from here on they are read there.  One
        that is not known any more is left out.  What they were in counts as announced now, so
        whoever was about to read there still can.

        Raises:
            InternalError: one of the objects was abandoned meanwhile; nothing was noted.
        """

    async def removed(self, objects: Sequence[str]) -> None:
        """Abandoned objects that are no longer in the store."""
