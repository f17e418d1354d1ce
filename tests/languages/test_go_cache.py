"""Go's library, compiled once for all boxes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from era.errors import InternalError
from era.sessions import caches
from era.sessions.caches import GoCache
from tests.languages.boxes import Bench

pytestmark = pytest.mark.anyio

PROGRAM = 'package main\n\nimport "errors"\n\nfunc main() { println(errors.New("x").Error()) }\n'
FAR_FUTURE = 4_000_000_000


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "COMMON", ("errors",))


def entries(directory: str) -> dict[str, os.stat_result]:
    return {path.name: path.stat() for path in Path(directory).rglob("*") if path.is_file()}


@pytest.mark.usefixtures("few_packages")
async def test_it_is_built_once_and_used(box_bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "go-older.std").mkdir()
    (tmp_path / "go-crashed.common.tmp").mkdir()
    cache = GoCache(box_bench.driver, str(tmp_path), box_bench.runtimes.tools)
    assert cache.lower() is None
    await cache.warm()
    lower = cache.lower()
    assert lower is not None
    assert not cache.complete
    assert os.listdir(tmp_path) == [os.path.basename(lower)]
    before = entries(lower)
    assert all(found.st_mtime > FAR_FUTURE for found in before.values())

    bench = replace(box_bench, go_cache=lower)
    assert (await bench.run("go", PROGRAM)).stderr == b"x\n"
    assert entries(lower) == before
    again = GoCache(box_bench.driver, str(tmp_path), box_bench.runtimes.tools)
    await again.warm()
    assert again.lower() == lower
    assert entries(lower) == before


@pytest.mark.usefixtures("few_packages")
async def test_what_is_in_it_is_not_compiled_again(box_bench: Bench, tmp_path: Path) -> None:
    cache = GoCache(box_bench.driver, str(tmp_path), box_bench.runtimes.tools)
    await cache.warm()
    command = 'cd $TMPDIR && printf \'package main\\nimport "errors"\\nvar X = errors.New("")\\n\''
    command += "'func main() {}\\n' >a.go && go build -x -o a a.go 2>&1 | grep -c /compile"
    for lower, compiled in ((cache.lower(), 1), (None, 10)):
        bench = replace(box_bench, go_cache=lower)
        found = await bench.shell(command, language="go")
        assert int(found.stdout) >= compiled
        assert (int(found.stdout) == 1) == (compiled == 1)


async def test_a_failure_is_told_and_leaves_nothing(
    box_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "COMMON", ("no/such/package",))
    cache = GoCache(box_bench.driver, str(tmp_path), box_bench.runtimes.tools)
    with pytest.raises(InternalError):
        await cache.warm()
    assert cache.lower() is None


async def test_without_go_there_is_nothing_to_do(box_bench: Bench, tmp_path: Path) -> None:
    tools = replace(box_bench.runtimes.tools, missing={"go": "not installed"})
    cache = GoCache(box_bench.driver, str(tmp_path), tools)
    await cache.warm()
    await cache.finish()
    assert cache.lower() is None


def test_another_toolchain_has_another_cache(box_bench: Bench, tmp_path: Path) -> None:
    tools = box_bench.runtimes.tools
    newer = replace(tools, versions={**tools.versions, "go": "9.9.9"})
    assert caches.cache_key(tools) != caches.cache_key(newer)
    assert caches.cache_key(tools) == caches.cache_key(replace(tools))
