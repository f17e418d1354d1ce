"""Every program of the corpus gives the same result, whether its box stood ready or not."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator

import pytest

from era.runtimes import Runtimes
from tests.sandbox.corpus import Case, programs
from tests.sandbox.standing import Standing, outcome, standing_driver

ROOT = os.geteuid() == 0
UNBOUNDED = frozenset({"out-of-memory"})
"""Programs that need a limit which an ordinary user's service cannot set."""
PROGRAMS = [
    case
    for number, case in enumerate(programs())
    if ROOT or (number % 8 == 0 and case.name not in UNBOUNDED)
]
"""An ordinary user's boxes are made by the same code: every eighth program is enough of them."""


@pytest.fixture(scope="module")
async def standing(anyio_backend: str) -> AsyncIterator[tuple[Standing, Runtimes]]:
    with tempfile.TemporaryDirectory(prefix="era-warm-") as directory:
        async with standing_driver(directory) as made:
            yield made


@pytest.mark.anyio
@pytest.mark.parametrize("case", PROGRAMS, ids=lambda case: case.name)
async def test_warm_and_cold_are_the_same(standing: tuple[Standing, Runtimes], case: Case) -> None:
    driver, runtimes = standing
    cold = await outcome(driver, runtimes, case, warm=False)
    warm = await outcome(driver, runtimes, case, warm=True)
    assert warm == cold
