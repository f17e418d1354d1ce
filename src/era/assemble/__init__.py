"""Builds the service from its settings.  The only room that names concrete parts."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final

import structlog

from era.assemble import mirrors, process, registries, stores
from era.assemble import parts as arguments
from era.assemble.statedir import StartError, StateDir
from era.config import Settings
from era.egress.broker import Broker
from era.egress.gateway import Gateway
from era.egress.policy import HostRule
from era.errors import EraError
from era.runtimes import Runtimes, discover
from era.sandbox.base import BoxSpec, Driver, Program
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.refusing import RefusingDriver
from era.sessions.caches import GoCache
from era.sessions.parts import Parts
from era.sessions.seal import Seal
from era.sessions.service import Sessions
from era.workspace.trees import Trees

__all__ = ["Service", "StartError", "StateDir", "build", "open_driver", "self_test"]

IDLE_SECONDS: Final = 10.0
"""Before work that nobody waits for, and between two looks whether the server is idle."""

_log = structlog.get_logger("era.assemble")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service, and what has to be closed when it ends."""

    sessions: Sessions
    _opened: AsyncExitStack
    _warming: asyncio.Task[None]

    async def close(self) -> None:
        """End what still runs, and let go of everything."""
        self._warming.cancel()
        await asyncio.wait((self._warming,))
        await self.sessions.close(0)
        await self._opened.aclose()


async def build(settings: Settings, port: int) -> Service:
    """Build and start the service; `port` is the one it will listen on, closed to its own boxes.

    Raises:
        StartError: with the cause and the remedy.
        EraError: a part that refuses to work.
    """
    async with AsyncExitStack() as stack:
        state = await asyncio.to_thread(StateDir.open, settings.state_dir)
        stack.callback(state.close)
        runtimes = await find_runtimes(settings, state)
        driver = await open_driver(settings, state, runtimes, port, stack)
        go_cache = GoCache(driver, state.of("go"), runtimes.tools)
        sessions = await _sessions(settings, state, runtimes, driver, go_cache, port, stack)
        await sessions.start()
        warming = asyncio.create_task(_warm(go_cache, sessions, ahead=settings.go_ahead))
        return Service(sessions=sessions, _opened=stack.pop_all(), _warming=warming)


async def _warm(go_cache: GoCache, sessions: Sessions, *, ahead: bool) -> None:
    """Compile Go's standard library when there is nothing else to do; the first Go program does
    not wait for that.  Not `ahead`: the first Go program compiles what is common."""
    if not ahead:
        return
    try:
        for step in (go_cache.warm, go_cache.finish):
            await asyncio.sleep(IDLE_SECONDS)
            while sessions.busy:  # noqa: ASYNC110 - nobody tells when the last run has ended
                await asyncio.sleep(IDLE_SECONDS)
            await step()
        sessions.make_ready()
    except EraError as error:
        _log.error("Go's standard library was not compiled ahead", exc_info=error)


async def find_runtimes(settings: Settings, state: StateDir) -> Runtimes:
    """What boxes run on."""
    root = settings.runtime_root
    if root and not os.path.isdir(root):
        raise StartError(
            "ERA_RUNTIME_ROOT is not a directory",
            "Name the directory that boxes see as their root.",
        )
    runtimes = await asyncio.to_thread(
        discover,
        state.of("runtime"),
        runtime_root=root or None,
        packages=arguments.python_packages(settings),
    )
    if runtimes.no_packages:
        _log.warning("boxes are not given the Python packages", reason=runtimes.no_packages)
    return runtimes


async def open_driver(
    settings: Settings, state: StateDir, runtimes: Runtimes, port: int, stack: AsyncExitStack
) -> Driver:
    """The driver of the strongest tier that may be used and works, started and tried."""
    if settings.isolation not in arguments.TIERS_HERE:
        raise StartError(
            f"the isolation tier {settings.isolation} is not available on this server",
            "Use ERA_ISOLATION=auto or namespaces.",
        )
    try:
        return await _strongest(settings, state, runtimes, port, stack)
    except StartError as error:
        if settings.state_driver != "worker":
            raise
        # Nobody reads what a container's service says when it ends: clients are told.
        _log.error("code is refused", reason=error.text)
        return RefusingDriver(error.text, process.REMEDY)


async def _strongest(
    settings: Settings, state: StateDir, runtimes: Runtimes, port: int, stack: AsyncExitStack
) -> Driver:
    if settings.isolation == "process":
        return await process.open_driver(settings, state, runtimes, port, stack)
    try:
        driver = await _namespaces(settings, state, runtimes, port, stack)
        await self_test(driver, runtimes)
    except StartError as error:
        if settings.isolation != "auto" or not process.allowed(settings):
            raise
        _log.warning("no namespaces: the tier is process", reason=error.text)
        return await process.open_driver(settings, state, runtimes, port, stack)
    return driver


async def _namespaces(
    settings: Settings, state: StateDir, runtimes: Runtimes, port: int, stack: AsyncExitStack
) -> NamespacesDriver:
    broker = Broker(upstream_proxy=mirrors.find(settings).upstream)
    stack.callback(broker.close)
    place = arguments.place(state.of("boxes"), state.of("native"), runtimes.helper_python)
    hosts = await asyncio.to_thread(_registries, settings, runtimes)
    gateway = Gateway(broker, arguments.policies(settings, port, hosts))
    driver = NamespacesDriver(
        place,
        runtimes.image,
        detect(),
        gateway,
        warm=arguments.warm(settings, runtimes.tools),
        limits=arguments.box_limits(settings),
    )
    stack.push_async_callback(driver.close)
    try:
        await driver.start()
    except EraError as error:
        raise no_isolation(_reason(error)) from error
    return driver


def _registries(settings: Settings, runtimes: Runtimes) -> tuple[HostRule, ...]:
    try:
        return registries.find(settings, runtimes).rules
    except ValueError as error:
        raise StartError(
            f"a registry or import host cannot be understood: {error}",
            "See ERA_PIP_INDEX_URL, ERA_NPM_REGISTRY, ERA_GOPROXY and ERA_DENO_IMPORT_HOSTS.",
        ) from None


async def self_test(driver: Driver, runtimes: Runtimes) -> None:
    """Run a program in a box, as every run will."""
    program = Program(argv=(runtimes.tools.python, "-I", "-c", "print('ok')"))
    try:
        async with driver.box(BoxSpec()) as box:
            ended = await box.run(program)
    except EraError as error:
        raise no_isolation(_reason(error)) from error
    if ended.stdout != b"ok\n":
        words = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise no_isolation(f"a trial run ended with exit code {ended.exit_code}: {words}")


def _reason(error: EraError) -> str:
    """What a box failed at, in the most telling words there are."""
    return str(error.extra.get("message") or error.extra.get("details") or error.text)


def no_isolation(reason: str) -> StartError:
    """The refusal of a host on which no tier works."""
    return StartError(
        f"no isolation tier available: {reason}",
        "Run `era doctor`; it names what is missing and how to add it.",
    )


async def _sessions(
    settings: Settings,
    state: StateDir,
    runtimes: Runtimes,
    driver: Driver,
    go_cache: GoCache,
    port: int,
    stack: AsyncExitStack,
) -> Sessions:
    """The sessions room on the stores that the settings name."""
    records = await stores.open_records(settings, state)
    stack.push_async_callback(records.close)
    blobs = await stores.open_blobs(settings, state, records)
    stack.push_async_callback(blobs.close)
    seal = _seal(settings, state)
    public = mirrors.find(settings).mirrors.public()
    parts = Parts(
        records=records,
        blobs=blobs,
        driver=driver,
        trees=Trees(root=state.of("trees"), records=records, blobs=blobs, owner=driver.owner),
        tools=replace(runtimes.tools, npm_registry=public.npm_registry),
        seal=seal,
        cluster=await stores.cluster(settings, state, records, seal, port),
        layers_dir=state.of("layers"),
        programs_dir=state.of("programs"),
        clock=arguments.clock,
        go_cache=go_cache,
        modules_dir=state.of("deno"),
        npm_dir=state.of("npm"),
        kept_vms_dir=state.of("kept-vms"),
        admission=arguments.admission(settings, driver),
    )
    return Sessions(parts, arguments.limits(settings))


def _seal(settings: Settings, state: StateDir) -> Seal:
    if settings.secret_key:
        return Seal(settings.secret_key)
    return Seal.from_file(state.of("secret.key"))
