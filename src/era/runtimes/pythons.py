"""The Python interpreters of this host, and which of them starts quickest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from typing import Any, Final

MIN_PYTHON: Final = (3, 11)
_TIMINGS: Final = 3
"""Starts of each interpreter that are timed; the quickest counts, so a busy moment does not."""
_FOREIGN_COST: Final = 1.25
"""How much quicker an interpreter from outside /usr must be to be worth its place."""
_PROBE_SECONDS: Final = 20
_PROBE: Final = (
    "import json,os,site,sys,sysconfig;"
    "print(json.dumps({'version':list(sys.version_info[:3]),"
    "'executable':os.path.realpath(getattr(sys,'_base_executable',sys.executable)),"
    "'prefix':os.path.realpath(sys.base_prefix),"
    "'packages':[p for p in site.getsitepackages() if os.path.isdir(p)],"
    "'shared':bool(sysconfig.get_config_var('Py_ENABLE_SHARED')),"
    "'virtual':sys.prefix!=sys.base_prefix}))"
)
_FACTS: Final = {"version", "executable", "packages", "prefix", "shared", "virtual"}
_NAME: Final = re.compile(r"python3(\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """An interpreter; `seconds` is the quickest start seen, 0 when it was not started.

    `shared` tells that it needs a library from its own prefix; `packages` are the directories, in
    order, where it looks for packages.
    """

    executable: str
    prefix: str
    version: tuple[int, int, int]
    shared: bool = False
    seconds: float = 0.0
    packages: tuple[str, ...] = ()

    @property
    def release(self) -> str:
        """Its version as text."""
        return ".".join(map(str, self.version))

    @property
    def is_system(self) -> bool:
        """Whether it comes with /usr, which boxes see where it is."""
        return self.prefix == "/usr" or self.prefix.startswith("/usr/")


def find_pythons(path: str) -> list[Python]:
    """The interpreters of the host that boxes can use, the best first.

    Best is the quickest to start, and of two much alike the system's own; one whose shared library
    may not be found from another place comes last.  Wrappers stand for the interpreter behind them;
    virtual environments do not count.
    """
    found: dict[str, Python] = {}
    for candidate in _candidates(path):
        python = _probe(candidate, found)
        if python is not None:
            found[python.executable] = python
    return sorted(found.values(), key=_cost)


def _cost(python: Python) -> tuple[bool, float]:
    bias = 1.0 if python.is_system else _FOREIGN_COST
    return python.shared and not python.is_system, python.seconds * bias


def _candidates(path: str) -> Iterator[str]:
    """Programs named like an interpreter, each file once."""
    directories = [*path.split(":"), "/usr/local/bin", "/usr/bin", f"{sys.base_prefix}/bin"]
    seen = set()
    for directory in dict.fromkeys(directories):
        if not os.path.isabs(directory) or not os.path.isdir(directory):
            continue
        for name in sorted(filter(_NAME.fullmatch, os.listdir(directory))):
            file = os.path.join(directory, name)
            real = os.path.realpath(file)
            if real not in seen and os.access(file, os.X_OK):
                seen.add(real)
                yield file


def _probe(candidate: str, found: dict[str, Python]) -> Python | None:
    facts = _ask(candidate)
    if facts is None or tuple(facts["version"][:2]) < MIN_PYTHON or facts["virtual"]:
        return None
    executable = facts["executable"]
    if executable in found or not os.access(executable, os.X_OK):
        return None
    major, minor, micro = facts["version"]
    return Python(
        executable=executable,
        prefix=facts["prefix"],
        version=(major, minor, micro),
        shared=facts["shared"],
        packages=tuple(facts["packages"]),
        seconds=min(_start_seconds(executable) for _ in range(_TIMINGS)),
    )


def _ask(candidate: str) -> dict[str, Any] | None:
    try:
        done = subprocess.run(
            [candidate, "-I", "-S", "-c", _PROBE],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            env={"PATH": "/usr/bin:/bin"},
            check=True,
        )
        facts = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return facts if isinstance(facts, dict) and facts.keys() >= _FACTS else None


def _start_seconds(executable: str) -> float:
    started = time.perf_counter()
    subprocess.run(
        [executable, "-I", "-S", "-c", "pass"],
        check=False,
        env={},
        stdin=subprocess.DEVNULL,
        timeout=_PROBE_SECONDS,
    )
    return time.perf_counter() - started


def python_below(root: str) -> Python | None:
    """The newest interpreter in a directory that will be the root of boxes, by its name there.

    It is not started: its libraries may be found only where it will be.
    """
    newest = (0, "")
    for directory in ("usr/local/bin", "usr/bin", "bin"):
        for path in glob(os.path.join(glob_escape(root), directory, "python3.*")):
            minor = re.fullmatch(r"python3\.(\d+)", os.path.basename(path))
            if minor and int(minor[1]) >= MIN_PYTHON[1]:
                newest = max(newest, (int(minor[1]), path[len(root) :]))
    if not newest[0]:
        return None
    prefix = os.path.dirname(os.path.dirname(newest[1]))
    return Python(
        executable=newest[1],
        prefix=prefix if prefix != "/" else "/usr",
        version=(MIN_PYTHON[0], newest[0], 0),
    )


def glob_escape(path: str) -> str:
    """`path` as a pattern that matches itself."""
    return re.sub(r"([*?[])", r"[\1]", path)
