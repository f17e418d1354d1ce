"""A driver with everything the service finds on this machine, shared by the tests of this room."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from era.sessions.caches import GoCache
from tests.languages.boxes import Bench, bench


@pytest.fixture(scope="session")
async def box_bench(anyio_backend: str) -> AsyncIterator[Bench]:
    """A bench without Go's library compiled."""
    with tempfile.TemporaryDirectory(prefix="era-languages-") as directory:
        async with bench(directory, os.environ["PATH"]) as made:
            yield made


@pytest.fixture(scope="session")
async def go_bench(box_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with Go's common packages compiled, as the service does at its start."""
    directory = tmp_path_factory.mktemp("go-cache")
    cache = GoCache(box_bench.driver, str(directory), box_bench.runtimes.tools)
    await cache.warm()
    return replace(box_bench, go_cache=cache.lower())


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """An empty setup layer."""
    (tmp_path / "layer").mkdir()
    return tmp_path / "layer"
