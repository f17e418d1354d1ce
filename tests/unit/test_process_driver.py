"""The fake driver keeps the promise of the real ones, so tests on it mean something."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contracts.driver import *  # noqa: F403
from tests.contracts.driver import BoxTools
from tests.fakes.driver import ProcessDriver


@pytest.fixture
async def driver(anyio_backend: str) -> AsyncIterator[ProcessDriver]:
    driver = ProcessDriver()
    await driver.start()
    yield driver
    await driver.close()


@pytest.fixture
def tools() -> BoxTools:
    return BoxTools()
