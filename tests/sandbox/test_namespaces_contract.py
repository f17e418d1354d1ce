"""The namespaces tier keeps every promise of a driver, with scratch on disk and in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import *  # noqa: F403
from tests.contracts.driver import BoxTools
from tests.sandbox.boxes import namespaces_driver


@pytest.fixture(params=["disk", "memory"] if os.geteuid() == 0 else ["memory"])
async def driver(
    request: pytest.FixtureRequest, tmp_path: object, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    async with namespaces_driver(str(tmp_path), on_disk=request.param == "disk") as driver:
        yield driver


@pytest.fixture
def tools() -> BoxTools:
    return BoxTools()
