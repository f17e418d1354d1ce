"""What `era doctor` finds: everything a start of the server would meet, without starting one."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import socket
import tempfile
from contextlib import AsyncExitStack
from typing import Any, Final

from era import __version__
from era.assemble import find_runtimes, open_driver
from era.assemble.statedir import StartError, StateDir
from era.config import Settings
from era.errors import EraError, UnavailableError
from era.languages.table import LANGUAGES
from era.runtimes import Runtimes
from era.sandbox.base import BoxSpec, Driver, Program
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.probe import Check, checks
from era.sandbox.refusing import RefusingDriver

LITTLE_DISK: Final = 2 << 30
"""Less free space than this is worth a word: setups and layers take more."""

_TIERS: Final = {
    "microvm": "not part of this version",
    "gvisor": "not part of this version",
}
"""Stronger tiers, and why none of them is in use."""

Report = dict[str, Any]


async def diagnose(settings: Settings) -> Report:
    """The report: `ok` whether the server could start, `checks` in order, what there is to run."""
    surroundings, running = await asyncio.to_thread(_surroundings, settings)
    found = [*await asyncio.to_thread(checks), *surroundings]
    report: Report = {"version": __version__, "state_dir": os.path.abspath(settings.state_dir)}
    report["running"] = running
    async with AsyncExitStack() as stack:
        try:
            runtimes, driver = await _trial(settings, stack)
        except EraError as error:
            found.append(_failed("box", error))
        else:
            found.append(Check(name="box", ok=True, detail="a trial run went well"))
            found += [*_languages(runtimes), _packages(runtimes)]
            if isinstance(driver, NamespacesDriver):
                found.append(_helper(driver))
            report |= {
                "tier": driver.tier,
                "unenforced": list(driver.unenforced),
                "languages": dict(runtimes.tools.versions),
                "interpreters": list(runtimes.notes),
                "python_packages": list(runtimes.packages),
            }
    report["stronger_tiers"] = dict(_TIERS)
    report["checks"] = [_member(check) for check in found]
    report["ok"] = all(check.ok or not check.required for check in found)
    return report


async def plan(settings: Settings) -> Report:
    """The plan of a box that runs a Python program, as it would be carried out."""
    async with AsyncExitStack() as stack:
        runtimes, driver = await _trial(settings, stack)
        if not isinstance(driver, NamespacesDriver):
            raise UnavailableError(message=f"the tier {driver.tier} has no plans")
        program = Program(argv=(runtimes.tools.python, "main.py"))
        box, start = driver.plan(BoxSpec(), program)
        return {"box": dataclasses.asdict(box), "start": dataclasses.asdict(start)}


async def _trial(settings: Settings, stack: AsyncExitStack) -> tuple[Runtimes, Driver]:
    """A driver that has run a program, in a directory of its own: a server may be at work."""
    directory = tempfile.mkdtemp(prefix="era-doctor-")
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    state = StateDir.open(directory)
    stack.callback(state.close)
    runtimes = await find_runtimes(settings, state)
    driver = await open_driver(settings, state, runtimes, settings.port, stack)
    if isinstance(driver, RefusingDriver):
        raise UnavailableError(message=driver.reason, hint=driver.remedy)
    return runtimes, driver


def _failed(name: str, error: EraError) -> Check:
    details = error.extra.get("message")
    words = f"{error.text}: {details}" if details else error.text
    return Check(name=name, ok=False, detail=words, remedy=error.extra.get("hint"))


def _member(check: Check) -> Report:
    return {key: value for key, value in dataclasses.asdict(check).items() if value is not None}


def _surroundings(settings: Settings) -> tuple[list[Check], bool]:
    """What is around the server, and whether one is at work."""
    state, in_use = _state(settings)
    return [state, _disk(settings), _port(settings, in_use), _network()], in_use


def _state(settings: Settings) -> tuple[Check, bool]:
    """Whether the state directory can be used, and whether a server has it now."""
    name = "state directory"
    try:
        in_use = StateDir.in_use(settings.state_dir)
    except StartError as error:
        return _failed(name, error), False
    if in_use:
        detail = f"{settings.state_dir}, in use by a running server"
    elif os.path.isdir(settings.state_dir):
        detail = settings.state_dir
    else:
        detail = f"{settings.state_dir}, made when the server starts"
    return Check(name=name, ok=True, detail=detail), in_use


def _disk(settings: Settings) -> Check:
    path = os.path.abspath(settings.state_dir)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    free = shutil.disk_usage(path).free
    return Check(
        name="disk",
        ok=free >= LITTLE_DISK,
        detail=f"{free >> 20} MiB free",
        required=False,
        remedy="free some space, or choose another AGENT_STATE_DIR",
    )


def _port(settings: Settings, in_use: bool) -> Check:
    name = f"{settings.host} port {settings.port}"
    try:
        address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], address[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
            probe.listen(1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        detail = f"{name}: {reason}"
        remedy = "stop what listens there, or choose another PORT or ERA_HOST"
        # A server that holds the state directory is most likely what listens there.
        return Check(name="address", ok=in_use, detail=detail, remedy=remedy)
    return Check(name="address", ok=True, detail=f"{name} is free")


def _network() -> Check:
    """Whether the host has a way out at all; without one, offline runs still work."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: it asks the routing table.  The address is reserved for documentation.
            probe.connect(("192.0.2.1", 9))
            found = True
        except OSError:
            found = False
    return Check(
        name="network",
        ok=found,
        required=False,
        detail="the host has a route out" if found else "the host has no route out",
        remedy="setups need the registries; offline runs do not",
    )


def _packages(runtimes: Runtimes) -> Check:
    """Which Python packages boxes have."""
    return Check(
        name="python packages",
        ok=runtimes.no_packages is None,
        required=False,
        detail=runtimes.no_packages or ", ".join(runtimes.packages) or "none",
        remedy="run the server on the Python of boxes, or set ERA_PYTHON_PACKAGES=none",
    )


def _helper(driver: NamespacesDriver) -> Check:
    """Whether the dearest steps of a box are in C."""
    return Check(
        name="helper in C",
        ok=driver.has_helper,
        required=False,
        detail="compiled"
        if driver.has_helper
        else "no C compiler that could make it: runs are slower",
        remedy="install gcc (or clang) and the C library's headers, and start the server again",
    )


def _languages(runtimes: Runtimes) -> list[Check]:
    tools = runtimes.tools
    return [
        Check(
            name=language,
            ok=language not in tools.missing,
            required=False,
            detail=tools.missing.get(language) or tools.versions.get(language, "found"),
            remedy="install the server with all its dependencies",
        )
        for language in LANGUAGES
    ]
