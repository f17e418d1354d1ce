"""Go's common packages, compiled once for the whole suite by the first process that asks."""

from __future__ import annotations

import asyncio
import fcntl

import pytest

from era.languages.table import Tools
from era.sandbox.base import Driver
from era.sessions.caches import GoCache


async def go_library(
    driver: Driver, tools: Tools, tmp_path_factory: pytest.TempPathFactory
) -> GoCache:
    """The cache, warm."""
    directory = tmp_path_factory.getbasetemp().parent / "era-go-cache"
    directory.mkdir(exist_ok=True)
    cache = GoCache(driver, str(directory), tools)
    with open(directory.parent / "era-go-cache.lock", "w") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        await cache.warm()
    return cache
