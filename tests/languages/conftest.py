"""A driver with everything the service finds on this machine, shared by the tests of this room."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.golibrary import go_library
from tests.languages.boxes import Bench, bench


@pytest.fixture(scope="session", params=["on demand", "ahead"])
async def box_bench(request: pytest.FixtureRequest, anyio_backend: str) -> AsyncIterator[Bench]:
    """A bench without Go's library compiled, with boxes made on demand and with boxes made ahead."""
    ahead = request.param == "ahead"
    with tempfile.TemporaryDirectory(prefix="era-languages-") as directory:
        async with bench(directory, os.environ["PATH"], ahead=ahead) as made:
            yield made


@pytest.fixture(scope="session")
async def go_cache(box_bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Go's common packages, compiled."""
    cache = await go_library(box_bench.driver, box_bench.runtimes.tools, tmp_path_factory)
    lower = cache.lower()
    assert lower is not None
    return lower


@pytest.fixture(scope="session")
def go_bench(box_bench: Bench, go_cache: str) -> Bench:
    """A bench as the service has it after its start."""
    return replace(box_bench, go_cache=go_cache)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """An empty setup layer."""
    (tmp_path / "layer").mkdir()
    return tmp_path / "layer"
