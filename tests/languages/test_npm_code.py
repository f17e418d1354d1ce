"""npm's own code, compiled once for all setups, which see it and cannot change it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from era.languages import environment
from era.languages.packages import NPM_CODE
from era.sandbox.base import BoxSpec, Program
from era.sessions.npmcode import NpmCode
from tests.languages.boxes import LIMITS, Bench, bench
from tests.sessions.conftest import contents

pytestmark = pytest.mark.anyio

LOOK = 'NODE_DEBUG_NATIVE=COMPILE_CACHE "$1" "$2" ls 2>&1 | grep -c "was accepted"'
SPOIL = (
    'cd "$NODE_COMPILE_CACHE" && find . -type f -exec sh -c "echo spoilt >{}" \\; && find . -type f'
)


@pytest.fixture(scope="module")
async def made(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    directory = str(tmp_path_factory.mktemp("npm"))
    async with bench(directory, os.environ["PATH"]) as made:
        yield made


async def run(made: Bench, code: NpmCode, script: str) -> str:
    tools = made.runtimes.tools
    env = {**environment.base(has_layer=False), "NODE_COMPILE_CACHE": NPM_CODE}
    async with made.driver.box(BoxSpec(limits=LIMITS, overlays=code.overlays())) as box:
        argv = (tools.bash, "-c", script, "npm", tools.node, tools.npm)
        ended = await box.run(Program(argv=argv, env=env, timeout_seconds=60))
    return ended.stdout.decode()


async def ready(code: NpmCode) -> None:
    code.make_soon()
    with anyio.fail_after(120):
        while code.busy:
            await anyio.sleep(0.05)


async def test_it_is_found_and_no_box_changes_it(made: Bench, tmp_path: Path) -> None:
    code = NpmCode(made.driver, str(tmp_path), made.runtimes.tools)
    assert await run(made, code, LOOK) == "0\n"
    await ready(code)
    before = contents(str(tmp_path))
    assert int(await run(made, code, LOOK)) > 20
    assert len((await run(made, code, SPOIL)).splitlines()) > 20
    assert contents(str(tmp_path)) == before
    assert int(await run(made, code, LOOK)) > 20
    await code.close()


async def test_it_is_made_once_and_again_for_another_node(made: Bench, tmp_path: Path) -> None:
    other = tmp_path / "npm-of-before"
    (other / "v1").mkdir(parents=True)
    code = NpmCode(made.driver, str(tmp_path), made.runtimes.tools)
    await ready(code)
    (there,) = tmp_path.iterdir()
    made_at = there.stat().st_mtime_ns
    again = NpmCode(made.driver, str(tmp_path), made.runtimes.tools)
    await ready(again)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [made_at]
