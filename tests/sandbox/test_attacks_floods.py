"""What untrusted code tries with its output, and with the processor: floods."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from era.sandbox.namespaces.driver import NamespacesDriver
from tests.contracts.driver import shell
from tests.sandbox.attack import ROOT, SMALL, TOOLS, attack, needs_cgroups
from tests.sandbox.boxes import namespaces_driver


@pytest.fixture(scope="module")
async def driver(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[NamespacesDriver]:
    async with namespaces_driver(str(tmp_path_factory.mktemp("floods")), on_disk=ROOT) as driver:
        yield driver


@pytest.mark.anyio
async def test_a_flood_on_both_streams_stops_at_the_cap(driver: NamespacesDriver) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    program = shell(
        TOOLS, "yes & exec yes flood >&2", timeout_seconds=1.0, grace_seconds=0.2, output_bytes=9999
    )
    ended = await attack(driver, program)
    assert (ended.exit_code, ended.timed_out) == (124, True)
    assert (len(ended.stdout), len(ended.stderr)) == (9999, 9999)
    assert ended.stdout_truncated
    assert ended.stderr_truncated
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10  # in KiB


@pytest.mark.anyio
async def test_one_long_line(driver: NamespacesDriver) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code = "import os\nfor _ in range(1024): os.write(1, b'x' * (1 << 20))"
    ended = await attack(driver, code, timeout_seconds=120, output_bytes=1 << 20)
    assert (ended.exit_code, len(ended.stdout), ended.stdout_truncated) == (0, 1 << 20, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


@pytest.mark.anyio
async def test_busy_loops_on_every_core(driver: NamespacesDriver) -> None:
    code = f"""
import os
for _ in range({4 * (os.cpu_count() or 1)}):
    if not os.fork():
        while True: pass
while True: pass
"""
    ended = await attack(driver, code, timeout_seconds=1.0, grace_seconds=0.2)
    assert ended.exit_code == 124
    if not driver.unenforced:
        assert ended.usage.cpu_ms is not None
        assert ended.usage.cpu_ms * 1e6 < 1.5 * ended.duration_ns  # one CPU's worth


@needs_cgroups
@pytest.mark.anyio
async def test_more_cpu_is_used_where_more_is_allowed(driver: NamespacesDriver) -> None:
    """The mirror of the limit, at a share that a loaded host grants too."""
    share = 0.04
    used = []
    for cpus in (share, 2.0):
        spec = replace(SMALL, limits=replace(SMALL.limits, cpus=cpus))
        ended = await attack(
            driver, "while True: pass", spec, timeout_seconds=1.5, grace_seconds=0.1
        )
        assert ended.usage.cpu_ms is not None
        used.append(ended.usage.cpu_ms * 1e6 / ended.duration_ns)
    assert used[0] < 2 * share < used[1]
