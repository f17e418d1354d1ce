"""The steps of a box in C, where the host has a compiler.

What `child/first.py`, `child/program.py` and `child/standby/forks.py` do costs them hundreds of pages
that are copied or filled for each box; the same steps in C (`child/native/`) cost a few.  Without a
compiler everything works as before, and slower.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

_log: Final = structlog.get_logger(__name__)
_SOURCES: Final = Path(__file__).parent / "child" / "native"
_COMPILERS: Final = ("cc", "gcc", "clang")
_COMMON: Final = ("-std=c11", "-O2", "-Wall", "-Wextra")
_FIRST: Final = (
    *("-static", "-nostdlib", "-ffreestanding"),
    *("-fno-stack-protector", "-fno-pie", "-no-pie", "first.c", "program.c"),
)
_STAND: Final = ("-shared", "-fPIC", "stand.c")
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """Paths on the host: the program that is process 1 of a box and the program's process before its
    program, and the library with the standing Python's loop."""

    first: str
    stand: str


def built(directory: str) -> Native | None:
    """The helper, compiled into `directory` unless the same text has been; None where that cannot be
    done.  Takes some tenths of a second the first time."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return None
    home = Path(directory) / _fingerprint(compiler)
    made = Native(first=str(home / "first"), stand=str(home / "stand.so"))
    if home.is_dir():
        return made
    try:
        _compile(compiler, home)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _log.warning("the helper in C could not be compiled: runs are slower", reason=said[-500:])
        return None
    return made


def _fingerprint(compiler: str) -> str:
    digest = hashlib.sha256(repr((compiler, _COMMON, _FIRST, _STAND)).encode())
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _compile(compiler: str, home: Path) -> None:
    """Into a directory beside, renamed when it is whole: another server may be at it too."""
    home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home.parent))
    try:
        for name, options in (("first", _FIRST), ("stand.so", _STAND)):
            argv = [compiler, *_COMMON, "-o", str(draft / name), *options]
            subprocess.run(
                argv,
                cwd=_SOURCES,
                check=True,
                timeout=_SECONDS,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
        try:
            os.rename(draft, home)
        except OSError:
            if not home.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
