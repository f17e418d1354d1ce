"""What a directory takes on its disk, and stopping what takes too much."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from era.sessions.room import Watch, size_of

pytestmark = pytest.mark.anyio

MIB = 1 << 20


def test_everything_below_counts_and_nothing_that_links_lead_to(tmp_path: Path) -> None:
    measured, other = tmp_path / "measured", tmp_path / "other"
    (measured / "a" / "b").mkdir(parents=True)
    other.mkdir()
    (other / "big").write_bytes(bytes(8 * MIB))
    (measured / "a" / "b" / "f").write_bytes(bytes(MIB))
    (measured / "link").symlink_to(other)
    assert MIB <= size_of(str(measured)) < 2 * MIB
    (measured / "a" / "b" / "f").rename(other / "f")
    assert size_of(str(measured)) < MIB
    assert size_of(str(other)) >= 9 * MIB


def test_a_tree_too_deep_to_be_looked_at_is_too_large(tmp_path: Path) -> None:

    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert size_of(str(tmp_path)) > 1 << 60


@pytest.mark.parametrize("limit_mib", [1, 64])
async def test_whoever_takes_too_much_is_stopped(tmp_path: Path, limit_mib: int) -> None:
    stopped = asyncio.Event()
    with Watch(str(tmp_path), limit_mib * MIB, stopped.set) as watch:
        (tmp_path / "f").write_bytes(bytes(8 * MIB))
        if limit_mib == 1:
            await stopped.wait()
        else:
            await asyncio.sleep(0.5)
    assert (stopped.is_set(), watch.exceeded) == (limit_mib == 1, limit_mib == 1)
