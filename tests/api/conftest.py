"""The real application and the real sessions, on stores in memory and a driver without a box."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from era.api.app import create_app
from era.api.options import Options
from era.languages.table import Tools
from era.sessions.parts import Parts
from era.sessions.seal import Seal
from era.sessions.service import Sessions
from era.sessions.settings import SessionLimits
from era.workspace.trees import Trees
from tests.fakes.blobs import MemoryBlobs
from tests.fakes.driver import ProcessDriver
from tests.fakes.records import MemoryRecords

BASE = "http://era.test"
TOOLS = Tools(
    python="/usr/bin/python3", versions={"python": "3.x"}, missing={"deno": "deno is not installed"}
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
async def sessions(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Sessions]:
    async with AsyncExitStack() as stack:
        records, blobs = MemoryRecords(), MemoryBlobs()
        driver = ProcessDriver(str(tmp_path))
        stack.push_async_callback(driver.close)
        layers, programs = tmp_path / "layers", tmp_path / "programs"
        layers.mkdir()
        programs.mkdir()
        parts = Parts(
            records=records,
            blobs=blobs,
            driver=driver,
            trees=Trees(root=str(tmp_path / "trees"), records=records, blobs=blobs),
            tools=TOOLS,
            seal=Seal("a key for tests"),
            layers_dir=str(layers),
            programs_dir=str(programs),
            clock=now_ms,
        )
        service = Sessions(parts, SessionLimits())
        await service.start()
        stack.push_async_callback(service.close, 0)
        yield service


@pytest.fixture
def make_app(sessions: Sessions) -> Callable[..., FastAPI]:
    """The application with options of one's own."""
    return lambda **options: create_app(sessions, Options(**{"clock": now_ms, **options}))


@pytest.fixture
async def connect(make_app: Callable[..., FastAPI]) -> AsyncIterator[Callable[..., Any]]:
    """A client of an application with options of one's own, which it takes to be at `base_url`."""
    async with AsyncExitStack() as stack:

        async def client(*, base_url: str = BASE, **options: Any) -> httpx2.AsyncClient:
            transport = httpx2.ASGITransport(make_app(**options))
            return await stack.enter_async_context(
                httpx2.AsyncClient(transport=transport, base_url=base_url, timeout=60)
            )

        yield client


@pytest.fixture
async def api(connect: Callable[..., Any]) -> httpx2.AsyncClient:
    """A client of the application as it is by default."""
    client: httpx2.AsyncClient = await connect()
    return client
