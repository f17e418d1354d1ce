"""The servers that are attacked: started once for a worker, on the cold and on the warm path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.attacks.served import AMPLE, PATHS, SMALL, Served
from tests.e2e.conftest import watched

AT_ONCE = 6

Start = Callable[[str, dict[str, str]], Served]


@pytest.fixture(scope="session")
def started() -> Iterator[Start]:
    """Starts a server by its name, unless there is one; each must leave nothing behind."""
    servers: dict[str, Served] = {}
    with ExitStack() as stack:

        def start(name: str, environment: dict[str, str]) -> Served:
            if name not in servers:
                server = Served(stack.enter_context(watched(environment)))
                with ThreadPoolExecutor(AT_ONCE) as pool:  # scratch for all that may run at once
                    list(pool.map(lambda _: server.hello(), range(3 * AT_ONCE)))
                server.rest()
                servers[name] = server
            return servers[name]

        yield start


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    """How boxes are made."""
    return str(request.param)


@pytest.fixture
def server(path: str, started: Start) -> Iterator[Served]:
    """A server with small limits.  Whatever is done to it: another client is served afterwards, and
    nothing is left behind."""
    served = started(path, SMALL | {"ERA_READY_BOXES": PATHS[path]})
    with served.unharmed():
        yield served


@pytest.fixture
def ample(path: str, started: Start) -> Iterator[Served]:
    """A server with large limits, under the same guard."""
    served = started(f"ample {path}", AMPLE | {"ERA_READY_BOXES": PATHS[path]})
    with served.unharmed():
        yield served
