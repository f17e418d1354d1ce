"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from era.sandbox.namespaces.cgroups.detect import find_v1, find_v2
from tests.servers.objects import Objects, objects
from tests.servers.postgres import Postgres, postgres
from tests.servers.worker import Worker, worker

# How long an example takes says something of the machine, not of the code.
settings.register_profile("era", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("era")


def pytest_report_header() -> str:
    """What this machine lets the tests try for real."""
    cgroups = "v1" if find_v1() else "v2" if find_v2() else "none"
    user = "root" if os.geteuid() == 0 else "an ordinary user"
    return f"machine: Linux {platform.release()}, {user}, {os.cpu_count()} CPUs, cgroups: {cgroups}"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The service runs on asyncio, so its tests do."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A running PostgreSQL, one for each process that runs tests."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def worker_server() -> Iterator[Worker]:
    """A Worker in workerd with Durable Objects and R2, one for each process that runs tests."""
    with worker() as server:
        yield server


@pytest.fixture(scope="session")
def object_server() -> Iterator[Objects]:
    """A running S3 server, one for each process that runs tests."""
    with objects() as server:
        yield server
