"""`Blobs` in an object store: S3 and what speaks like it, Google's, Azure's.

What comes in goes into the node's cache first, where it gets its hash; what the index does not know
yet is uploaded from there, small blobs together in one object, and only then noted in the index.
Objects have names of chance and are never changed.  Reading takes what the cache has and fetches
the rest by ranges, so the memory used does not depend on the size of anything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from era.errors import EraError, InternalError, NotFoundError, UnavailableError, file_not_found
from era.ids import new_token
from era.storage.base import Blob, Export
from era.storage.blobs.cache import Cache
from era.storage.blobs.packs import ALONE_BYTES, Pack, Span, packed, spans
from era.storage.index import BlobIndex, Place
from era.waiting import together

if TYPE_CHECKING:
    from obstore.store import ObjectStore

UPLOADS: Final = 4
"""Objects on their way at once."""
PART_BYTES: Final = 8 << 20
"""Of a large object: each part is a request, and a few of them are in memory."""
READ_BYTES: Final = 4 << 20
"""Fetched at a time."""
CHUNK: Final = 1 << 20
UNFILLED_SECONDS: Final = 86400.0
"""An upload that takes longer than this is taken for broken off."""
_BATCH: Final = 500
_TOGETHER: Final = 8
"""Objects whose rests are laid together."""
_FULL: Final = re.compile(r"507 Insufficient|StorageFull|QuotaExceeded|InsufficientCapacity")
"""What stores answer that have no room left."""
_RETRY: Final = {
    "max_retries": 5,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}


def open_store(url: str) -> ObjectStore:
    """The place that `url` names; the rest is in the environment, as the store's own tools read it.

    Raises:
        InternalError: the URL or the environment cannot be used.
    """
    try:
        return from_url(url, retry_config=_RETRY)  # type: ignore[call-overload,no-any-return]
    except (BaseError, ValueError) as error:
        raise InternalError(
            text=f"the object store cannot be opened ({type(error).__name__})"
        ) from error


class ObjectBlobs:
    """Keeps `era.storage.base.Blobs` in `store`, with `index` knowing what is where.

    `cache_dir` is made when missing and is this keeper's alone.  `clock`, in seconds, measures the
    age of blobs; without one it is the index's own.

    Raises:
        InternalError: the directory cannot be used.
    """

    def __init__(
        self,
        store: ObjectStore,
        index: BlobIndex,
        cache_dir: str,
        *,
        cache_bytes: int,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._store: Final = store
        self._index: Final = index
        self._cache: Final = Cache(cache_dir, cache_bytes)
        self._clock: Final = clock
        self._uploads: Final = asyncio.Semaphore(UPLOADS)

    async def close(self) -> None:
        """See `Blobs.close`."""
        await self._cache.close()

    def _now_ms(self) -> int | None:
        return None if self._clock is None else int(self._clock() * 1000)

    # -- storing --

    async def put(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        """See `Blobs.put`."""
        with ExitStack() as pins:
            with self._cache.writing():
                blob = await self._cache.put(chunks, limit=limit)
                pins.enter_context(self._cache.pinned((blob.hash,)))
            await self._publish((blob,))
        await self._cache.trim(blob.size)
        return blob

    async def put_fds(self, fds: Iterable[int]) -> tuple[Blob, ...]:
        """See `Blobs.put_fds`."""
        with ExitStack() as pins:
            with self._cache.writing():
                blobs = await self._cache.put_fds(fds)
                unique = tuple(dict.fromkeys(blobs))
                pins.enter_context(self._cache.pinned(blob.hash for blob in unique))
            await self._publish(unique)
        await self._cache.trim(sum(blob.size for blob in unique))
        return blobs

    async def _publish(self, blobs: Sequence[Blob]) -> None:
        """Upload what is not known yet, and note it.  All of it is in the cache and pinned."""
        names = [blob.hash for blob in blobs]
        found = await self._index.places(names, renew=True, now_ms=self._now_ms())
        known = {place.blob for place in found}
        packs = packed((blob for blob in blobs if blob.hash not in known), _object_name)
        if not packs:
            return
        await self._index.announce([pack.object for pack in packs], self._now_ms())
        await together(*(self._upload(pack) for pack in packs))
        places = [place for pack in packs for place in pack.places()]
        await self._index.fill(places, self._now_ms())

    async def _upload(self, pack: Pack) -> None:
        async with self._uploads:
            with _translating():
                if len(pack.blobs) == 1 and pack.blobs[0].size >= ALONE_BYTES:
                    await self._upload_alone(pack.object, pack.blobs[0])
                else:
                    pieces = [await self._read_cached(blob) for blob in pack.blobs]
                    await obstore.put_async(
                        self._store, pack.object, b"".join(pieces), use_multipart=False
                    )

    async def _upload_alone(self, name: str, blob: Blob) -> None:
        await obstore.put_async(
            self._store,
            name,
            self._cache.open(blob.hash),
            use_multipart=blob.size > PART_BYTES,
            chunk_size=PART_BYTES,
            max_concurrency=UPLOADS,
        )

    async def _read_cached(self, blob: Blob) -> bytes:
        return b"".join([chunk async for chunk in self._cache.open(blob.hash)])

    # -- reading --

    async def open(
        self, blob: str, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """See `Blobs.open`."""
        if await self._cache.exists(blob):
            with suppress(NotFoundError):
                async with aclosing(self._cache.open(blob, start, end)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
        place = await self._place(blob)
        end = place.size if end is None else min(end, place.size)
        while start < end:
            stop = min(start + READ_BYTES, end)
            data = await self._range(place.object, place.offset + start, place.offset + stop)
            for at in range(0, len(data), CHUNK):
                yield bytes(data[at : at + CHUNK])
            start = stop

    async def _place(self, blob: str) -> Place:
        found = await self._index.places((blob,)) if blob.isascii() and blob.isalnum() else ()
        if not found:
            raise file_not_found()
        return found[0]

    async def _range(self, name: str, start: int, end: int) -> memoryview:
        with _translating():
            data = memoryview(
                await obstore.get_range_async(self._store, name, start=start, end=end)
            )
        if len(data) != end - start:
            raise InternalError(text="an object is shorter than it was")
        return data

    async def export(self, items: Iterable[Export]) -> None:
        """See `Blobs.export`."""
        wanted = tuple(items)
        names = list(dict.fromkeys(item.blob for item in wanted))
        fetched = 0
        try:
            with self._cache.pinned(names):
                missing = [name for name in names if not await self._cache.exists(name)]
                fetched = await self._fetch(missing)
                await self._cache.export(wanted)
        finally:
            await self._cache.trim(fetched)

    async def _fetch(self, blobs: Sequence[str]) -> int:
        """Bring blobs into the cache, where they are pinned; how many bytes came."""
        places = await self._index.places(blobs)
        if len(places) < len(blobs):
            raise file_not_found()
        await together(*(self._fetch_span(span) for span in spans(places)))
        return sum(place.size for place in places)

    async def _fetch_span(self, span: Span) -> None:
        async with self._uploads:
            if len(span.places) == 1:
                await self._keep(span.places[0], self._pieces(span.places[0]))
                return
            data = await self._range(span.object, span.start, span.end)
            for place in span.places:
                start = place.offset - span.start
                await self._keep(place, _once(bytes(data[start : start + place.size])))

    async def _pieces(self, place: Place) -> AsyncIterator[bytes]:
        for start in range(0, place.size, READ_BYTES):
            stop = min(start + READ_BYTES, place.size)
            yield bytes(await self._range(place.object, place.offset + start, place.offset + stop))

    async def _keep(self, place: Place, chunks: AsyncIterator[bytes]) -> None:
        blob = await self._cache.put(chunks)
        if blob.hash != place.blob:
            await self._cache.forget(blob.hash)
            raise InternalError(text="an object does not hold what it should")

    async def exists(self, blob: str) -> bool:
        """See `Blobs.exists`."""
        try:
            await self._place(blob)
        except NotFoundError:
            return False
        return True

    # -- sweeping --

    async def delete(self, blob: str, *, age_seconds: float = 0) -> bool:
        """See `Blobs.delete`.  The space is given back by `tidy`."""
        if not await self.exists(blob):
            return True
        if not await self._index.drop(blob, age_seconds, self._now_ms()):
            return False
        await self._cache.forget(blob)  # it may be stored again by now
        return True

    async def older_than(self, age_seconds: float) -> AsyncIterator[str]:
        """See `Blobs.older_than`."""
        after = ""
        while True:
            blobs = await self._index.aged(age_seconds, after, _BATCH, self._now_ms())
            for blob in blobs:
                yield blob
            if len(blobs) < _BATCH:
                return
            after = blobs[-1]

    async def tidy(self, age_seconds: float) -> None:
        """See `Blobs.tidy`.  What is left of an object that has lost half of its blobs moves on into a
        new one."""
        lost = await self._gather(age_seconds)
        dead = await self._index.abandon(
            age_seconds, max(age_seconds, UNFILLED_SECONDS), self._now_ms()
        )
        for first in range(0, len(dead), _BATCH):
            names = dead[first : first + _BATCH]
            with _translating():
                for name in names:
                    with suppress(FileNotFoundError):
                        await obstore.delete_async(self._store, name)
            await self._index.removed(names)
        if lost is not None:
            raise lost

    async def _gather(self, age_seconds: float) -> EraError | None:
        """Let go of objects that are mostly dead; why that was not possible for one of them."""
        lost, after = None, ""
        while places := await self._index.sparse(age_seconds, after, _TOGETHER, self._now_ms()):
            after = places[-1].object
            try:
                await self._move(places)
            except EraError as error:  # what is lost there must not keep the rest from being done
                lost = error
        return lost

    async def _move(self, places: Sequence[Place]) -> None:
        blobs = [Blob(hash=place.blob, size=place.size) for place in places]
        names = [blob.hash for blob in blobs]
        with self._cache.pinned(names):
            missing = [name for name in names if not await self._cache.exists(name)]
            fetched = await self._fetch(missing)
            packs = packed(blobs, _object_name)
            await self._index.announce([pack.object for pack in packs], self._now_ms())
            await together(*(self._upload(pack) for pack in packs))
            moved = [place for pack in packs for place in pack.places()]
            await self._index.move(moved, self._now_ms())
        await self._cache.trim(fetched)

    async def claim(self, identity: str, *, fresh: bool) -> bool:
        """Whether the store is the one that belongs to `identity`; a `fresh` one becomes it."""
        name = f"belongs-to-{identity}"
        with _translating():
            if fresh:
                await obstore.put_async(self._store, name, b"", use_multipart=False)
                return True
            try:
                await obstore.head_async(self._store, name)
            except FileNotFoundError:
                return False
        return True


def _object_name() -> str:
    """A name that nobody has ever had, spread over prefixes."""
    token = new_token()
    return f"{token[-2:]}/{token}"


@contextmanager
def _translating() -> Iterator[None]:
    """Failures of the object store as the callers of `Blobs` know them: no address, no key."""
    try:
        yield
    except FileNotFoundError as error:
        raise InternalError(text="an object is missing from the store") from error
    except (BaseError, OSError) as error:
        if _FULL.search(str(error)):
            raise UnavailableError("storage_full") from error
        kind = type(error).__name__
        raise InternalError(text=f"the object store failed ({kind})") from error


async def _once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
