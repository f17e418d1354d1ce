"""The examples do what they say, and so does what the documentation shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import api
from tests.e2e.harness import WatchedServer, mounts, users_of

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/packages.md",
    "docs/cli.md",
    "docs/vms.md",
    "docs/agents.md",
)
BLOCK = re.compile(
    r"<!-- (?P<kind>example|output) -->\n```\w+\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
SEPARATOR = "\x1e"

pytestmark = [pytest.mark.xdist_group("examples"), pytest.mark.timeout(600)]


def run_example(name: str, *arguments: str, **environment: str) -> str:
    """Run one example as a user would; its output.  It must say that all was well."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "OK"
    return done.stdout


def test_data_analysis_survives_a_kill() -> None:
    """The whole job with a server of its own; nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="era-e2e-") as folder:
        output = run_example("data_analysis.py", TMPDIR=folder)
        assert "kill -9" in output
        assert "running pip" in output
        assert list(users_of(folder)) == []
        assert [line for line in mounts() if folder in line] == []
        assert list(Path(folder).iterdir()) == []


@pytest.mark.parametrize("name", ["counter.py", "five_languages.py"])
def test_example_against_a_running_server(name: str, server: WatchedServer) -> None:
    run_example(name, "--url", server.url)


def test_every_example_is_tested() -> None:
    programs = {path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text()}
    assert programs == {"data_analysis.py", "counter.py", "five_languages.py"}


def test_an_example_leaves_on_a_mismatch() -> None:
    with pytest.raises(SystemExit, match="MISMATCH in the answer"):
        api.check("the answer", 41, 42)


@dataclass(frozen=True, slots=True)
class Shown:
    """A block of commands in a page, and the output shown below it."""

    commands: str
    output: str | None


def shown_in(page: str) -> list[Shown]:
    """The examples of a page, in order."""
    found: list[Shown] = []
    for block in BLOCK.finditer((ROOT / page).read_text()):
        if block["kind"] == "example":
            found.append(Shown(block["text"], None))
        else:
            found[-1] = Shown(found[-1].commands, block["text"])
    return found


def outputs(blocks: list[Shown], url: str, folder: Path) -> list[str]:
    """What the blocks print, run one after the other in one shell, as a reader would."""
    commands = folder / "bin"
    commands.mkdir()
    (commands / "era").write_text(f'#!/bin/sh\nexec {sys.executable} -m era "$@"\n')
    (commands / "era").chmod(0o755)
    environment = os.environ | {"PATH": f"{commands}:{os.environ['PATH']}", "ERA_API_URL": url}
    script = f"\nprintf '{SEPARATOR}'\n".join(block.commands for block in blocks)
    done = subprocess.run(
        ["bash", "-euo", "pipefail"],
        input=script.replace(api.DEFAULT_URL, url),
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env=environment,
    )
    return done.stdout.split(SEPARATOR)


def matches(shown: str, printed: str) -> bool:
    """Whether the output is the one shown, where `...` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_happens(
    page: str, server: WatchedServer, tmp_path: Path
) -> None:
    blocks = shown_in(page)
    assert len(blocks) >= 4
    printed = outputs(blocks, server.url, tmp_path)
    wrong = [
        f"{block.commands}\nshows {block.output}\nprints {output}"
        for block, output in zip(blocks, printed, strict=True)
        if block.output is not None and not matches(block.output, output)
    ]
    assert wrong == []


def test_another_output_is_noticed() -> None:
    assert matches('{"a":1...}\n', '{"a":1,"b":2}')
    assert not matches('{"a":1...}\n', '{"a":2,"b":2}')
    assert not matches("1000", "1000 and more")
