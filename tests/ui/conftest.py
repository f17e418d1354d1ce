"""The real application with the dashboard, on the sessions that the API's tests have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from era.api.app import create_app
from era.api.options import Options
from era.sessions.service import Sessions
from era.ui.dashboard import dashboard
from tests.api.conftest import BASE, now_ms
from tests.api.conftest import sessions as sessions
from tests.ui.pages import KEY, Page, read

Connect = Callable[..., Any]


@pytest.fixture
async def connect(sessions: Sessions) -> AsyncIterator[Connect]:
    """A client of an application with options of one's own."""
    async with AsyncExitStack() as stack:

        async def client(
            *, keys: tuple[str, ...] = (), client: tuple[str, int] = ("127.0.0.1", 1), **more: Any
        ) -> httpx2.AsyncClient:
            options = Options(**{"clock": now_ms, "api_keys": keys, **more})
            app = create_app(sessions, options, (dashboard(keys),))
            transport = httpx2.ASGITransport(app, client=client)
            return await stack.enter_async_context(
                httpx2.AsyncClient(transport=transport, base_url=BASE, timeout=60)
            )

        yield client


@pytest.fixture
async def ui(connect: Connect) -> httpx2.AsyncClient:
    """A client of a service without keys."""
    client: httpx2.AsyncClient = await connect()
    return client


@pytest.fixture
async def signed_in(connect: Connect) -> tuple[httpx2.AsyncClient, Page]:
    """A client that has signed in, and the overview that it saw."""
    client: httpx2.AsyncClient = await connect(keys=(KEY,))
    answer = await client.post("/ui/login", data={"key": KEY})
    assert answer.status_code == 303, answer.text
    return client, read(await client.get("/ui"))
