"""The namespaces tier keeps every promise of a driver: with scratch on disk and in memory, in boxes made
on demand and in boxes made ahead, with the steps of a box in C and without."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from era.sandbox.base import Box, BoxSpec, Limits, Readiness, Warm
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.pool import ANY
from tests.contracts.driver import *  # noqa: F403
from tests.contracts.driver import BoxTools
from tests.sandbox.boxes import namespaces_driver

AHEAD = Warm(name=ANY, readiness=Readiness.BOX, count=2)


class Ahead(NamespacesDriver):
    """Gives boxes that were made ahead, and no others where one can be."""

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        return self._box_made_ahead(spec)

    @asynccontextmanager
    async def _box_made_ahead(self, spec: BoxSpec) -> AsyncIterator[Box]:
        await self._full()
        async with super().box(spec) as box:
            assert (getattr(box, "prepared") is not None) == (spec.limits == Limits())  # noqa: B009
            yield box
        await self._full()

    async def _full(self) -> None:
        async with asyncio.timeout(60):
            while len(self.pool._shelves[ANY].waiting) < AHEAD.count or self.openings.busy:
                await asyncio.sleep(0.005)


ROOT = os.geteuid() == 0


@pytest.fixture(params=["disk", "memory", "ahead"] if ROOT else ["memory", "ahead"])
async def driver(
    request: pytest.FixtureRequest, tmp_path: object, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    ahead = request.param == "ahead"
    async with namespaces_driver(
        str(tmp_path),
        on_disk=request.param == "disk",
        kind=Ahead if ahead else NamespacesDriver,
        warm=(AHEAD,) if ahead else (),
        native=request.param != "memory",
    ) as driver:
        yield driver


@pytest.fixture
def tools() -> BoxTools:
    return BoxTools()
