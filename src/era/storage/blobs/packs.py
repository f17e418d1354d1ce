"""How blobs are laid into objects: small ones together, a large one alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from era.storage.base import Blob
from era.storage.index import Place

ALONE_BYTES: Final = 1 << 20
"""From here on a blob has an object of its own."""
PACK_BYTES: Final = 8 << 20
"""Of one pack: it is put together in memory."""
GAP_BYTES: Final = 64 << 10
"""Blobs of one object are fetched together when no more than this lies between them: a request
costs more than that many bytes."""


@dataclass(frozen=True, slots=True)
class Pack:
    """The blobs of one object, in order."""

    object: str
    blobs: tuple[Blob, ...]

    def places(self) -> Iterator[Place]:
        """Where each of them will be."""
        offset = 0
        for blob in self.blobs:
            yield Place(blob=blob.hash, object=self.object, offset=offset, size=blob.size)
            offset += blob.size


def packed(blobs: Iterable[Blob], new_name: Callable[[], str]) -> list[Pack]:
    """The objects for `blobs`."""
    packs: list[Pack] = []
    waiting: list[Blob] = []
    size = 0
    for blob in blobs:
        if blob.size >= ALONE_BYTES:
            packs.append(Pack(new_name(), (blob,)))
            continue
        if size + blob.size > PACK_BYTES:
            packs.append(Pack(new_name(), tuple(waiting)))
            waiting, size = [], 0
        waiting.append(blob)
        size += blob.size
    if waiting:
        packs.append(Pack(new_name(), tuple(waiting)))
    return packs


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one object that holds the blobs at `places`."""

    places: tuple[Place, ...]

    @property
    def object(self) -> str:
        """The object."""
        return self.places[0].object

    @property
    def start(self) -> int:
        """Where it begins."""
        return self.places[0].offset

    @property
    def end(self) -> int:
        """Where it ends."""
        return max(place.offset + place.size for place in self.places)


def spans(places: Sequence[Place]) -> list[Span]:
    """The pieces to fetch for `places`: neighbours together, no piece of several blobs longer than a
    pack."""
    found: list[Span] = []
    group: list[Place] = []
    for place in sorted(places, key=lambda place: (place.object, place.offset)):
        if group and not _joins(Span(tuple(group)), place):
            found.append(Span(tuple(group)))
            group = []
        group.append(place)
    if group:
        found.append(Span(tuple(group)))
    return found


def _joins(span: Span, place: Place) -> bool:
    return (
        place.object == span.object
        and place.offset - span.end <= GAP_BYTES
        and place.offset + place.size - span.start <= PACK_BYTES
    )
