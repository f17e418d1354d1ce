"""Running the deployment scripts with programs that write down how they were called."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
COMPILER: Final = ROOT / "scripts/cloudflare-docker/docker-compiler.sh"
SYSTEM: Final = "/usr/local/bin:/usr/bin:/bin"
RECORDER: Final = """#!{python}
import os, sys
with open({log!r}, "a") as log:
    log.write(" ".join([{name!r}, *sys.argv[1:]]) + "\\n")
answers = {answers!r}
line = " ".join(sys.argv[1:])
for beginning, (code, text) in answers.items():
    if line.startswith(beginning):
        print(text, end="")
        sys.exit(code)
"""


def record(folder: Path, name: str, answers: Mapping[str, tuple[int, str]] | None = None) -> Path:
    """Put a program `name` into `folder` that notes its arguments in `calls`; where they begin as
    a key of `answers`, it prints that text and exits with that code."""
    folder.mkdir(exist_ok=True)
    log = folder / "calls"
    program = folder / name
    program.write_text(
        RECORDER.format(python=sys.executable, log=str(log), name=name, answers=dict(answers or {}))
    )
    program.chmod(0o755)
    return log


def run(
    command: Sequence[str | Path],
    *,
    path: str = SYSTEM,
    env: Mapping[str, str] | None = None,
    cwd: Path = Path("/"),
) -> subprocess.CompletedProcess[str]:
    """Run a script with little around it and no terminal."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": path, "HOME": "/nonexistent", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def only(folder: Path, names: Sequence[str]) -> str:
    """A PATH with these programs of the system and no others."""
    folder.mkdir(exist_ok=True)
    for name in names:
        found = next(p for p in map(Path, SYSTEM.split(":")) if (p / name).exists())
        (folder / name).symlink_to(found / name)
    return str(folder)
