"""Code of each language in a real box: launched as the service launches it, without the service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from era import layout
from era.languages import environment
from era.languages.table import Launch, command_launch, launch
from era.runtimes import Runtimes, discover
from era.sandbox.base import Bind, Box, BoxSpec, Driver, Egress, Exit, Limits, Overlay, Program
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver, Place

LIMITS = Limits(memory_bytes=2 << 30, cpus=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A driver and the runtimes its boxes show; `go_cache` is the compiled standard library."""

    driver: Driver
    runtimes: Runtimes
    go_cache: str | None = None

    async def run(
        self,
        language: str,
        code: str,
        *args: str,
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        layer: str | None = None,
        timeout: float = 60,
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
        return await self.start(started, files=files, env=env, layer=layer, timeout=timeout)

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
    ) -> Exit:
        """Run what `launch` gave in a fresh box."""
        has_layer = layer is not None
        variables, _ = environment.build(started.env, env or {}, {}, has_layer=has_layer)
        binds = (Bind(source=layer, target=layout.LAYER),) if layer else ()
        overlays = self._overlays(started, layer)
        spec = BoxSpec(limits=LIMITS, overlays=overlays, binds=binds)
        async with self.driver.box(spec) as box:
            texts = {name: text.encode() for name, text in (files or {}).items()}
            place(box, {**texts, **started.files})
            return await box.run(Program(argv=started.argv, env=variables, timeout_seconds=timeout))

    def _overlays(self, started: Launch, layer: str | None) -> tuple[Overlay, ...]:
        overlays = []
        if started.uses_go_cache:
            lowers = [f"{layer}/go/cache"] if layer and os.path.isdir(f"{layer}/go/cache") else []
            lowers += [self.go_cache] if self.go_cache else []
            overlays.append(Overlay(target=environment.GO_CACHE, lowers=tuple(lowers)))
        if started.uses_deno_cache:
            overlays.append(Overlay(target=environment.DENO_CACHE))
        return tuple(overlays)


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
async def bench(directory: str, path: str, egress: Egress | None = None) -> AsyncIterator[Bench]:
    """A namespaces driver below `directory` whose boxes show what `discover` finds."""
    for name in ("base", "scratch", "runtimes"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    runtimes = discover(os.path.join(directory, "runtimes"), path=path)
    driver = NamespacesDriver(
        Place(
            base_dir=os.path.join(directory, "base"),
            scratch_dir=os.path.join(directory, "scratch"),
            images=None,
            helper_python=runtimes.helper_python,
        ),
        runtimes.image,
        detect(),
        egress,
    )
    await driver.start()
    try:
        yield Bench(driver=driver, runtimes=runtimes)
    finally:
        await driver.close()
