"""Code of each language in a real box: launched as the service launches it, without the service."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from era import layout
from era.assemble import parts
from era.config import load
from era.languages import environment
from era.languages.table import Launch, command_launch, launch
from era.runtimes import Runtimes, discover
from era.sandbox.base import Bind, Box, BoxSpec, Egress, Exit, Limits, Overlay, Program, Warm
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.place import Place
from era.sandbox.namespaces.pool import ANY
from era.sessions import builds
from era.sessions.settings import ProgramLimits
from tests.sandbox.boxes import native_helper, warm_up

LIMITS = Limits(memory_bytes=2 << 30, cpus=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A driver and the runtimes its boxes show; `go_cache` is the compiled standard library."""

    driver: NamespacesDriver
    runtimes: Runtimes
    go_cache: str | None = None
    ahead: bool = False
    """Programs run in boxes made ahead, with the session's files mounted late, as the service does."""

    async def run(
        self,
        language: str,
        code: str,
        *args: str,
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        layer: str | None = None,
        timeout: float = 60,
        stdin: bytes = b"",
    ) -> Exit:
        """Run code beside the session files `files`; `layer` is a setup's result on the host."""
        started = launch(
            language,
            code,
            args,
            tools=self.runtimes.tools,
            taken=lambda name: any(path.split("/")[0] == name for path in files or {}),
            has_layer=layer is not None,
        )
        return await self.start(
            started, files=files, env=env, layer=layer, timeout=timeout, stdin=stdin
        )

    async def shell(
        self,
        command: str,
        *,
        language: str | None = None,
        files: Mapping[str, str] | None = None,
        layer: str | None = None,
    ) -> Exit:
        """Run a shell command."""
        started = command_launch(
            command, tools=self.runtimes.tools, language=language, has_layer=layer is not None
        )
        return await self.start(started, files=files, layer=layer)

    async def start(
        self,
        started: Launch,
        *,
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        layer: str | None = None,
        timeout: float = 60,
        stdin: bytes = b"",
    ) -> Exit:
        """Run what `launch` gave in a fresh box."""
        has_layer = layer is not None
        variables, _ = environment.build(started.env, env or {}, {}, has_layer=has_layer)
        binds = (Bind(source=layer, target=layout.LAYER),) if layer else ()
        overlays = self._overlays(started, layer)
        texts = {name: text.encode() for name, text in (files or {}).items()}
        program = Program(argv=started.argv, env=variables, timeout_seconds=timeout, stdin=stdin)
        spec = BoxSpec(
            limits=LIMITS, overlays=overlays, binds=binds, interpreter=started.interpreter
        )
        if not self.ahead:
            return await self._start(started, spec, program, env or {}, texts)
        with tempfile.TemporaryDirectory(prefix="era-session-") as tree:
            write_tree(tree, texts, self.driver.owner)
            spec = replace(spec, workspace=(tree,) if texts else ())
            return await self._start(started, spec, program, env or {}, {})

    async def _start(
        self,
        started: Launch,
        spec: BoxSpec,
        program: Program,
        env: Mapping[str, str],
        files: Mapping[str, bytes],
    ) -> Exit:
        async def perform(box: Box, program: Program) -> Exit:
            place(box, {**files, **started.files})
            return await box.run(program)

        async with self._made(started, spec, program, env, perform) as made:
            if made.path is not None:
                spec, program = builds.started(made, spec, program)
            elif made.ended is not None:
                return made.ended
            await self._warm_up(spec.interpreter)
            async with self.driver.box(spec) as box:
                return builds.together(made.ended, await perform(box, program))

    @asynccontextmanager
    async def _made(
        self,
        started: Launch,
        spec: BoxSpec,
        program: Program,
        env: Mapping[str, str],
        perform: builds.Perform,
    ) -> AsyncIterator[builds.Made]:
        """The program that has to be made for a launch, if any."""
        wanted = builds.to_build(started, program, env)
        if wanted is None:
            yield builds.Made()
            return
        await self._warm_up(ANY)
        with tempfile.TemporaryDirectory(prefix="era-programs-") as directory:
            room = builds.Builds(directory, self.driver, ProgramLimits())
            with ExitStack() as held:
                yield await room.ready(wanted, spec, perform, held)
            await room.close()

    async def _warm_up(self, interpreter: str) -> None:
        if self.ahead:
            await warm_up(self.driver, interpreter if interpreter in READY else ANY)

    def _overlays(self, started: Launch, layer: str | None) -> tuple[Overlay, ...]:
        overlays = []
        if started.uses_go_cache:
            lowers = [f"{layer}/go/cache"] if layer and os.path.isdir(f"{layer}/go/cache") else []
            lowers += [self.go_cache] if self.go_cache else []
            overlays.append(Overlay(target=environment.GO_CACHE, lowers=tuple(lowers)))
        if started.uses_deno_cache:
            overlays.append(Overlay(target=environment.DENO_CACHE))
        return tuple(overlays)


READY = ("python", "node", "typescript")
"""Languages whose interpreter waits; other programs get a box alone."""


def kept_ready(runtimes: Runtimes) -> tuple[Warm, ...]:
    """What the service keeps ready, two of each."""
    return parts.warm(load({"ERA_READY_BOXES": "2"}), runtimes.tools)


def write_tree(root: str, files: Mapping[str, bytes], owner: int | None) -> None:
    """Session files as the service has them on disk: below `root`, owned by the boxes' user."""
    for path, content in files.items():
        target = os.path.join(root, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
    os.chmod(root, 0o755)
    if owner is not None:
        for at, _, names in os.walk(root):
            for path in (at, *(os.path.join(at, name) for name in names)):
                os.chown(path, owner, owner)


def place(box: Box, files: Mapping[str, bytes]) -> None:
    """Put files (path to content) into the workspace of a box before a run."""
    for path, content in files.items():
        directory = "."
        for part in path.split("/")[:-1]:
            directory = f"{directory}/{part}"
            try:
                os.mkdir(directory, 0o755, dir_fd=box.workspace_fd)
                own(box, directory)
            except FileExistsError:
                pass
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=box.workspace_fd)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        own(box, path)


def own(box: Box, path: str) -> None:
    """Give a file of the workspace to the box's user."""
    if box.owner is not None:
        os.chown(path, box.owner, box.owner, dir_fd=box.workspace_fd)


@asynccontextmanager
async def bench(
    directory: str, path: str, egress: Egress | None = None, *, ahead: bool = False
) -> AsyncIterator[Bench]:
    """A namespaces driver below `directory` whose boxes show what `discover` finds; `ahead` keeps
    boxes ready as the service does."""
    for name in ("base", "scratch", "runtimes"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    runtimes = discover(os.path.join(directory, "runtimes"), path=path)
    driver = NamespacesDriver(
        Place(
            base_dir=os.path.join(directory, "base"),
            scratch_dir=os.path.join(directory, "scratch"),
            images=None,
            helper_python=runtimes.helper_python,
            native=native_helper(),
        ),
        runtimes.image,
        detect(),
        egress,
        warm=kept_ready(runtimes) if ahead else (),
        limits=LIMITS,
    )
    await driver.start()
    try:
        yield Bench(driver=driver, runtimes=runtimes, ahead=ahead)
    finally:
        await driver.close()
