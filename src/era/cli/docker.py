"""`era docker`: the Docker files and the image, made by the scripts of the source tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import era

COMPILER: Final = "scripts/cloudflare-docker/docker-compiler.sh"
FAILED: Final = 1


def source_tree() -> Path | None:
    """The source tree: the one this program runs from, else the one around the current directory."""
    here = Path.cwd()
    for folder in (Path(era.__file__).resolve().parents[2], here, *here.parents):
        if (folder / COMPILER).is_file():
            return folder
    return None


def run_script(script: str, arguments: Sequence[str] = ()) -> int:
    """Run a script of the source tree; its exit code."""
    tree = source_tree()
    if tree is None:
        print(
            f"era: {script} is not here\n"
            "  The Docker files are made in a source tree of ERA: run this inside of one.",
            file=sys.stderr,
        )
        return FAILED
    path = tree / script
    if not path.is_file():
        print(
            f"era: {path.name} was not generated\n  Run `era docker compile` first.",
            file=sys.stderr,
        )
        return FAILED
    return subprocess.run([str(path), *arguments], check=False).returncode


def compile_files(output: str | None, *, force: bool = False, clean: bool = False) -> int:
    """Write the generated set, or remove it."""
    arguments = ["--output", output] if output else []
    arguments += ["--force"] if force else []
    arguments += ["--clean"] if clean else []
    return run_script(COMPILER, arguments)


def build(tag: str | None) -> int:
    """The files, the `agent` file and the image, in this order; stops at the first failure."""
    if code := compile_files(None):
        return code
    tree = source_tree()
    assert tree is not None, "the compiler has just run from there"
    if code := subprocess.run(["make", "-C", str(tree / "era-agent"), "agent"]).returncode:
        return code
    return run_script("era-agent/build-docker.sh", [tag] if tag else [])


def run(tag: str | None) -> int:
    """Run the image in the foreground."""
    return run_script("era-agent/run-docker.sh", [tag] if tag else [])


def check(url: str | None) -> int:
    """Look at a running service."""
    return run_script("era-agent/test-docker.sh", [url] if url else [])


def deploy(*, yes: bool, keep: bool, clean: bool, skip_build: bool, dry_run: bool) -> int:
    """Build the image and deploy the Worker."""
    given = {
        "--yes": yes,
        "--keep": keep,
        "--clean": clean,
        "--skip-build": skip_build,
        "--dry-run": dry_run,
    }
    return run_script(
        "cloudflare/build-and-deploy.sh", [flag for flag, wanted in given.items() if wanted]
    )
