"""An ordinary user for servers of the tests, which are often root's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
NOBODY: Final = 23_457
"""No user of a host has this number, so no process or file either."""
_PYTHONS: Final = (
    sys.executable,
    f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}",
)
"""The interpreter of this environment may lie in root's home; the system's of that version serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdinaryUser:
    """`uid` is None where the tests are an ordinary user's already.  `home` is theirs."""

    uid: int | None
    python: tuple[str, ...]
    home: str

    @property
    def environment(self) -> dict[str, str]:
        """What a program of theirs needs to find what the tests find."""
        paths = (path for path in sys.path if "-packages" in path or _ours(path))
        return {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": self.home,
        }


def _ours(path: str) -> bool:
    return Path(path).is_relative_to(ROOT)


def _works(user: OrdinaryUser) -> bool:
    argv = [*user.python, "-c", "import era, uvicorn"]
    try:
        done = subprocess.run(
            argv,
            user=user.uid,
            group=user.uid,
            extra_groups=None if user.uid is None else [],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", **user.environment},
            capture_output=True,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


@pytest.fixture
def ordinary() -> Iterator[OrdinaryUser]:
    with ordinary_user() as user:
        yield user


@contextmanager
def ordinary_user() -> Iterator[OrdinaryUser]:
    """That user, with an interpreter they may run and a directory of their own."""
    uid = NOBODY if os.geteuid() == 0 else None
    home = tempfile.mkdtemp(prefix="era-user-", dir="/dev/shm")
    try:
        if uid is not None:
            os.chown(home, uid, uid)
        for path in _PYTHONS:
            user = OrdinaryUser(uid=uid, python=(path,), home=home)
            if _works(user):
                break
        else:
            pytest.fail(
                f"an ordinary user may run none of {_PYTHONS} with the packages of the tests"
            )
        yield user
    finally:
        shutil.rmtree(home)
