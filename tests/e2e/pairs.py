"""Servers that share a PostgreSQL database and a place in an S3 server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from api import Api
from tests.e2e.conftest import watched
from tests.e2e.harness import WatchedServer
from tests.servers.objects import Objects
from tests.servers.postgres import Postgres

LEASE_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Two running servers, and the settings that both have."""

    one: WatchedServer
    two: WatchedServer
    environment: dict[str, str]

    @property
    def clients(self) -> tuple[Api, Api]:
        return Api(self.one.url), Api(self.two.url)


@contextmanager
def pair(postgres: Postgres, objects: Objects, **more: str) -> Iterator[Pair]:
    """Two servers on a database and a place of their own."""
    database = postgres.new_database()
    environment = {
        **objects.environment,
        "ERA_DATABASE_URL": postgres.url(database),
        "ERA_BLOBS_URL": objects.new_url(),
        "ERA_SECRET_KEY": "one for both",
        "ERA_LEASE_SECONDS": str(LEASE_SECONDS),
        "ERA_READY_BOXES": "1",
        **more,
    }
    with ExitStack() as stack:
        stack.callback(postgres.drop, database)
        one, two = (stack.enter_context(watched(environment)) for _ in range(2))
        yield Pair(one, two, environment)


def until(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
