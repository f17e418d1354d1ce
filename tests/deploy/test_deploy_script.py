"""`build-and-deploy.sh` with programs that write down how they were called."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.scripts import ROOT, only, record, run

SYSTEM = (
    "bash env dirname cat head tr mkdir rm mv chmod mktemp tail tee grep sleep make python3".split()
)
Answers = Mapping[str, Mapping[str, tuple[int, str]]]
LOGGED_IN: dict[str, tuple[int, str]] = {
    "wrangler whoami": (0, "You are logged in with an OAuth Token\n"),
    "wrangler r2 bucket list": (0, "name:           era-sessions\n"),
    "wrangler deploy": (0, "Deployed\n  https://era-agent.somebody.workers.dev\n"),
}
WORKING: Answers = {
    "docker": {},
    "node": {"--version": (0, "v22.1.0\n")},
    "npm": {},
    "npx": LOGGED_IN,
    "curl": {},
}


class Tree:
    """A copy of the tree that the script works in, and the programs around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("cloudflare", "era-agent", "scripts/cloudflare-docker", "requirements"):
            ignored = shutil.ignore_patterns("node_modules", ".wrangler", "agent", "*.pyc")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder / name)
        self._path = only(folder / "system", SYSTEM)

    @property
    def calls(self) -> list[str]:
        log = self.folder / "bin/calls"
        return log.read_text().splitlines() if log.exists() else []

    def deploy(self, *arguments: str, answers: Answers = WORKING) -> tuple[int, str, str]:
        for name, known in answers.items():
            record(self.folder / "bin", name, known)
        script = self.folder / "cloudflare/build-and-deploy.sh"
        done = run(
            [script, *arguments],
            path=f"{self.folder / 'bin'}:{self._path}",
            env={"ERA_HEALTH_PAUSE": "0"},
        )
        return done.returncode, done.stdout, done.stderr

    def generated(self) -> bool:
        return (self.folder / "era-agent/Dockerfile").exists()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def without(name: str) -> Answers:
    return {program: known for program, known in WORKING.items() if program != name}


def failing(program: str, line: str, text: str = "") -> Answers:
    return {**WORKING, program: {**WORKING[program], line: (1, text)}}


def test_all_steps_in_order(tree: Tree) -> None:
    code, out, err = tree.deploy("--yes")
    assert code == 0, err
    assert [line[:4] for line in out.splitlines() if line.startswith("[")] == [
        f"[{n}/9" for n in range(1, 10)
    ]
    assert out.count(" s\n") >= 8, "each step says how long it took"
    assert "2-5 minutes" in out
    assert tree.calls == [
        "node --version",
        "docker info",
        f"docker build -t era-agent:latest {tree.folder}/era-agent",
        "npm install --no-audit --no-fund",
        "npx wrangler whoami",
        "npx wrangler r2 bucket list",
        "npx wrangler deploy",
        "curl -sf -m 70 https://era-agent.somebody.workers.dev/health",
    ]
    assert (tree.folder / "era-agent/agent").exists(), "made because it was missing"
    assert not tree.generated(), "cleaned up by default"


@pytest.mark.parametrize(("flag", "stays"), [("--keep", True), ("--clean", False)])
def test_what_was_generated_stays_when_asked(tree: Tree, flag: str, stays: bool) -> None:
    mine = tree.folder / "era-agent/mine.sh"
    mine.write_text("echo mine\n")
    assert tree.deploy(flag, "--skip-build")[0] == 0
    assert tree.generated() == stays
    assert mine.read_text() == "echo mine\n"
    assert not any(call.startswith("docker build") for call in tree.calls)


def test_a_dry_run_prints_and_does_nothing(tree: Tree) -> None:
    before = sorted(path for path in tree.folder.rglob("*"))
    code, out, _ = tree.deploy("--dry-run", answers={})
    assert code == 0
    for command in ("docker-compiler.sh", "docker build -t era-agent:latest", "npm install"):
        assert f"+ {command}" in out or command in out
    assert "+ npx wrangler deploy" in out
    assert "+ npx wrangler r2 bucket create era-sessions" in out
    assert sorted(path for path in tree.folder.rglob("*")) == before


def test_a_missing_bucket_is_created(tree: Tree) -> None:
    answers = {**WORKING, "npx": {**LOGGED_IN, "wrangler r2 bucket list": (0, "")}}
    assert tree.deploy(answers=answers)[0] == 0
    assert "npx wrangler r2 bucket create era-sessions" in tree.calls


@pytest.mark.parametrize(
    ("answers", "words", "generated"),
    [
        (without("docker"), ["Docker is not installed"], False),
        (failing("docker", "info"), ["Docker is not running", "docker info"], False),
        (without("node"), ["Node is not installed"], False),
        ({**WORKING, "node": {"--version": (0, "v16.2.0\n")}}, ["Node 16.2.0 is too old"], False),
        (without("npm"), ["npm is not installed"], False),
        (
            failing("docker", "build", "no space left\n"),
            [
                "Docker build failed",
                "no space left",
                "docker info",
                "make agent",
                "docker build -t",
            ],
            True,
        ),
        (failing("npm", "install"), ["npm install failed"], True),
        (
            failing("npx", "wrangler whoami"),
            ["Not logged in to Cloudflare", "npx wrangler login"],
            True,
        ),
        (
            {
                **WORKING,
                "npx": {
                    **LOGGED_IN,
                    "wrangler r2 bucket list": (0, ""),
                    "wrangler r2 bucket create": (1, ""),
                },
            },
            ["R2 bucket era-sessions", "npx wrangler r2 bucket create era-sessions"],
            True,
        ),
        (failing("npx", "wrangler deploy", "no\n"), ["wrangler deploy failed"], True),
    ],
)
def test_a_failure_is_named_with_its_remedy(
    tree: Tree, answers: Answers, words: list[str], generated: bool
) -> None:
    code, _, err = tree.deploy(answers=answers)
    assert code == 1
    for each in words:
        assert each in err
    assert "Nothing was deployed" in err
    assert ("--clean" in err) == generated == tree.generated()
    assert "npx wrangler deploy" not in tree.calls[:-1]


def test_an_agent_that_cannot_be_built_is_named(tree: Tree) -> None:
    (tree.folder / "era-agent/build.py").write_text("raise SystemExit(1)\n")
    code, _, err = tree.deploy()
    assert (code, "agent binary not found in era-agent/" in err) == (1, True)
    assert "make agent" in err


def test_a_container_that_does_not_answer_is_named(tree: Tree) -> None:
    code, _, err = tree.deploy(answers={**WORKING, "curl": {"-sf": (22, "")}})
    assert (code, "Container not responding" in err) == (1, True)
    assert "wrangler tail" in err
    assert "Nothing was deployed" not in err


def test_wrong_usage(tree: Tree) -> None:
    code, _, err = tree.deploy("--nonsense")
    assert (code, "usage:" in err) == (2, True)


def test_the_command_is_the_script() -> None:
    env = {"PYTHONPATH": str(ROOT / "src")}
    done = run([sys.executable, "-m", "era", "deploy", "--dry-run"], env=env)
    assert done.returncode == 0, done.stderr
    assert "+ npx wrangler deploy" in done.stdout
