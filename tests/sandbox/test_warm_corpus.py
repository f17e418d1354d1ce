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
UNBOUNDED = frozenset({"out-of-memory", "recursion-stack"})
"""Programs that need a limit which an ordinary user's service cannot set."""
PROGRAMS = [
    case
    for number, case in enumerate(programs())
    if ROOT or (number % 8 == 0 and case.name not in UNBOUNDED)
]
"""An ordinary user's boxes are made by the same code: every eighth program is enough of them."""


SOME = [case for number, case in enumerate(PROGRAMS) if number % 8 == 1]
"""What stays of a standing process in a program is the same, whatever forked it: some are enough."""


@pytest.fixture(scope="module")
async def standing_without_c(anyio_backend: str) -> AsyncIterator[tuple[Standing, Runtimes]]:
    with tempfile.TemporaryDirectory(prefix="era-warm-") as directory:
        async with standing_driver(directory, native=False) as made:
            yield made


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


@pytest.mark.anyio
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)
async def test_they_are_without_a_helper_in_c(
    standing_without_c: tuple[Standing, Runtimes], case: Case
) -> None:
    driver, runtimes = standing_without_c
    cold = await outcome(driver, runtimes, case, warm=False)
    warm = await outcome(driver, runtimes, case, warm=True)
    assert warm == cold
