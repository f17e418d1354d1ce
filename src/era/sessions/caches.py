"""Go's compiled standard library: built once for all boxes, offline, inside a box.

A build cache is complete or not there: it is made beside its place and renamed.  Boxes see it
read-only, under a layer of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from typing import Final

from era import jsontext
from era.errors import InternalError
from era.languages import environment
from era.languages.scripts import GO_LIBRARY
from era.languages.table import Tools
from era.sandbox.base import Bind, BoxSpec, Driver, Limits, Program

COMMON: Final = (
    *("bufio", "bytes", "cmp", "context", "crypto/rand", "crypto/sha256", "embed"),
    *("encoding/base64", "encoding/csv", "encoding/hex", "encoding/json", "errors", "flag", "fmt"),
    *("io", "io/fs", "iter", "log", "log/slog", "maps", "math", "math/big", "math/rand"),
    *("net/http", "net/url", "os", "os/exec", "os/signal", "path/filepath", "reflect", "regexp"),
    *("runtime", "slices", "sort", "strconv", "strings", "sync", "sync/atomic", "testing"),
    *("text/template", "time", "unicode", "unicode/utf8"),
)
"""What most programs import: compiled first, so that the first one need not wait for the rest."""

_MODES: Final = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """What the building of a cache may use."""

    box: Limits = field(default_factory=lambda: Limits(memory_bytes=2 << 30, cpus=2))
    timeout_seconds: float = 600.0


class GoCache:
    """The build cache for one Go version, below `directory`, which is the caller's."""

    def __init__(
        self, driver: Driver, directory: str, tools: Tools, limits: BuildLimits | None = None
    ) -> None:
        self._driver = driver
        self._directory = directory
        self._tools = tools
        self._limits = limits or BuildLimits()
        name = cache_key(tools)
        self._stages = tuple(os.path.join(directory, f"{name}.{stage}") for stage in _STAGES)
        self._building = asyncio.Lock()

    def lower(self) -> str | None:
        """The directory to lay below `environment.GO_CACHE`; None when nothing is built yet."""
        return next((stage for stage in reversed(self._stages) if os.path.isdir(stage)), None)

    @property
    def complete(self) -> bool:
        """Whether the whole standard library is in it."""
        return os.path.isdir(self._stages[-1])

    async def warm(self) -> None:
        """Compile the common packages, unless that was done before; drop other versions' caches.

        To be called before the first box: what is dropped is in no box's view.

        Raises:
            InternalError: `execution_failed`, when they do not compile.
        """
        async with self._building:
            await asyncio.to_thread(self._sweep)
            if self.lower() is None:
                await self._build(self._stages[0], COMMON)

    async def finish(self) -> None:
        """Compile all of the standard library, unless that was done before.

        Raises:
            InternalError: `execution_failed`, when it does not compile.
        """
        async with self._building:
            if not self.complete:
                await self._build(self._stages[-1], ("std",))

    async def _build(self, place: str, packages: tuple[str, ...]) -> None:
        if "go" in self._tools.missing:
            return
        draft = f"{place}.tmp"
        await asyncio.to_thread(_empty, draft)
        spec = BoxSpec(
            limits=self._limits.box,
            binds=(Bind(source=draft, target=environment.GO_CACHE, writable=True),),
        )
        tools = self._tools
        program = Program(
            argv=(tools.bash, "-c", GO_LIBRARY, "go", tools.go, tools.go_release, *packages),
            env={**environment.base(has_layer=False), "GOCACHE": environment.GO_CACHE},
            timeout_seconds=self._limits.timeout_seconds,
        )
        async with self._driver.box(spec) as box:
            if box.owner is not None:
                os.chown(draft, box.owner, box.owner)
            ended = await box.run(program)
        if ended.exit_code != 0:
            said = ended.stderr.decode(errors="replace")[-2000:]
            raise InternalError("execution_failed", message=f"Go's library did not compile: {said}")
        os.rename(draft, place)

    def _sweep(self) -> None:
        """Remove caches of other versions, earlier stages and what a crash left half done."""
        keep = self.lower()
        for name in os.listdir(self._directory):
            path = os.path.join(self._directory, name)
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)


_STAGES: Final = ("common", "std")


def cache_key(tools: Tools) -> str:
    """What the entries of a cache depend on: the toolchain and the settings of every build."""
    env = environment.base(has_layer=False)
    settings = {name: value for name, value in env.items() if name.startswith(("GO", "CGO"))}
    recipe = [tools.versions.get("go", ""), tools.platform, settings, GO_LIBRARY, COMMON]
    return "go-" + hashlib.sha256(jsontext.dumps(recipe).encode()).hexdigest()[:16]


def _empty(directory: str) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory, mode=_MODES)
