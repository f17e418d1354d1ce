"""The `process` tier: when it may be used, and its driver."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Final

from era.assemble.statedir import StartError, StateDir
from era.config import Settings
from era.errors import EraError
from era.runtimes import Runtimes
from era.sandbox.base import BoxSpec, Program
from era.sandbox.process import guard
from era.sandbox.process.driver import ProcessDriver

REMEDY: Final = (
    "Give the server the rights that `era doctor` names; or, where the platform gives each session"
    " a machine of its own, set ERA_PLACEMENT=session and ERA_ALLOW_PROCESS_TIER=1."
)


def allowed(settings: Settings) -> bool:
    """Whether the operator has said that the platform separates sessions, and accepts the tier."""
    return settings.allow_process_tier and settings.placement == "session"


async def open_driver(
    settings: Settings, state: StateDir, runtimes: Runtimes, port: int, stack: AsyncExitStack
) -> ProcessDriver:
    """The driver, started and tried.

    Raises:
        StartError: it may not be used here, or does not work.
    """
    check(settings)
    guard.protect()
    driver = ProcessDriver(
        state.of("boxes/process"),
        runtimes.image,
        python=runtimes.helper_python,
        fixed=state.of("boxes/current"),
        closed_ports=frozenset({port}),
        guarded=True,
    )
    stack.push_async_callback(driver.close)
    try:
        await driver.start()
        async with driver.box(BoxSpec()) as box:
            program = Program(argv=(runtimes.tools.python, "-I", "-c", "print('ok')"))
            ended = await box.run(program)
    except (EraError, OSError) as error:
        raise StartError("no isolation tier available: no program can be run", REMEDY) from error
    if ended.stdout != b"ok\n":
        raise StartError(f"no isolation tier available: exit code {ended.exit_code}", REMEDY)
    return driver


def check(settings: Settings) -> None:
    """Raises StartError unless the operator has said all that is needed."""
    if not allowed(settings):
        raise StartError(
            "the isolation tier process needs ERA_ALLOW_PROCESS_TIER=1 and ERA_PLACEMENT=session:"
            " it is no boundary between sessions",
            "Set both where the platform gives each session a machine of its own; else use"
            " ERA_ISOLATION=auto.",
        )
    if os.geteuid() == 0:
        raise StartError(
            "the isolation tier process is not for a server that runs as root: programs would too",
            "Run the server as an ordinary user, as its image does.",
        )
    if settings.runtime_root:
        raise StartError(
            "ERA_RUNTIME_ROOT has no use in the isolation tier process: nothing is mounted there",
            "Unset ERA_RUNTIME_ROOT.",
        )
