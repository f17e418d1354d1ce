"""From a fresh clone, the README's first command installs everything and serves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import Api
from era.config import VARIABLES
from five_languages import run_all
from local_server import LocalServer

ROOT = Path(__file__).parents[2]
INSTALL_SECONDS = 600

pytestmark = [pytest.mark.xdist_group("clone"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def clone() -> Iterator[Path]:
    """What is committed, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="era-clone-") as folder:
        tree = Path(folder) / "era"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, tree], check=True)
        yield tree


def commands_of_the_readme(tree: Path) -> list[str]:
    return re.findall(r"^```console\n\$ (.+)\n```", (tree / "README.md").read_text(), re.MULTILINE)


class FirstCommand(LocalServer):
    """The server as the README starts it: the command alone, from another directory.

    The port and the state directory come from the environment, so that a server of this machine's
    own is not in the way.
    """

    def __init__(self, tree: Path) -> None:
        super().__init__(tree.parent / "state")
        self._tree = tree
        self._environment = {
            "PORT": str(self.port),
            "AGENT_STATE_DIR": str(self.state_dir),
            "HOME": str(tree.parent),
        }

    def start(self) -> None:
        command = self._tree / commands_of_the_readme(self._tree)[0]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [command],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._clean(),
            )
        deadline = time.monotonic() + INSTALL_SECONDS
        while not self.healthy():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(clone: Path) -> Iterator[FirstCommand]:
    """The README's first command, run in a clone where nothing was installed."""
    server = FirstCommand(clone)
    try:
        server.start()
        yield server
        assert server.stop() == 0
    finally:
        server.close()


def health(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/health") as answer:
        return json.load(answer)


def test_the_readme_names_two_commands(clone: Path) -> None:
    assert commands_of_the_readme(clone) == ["scripts/serve", "scripts/test"]


def test_the_first_command_installs_and_serves_all_five_languages(server: FirstCommand) -> None:
    five = {"python", "node", "typescript", "go", "deno"}
    assert set(health(server.url)["languages"]) == five
    run_all(Api(server.url))


def test_serving_needs_no_tools(clone: Path, server: FirstCommand) -> None:
    packages = {path.name for path in clone.glob(".venv/lib/python3*/site-packages/*")}
    assert "fastapi" in packages
    assert not packages & {"pytest", "mypy", "pandas"}


@pytest.mark.parametrize("command", ["era", "agent"])
def test_the_program_works_without_tools(clone: Path, server: FirstCommand, command: str) -> None:
    program = clone / ".venv" / "bin" / command
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    assert "serve" in done.stdout


def test_the_default_address_is_the_documented_one() -> None:
    assert (VARIABLES["PORT"].default, VARIABLES["ERA_HOST"].default) == (8787, "127.0.0.1")


def test_a_second_start_installs_nothing(clone: Path, server: FirstCommand) -> None:
    before = stamps(clone)
    subprocess.run([clone / "scripts" / "setup"], cwd="/", check=True)
    assert stamps(clone) == before
    assert len(before) == 2


def stamps(tree: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in tree.glob(".venv/.installed-*")}


def test_without_an_interpreter_setup_says_what_to_do(clone: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "era"
        subprocess.run(["git", "clone", "--quiet", clone, other], check=True)
        done = subprocess.run(
            [other / "scripts" / "setup"],
            env=os.environ | {"PYTHON": "/no/such/python"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr
