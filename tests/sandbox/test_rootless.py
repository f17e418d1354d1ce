"""The same promises, guards and attacks where the service is an ordinary user.

Each module runs again in a test process of its own under a user id that owns nothing.  There are no
cgroups there, so what needs them is skipped, by name; everything else must hold.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 23_456
"""No user of a host has this number, so no process or file either."""
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
MODULES = (
    "test_attacks.py",
    "test_attacks_files.py",
    "test_attacks_floods.py",
    "test_attacks_resources.py",
    "test_cgroups.py",
    "test_crash.py",
    "test_dial.py",
    "test_egress.py",
    "test_inside.py",
    "test_inside_ahead.py",
    "test_namespaces_contract.py",
    "test_native.py",
    "test_networks.py",
    "test_output.py",
    "test_plan.py",
    "test_run.py",
    "test_scarce.py",
    "test_syscalls.py",
    "test_warm.py",
    "test_warm_corpus.py",
    "test_warm_data.py",
    "../attacks/test_crash.py",
    "../attacks/test_files.py",
    "../attacks/test_kernel.py",
    "../sessions/test_builds.py",
)
"""Beside this module, or relative to it."""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the suite is an ordinary user's already")


@pytest.fixture
def home() -> Iterator[str]:
    """A directory of that user's; temporary directories of root's lie where it cannot go."""
    directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    os.chown(directory, NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


PYTHONS = (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
"""The interpreter of this environment may lie in root's home; the system's of that version serves."""


def ours(path: str) -> bool:
    """Whether `path` is in this repository."""
    return Path(path).is_relative_to(REPOSITORY)


def _as_nobody(home: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=REPOSITORY,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "TMPDIR": home,
            "HYPOTHESIS_STORAGE_DIRECTORY": f"{home}/hypothesis",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(
                path for path in sys.path if "-packages" in path or ours(path)
            ),
        },
        capture_output=True,
        text=True,
    )


@pytest.fixture
def python(home: str) -> str:
    """An interpreter that user may run, with the packages of the tests."""
    for path in PYTHONS:
        try:
            if _as_nobody(home, path, "-c", "import era, pytest, seccompy").returncode == 0:
                return path
        except PermissionError:
            continue
    pytest.fail(f"an ordinary user may run none of {PYTHONS} with the packages of the tests")


def test_user_namespaces_are_allowed(home: str, python: str) -> None:
    """Without them there is no rootless mode at all: say so, rather than fail in every test."""
    code = "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0"
    assert _as_nobody(home, python, "-c", code).returncode == 0, (
        "this host forbids user namespaces to ordinary users "
        "(kernel.apparmor_restrict_unprivileged_userns or kernel.unprivileged_userns_clone)"
    )


def test_no_module_is_forgotten() -> None:
    there = {path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name}
    assert {module for module in MODULES if "/" not in module} == there


@pytest.mark.parametrize("module", MODULES)
def test_it_holds_for_an_ordinary_user(home: str, python: str, module: str) -> None:
    options = ("-q", "-p", "no:cacheprovider", "--basetemp", f"{home}/t", "-n", "0")
    done = _as_nobody(home, python, "-m", "pytest", *options, str(HERE / module))
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 2
