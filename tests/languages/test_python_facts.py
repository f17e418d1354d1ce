"""What uv notes of the interpreter, found out once: setups have it, and uv does not look again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping

import anyio
import pytest

from era.languages import environment
from era.languages.packages import Step, knowing
from era.sandbox.base import BoxSpec, Program
from era.sessions.pythonfacts import PythonFacts
from tests.languages.boxes import LIMITS, Bench, bench

pytestmark = pytest.mark.anyio

LOOK = (
    '"$1" -vv --no-config --offline --cache-dir /tmp/uv pip list --python "$2" --target /tmp/none'
    ' 2>&1 | grep -c "Querying interpreter"'
)


@pytest.fixture(scope="module")
async def made(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    directory = str(tmp_path_factory.mktemp("facts"))
    async with bench(directory, os.environ["PATH"]) as made:
        yield made


async def looks(made: Bench, facts: Mapping[str, bytes]) -> str:
    """How often uv asks the interpreter about itself."""
    tools = made.runtimes.tools
    env = environment.base(has_layer=False)
    async with made.driver.box(BoxSpec(limits=LIMITS)) as box:
        for path, content in facts.items():
            put = f'mkdir -p "$(dirname /tmp/uv/{path})" && cat > /tmp/uv/{path}'
            await box.run(Program(argv=(tools.bash, "-c", put), env=env, stdin=content))
        argv = (tools.bash, "-c", LOOK, "uv", tools.uv, tools.python)
        ended = await box.run(Program(argv=argv, env=env, timeout_seconds=60))
    return ended.stdout.decode().strip()


async def test_uv_does_not_look_again(made: Bench) -> None:
    facts = PythonFacts(made.driver, made.runtimes.tools)
    assert await looks(made, facts.files) == "1"
    facts.find_soon()
    with anyio.fail_after(120):
        while facts.busy:
            await anyio.sleep(0.05)
    assert await looks(made, facts.files) == "0"
    await facts.close()


def test_only_pip_is_told() -> None:
    pip, npm = (Step(kind=kind, label="", argv=(), env={}, error="") for kind in ("pip", "npm"))
    facts = {"interpreter-v5/a/b.msgpack": b"x"}
    assert knowing(pip, facts).files == {".era-cache/uv/interpreter-v5/a/b.msgpack": b"x"}
    assert knowing(npm, facts) == npm
    assert knowing(pip, {}) == pip
