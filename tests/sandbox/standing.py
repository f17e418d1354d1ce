"""A driver whose Python boxes stand ready, and one program run there and in a box made on demand."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from era import layout
from era.assemble import parts
from era.config import load
from era.languages import environment, given
from era.languages.table import PYTHON_AHEAD, PYTHON_ENTRY, Launch, launch
from era.runtimes import Runtimes, discover
from era.sandbox.base import Box, BoxSpec, Exit, Limits, Program, Readiness, Warm
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver, _NamespacesBox
from era.sandbox.namespaces.place import Place
from era.sandbox.namespaces.pool import fits
from tests.languages.boxes import place
from tests.sandbox.boxes import native_helper
from tests.sandbox.corpus import Case

LIMITS: Final = Limits(memory_bytes=512 << 20, cpus=2, disk_bytes=64 << 20)
SPEC: Final = BoxSpec(limits=LIMITS, interpreter="python")
_ADDRESS: Final = re.compile(rb"0x[0-9a-f]{6,16}")


class Standing(NamespacesDriver):
    """A driver that tells of the boxes it has ready."""

    @property
    def waiting(self) -> int:
        """How many boxes wait."""
        return sum(len(shelf.waiting) for shelf in self.pool._shelves.values())

    def is_warm(self, box: Box, program: Program) -> bool:
        """Whether `program`, run next in `box`, is run by a Python that stands ready."""
        assert isinstance(box, _NamespacesBox)
        return box.prepared is not None and fits(box.prepared.warm, program)

    @property
    def starting(self) -> bool:
        """Whether the launcher is being started."""
        return self._starting.locked()

    @property
    def opening(self) -> bool:
        """Whether boxes are being opened or closed."""
        return self.openings.busy

    async def lost(self) -> None:
        """Wait until the driver has noticed that its launcher is gone."""
        launcher = self._launcher
        assert launcher is not None
        await asyncio.wait([launcher.lost], timeout=60)

    async def quiet(self) -> None:
        """Wait until nothing of a box that was left is still being taken away."""
        while self.winding_up:
            await asyncio.wait(set(self.winding_up))

    async def fill(self, count: int = 1) -> None:
        """Wait until `count` boxes wait."""
        async with asyncio.timeout(60):
            while self.waiting < count or self.starting:
                await asyncio.sleep(0.005)


def warm_python(runtimes: Runtimes, count: int = 2, modules: Sequence[str] = PYTHON_AHEAD) -> Warm:
    """The interpreter that the service keeps ready."""
    return Warm(
        name="python",
        readiness=Readiness.STANDING,
        argv=(runtimes.tools.python, PYTHON_ENTRY),
        env=environment.base(has_layer=False),
        modules=tuple(modules),
        count=count,
    )


def data_python(runtimes: Runtimes, count: int = 2) -> Warm:
    """The interpreter that the service keeps ready with the packages that boxes have."""
    kept = parts.warm(load({"ERA_READY_BOXES": str(count)}), runtimes.tools)
    return next(warm for warm in kept if warm.name == given.INTERPRETER)


@asynccontextmanager
async def standing_driver(
    directory: str,
    *,
    count: int = 2,
    on_disk: bool = False,
    limits: Limits = LIMITS,
    kind: type[Standing] = Standing,
    wait: bool = True,
    packages: Sequence[str] = (),
    native: bool = True,
) -> AsyncIterator[tuple[Standing, Runtimes]]:
    """A started driver below `directory` whose boxes show what the service's would.  With `packages`
    they have these, and the Python that stands ready has imported them; without `native` no step of
    a box is in C."""
    for name in ("base", "scratch", "images", "runtimes"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    runtimes = discover(os.path.join(directory, "runtimes"), packages=packages)
    place = Place(
        base_dir=os.path.join(directory, "base"),
        scratch_dir=os.path.join(directory, "scratch"),
        images=os.path.join(directory, "images") if on_disk else None,
        helper_python=runtimes.helper_python,
        native=native_helper() if native else None,
    )
    make = data_python if packages else warm_python
    warm = (make(runtimes, count),) if count else ()
    driver = kind(place, runtimes.image, detect(), warm=warm, limits=limits)
    try:
        await driver.start()
        if wait:
            await driver.fill(count)
        yield driver, runtimes
    finally:
        await driver.close()


def python_launch(
    runtimes: Runtimes, code: str, args: Sequence[str] = (), taken: Sequence[str] = ()
) -> Launch:
    """How the service would run `code` beside the session's entries `taken`."""
    return launch(
        "python",
        code,
        args,
        tools=runtimes.tools,
        taken=lambda name: name in taken,
        has_layer=False,
    )


def python_program(
    runtimes: Runtimes,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    **more: object,
) -> Program:
    """The program that runs the entry file."""
    started = python_launch(runtimes, "", args)
    variables, _ = environment.build(started.env, env or {}, {}, has_layer=False)
    return Program(argv=started.argv, env=variables, **more)  # type: ignore[arg-type]


async def run_code(
    driver: Standing, runtimes: Runtimes, code: str | bytes, spec: BoxSpec = SPEC, **more: object
) -> Exit:
    """Run `code` in a box of its own."""
    async with driver.box(spec) as box:
        text = code.encode() if isinstance(code, str) else code
        place(box, {os.path.basename(PYTHON_ENTRY): text})
        return await box.run(python_program(runtimes, **more))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything of a run that a client can see, but for times and sizes."""

    exit_code: int
    signal: str | None
    stdout: bytes
    stderr: bytes
    flags: tuple[bool, ...]
    files: Mapping[str, bytes]
    elsewhere: bytes


async def outcome(driver: Standing, runtimes: Runtimes, case: Case, *, warm: bool) -> Outcome:
    """Run a program of the corpus; `warm` in a box made ahead, else in one made on demand."""
    ready = next(iter(driver.pool._shelves), "")
    spec = BoxSpec(limits=LIMITS, interpreter=ready if warm else "")
    if warm:
        await driver.fill()
    async with driver.box(spec) as box:
        place(box, {**case.files, os.path.basename(PYTHON_ENTRY): case.source})
        program = python_program(
            runtimes, case.args, case.env, stdin=case.stdin, timeout_seconds=case.timeout
        )
        assert driver.is_warm(box, program) == (warm and case.warm)
        ended = await box.run(program)
        files = _files(box)
        found = await box.run(_elsewhere())
    return Outcome(
        exit_code=ended.exit_code,
        signal=ended.signal,
        stdout=_normal(ended.stdout),
        stderr=_normal(ended.stderr),
        flags=(
            ended.timed_out,
            ended.oom_killed,
            ended.cancelled,
            ended.stdout_truncated,
            ended.stderr_truncated,
        ),
        files=files,
        elsewhere=found.stdout,
    )


def _normal(data: bytes) -> bytes:
    """Addresses differ between any two processes."""
    return _ADDRESS.sub(b"0x*", data)


def _elsewhere() -> Program:
    """Lists what a run left outside the workspace."""
    script = (
        f"cd / && find .{layout.HOME} .{layout.TMP} -mindepth 1 -printf '%p %y %m %s\\n' | sort"
    )
    return Program(argv=("/bin/bash", "-c", script), env={"PATH": "/usr/bin:/bin"})


def _files(box: Box) -> dict[str, bytes]:
    """Content of every file in the workspace's upper directory; kind and mode of everything else."""
    found: dict[str, bytes] = {}
    for at, dirs, names, here in os.fwalk(".", dir_fd=box.workspace_fd):
        for name in (*dirs, *names):
            info = os.stat(name, dir_fd=here, follow_symlinks=False)
            text = stat.filemode(info.st_mode).encode()
            if stat.S_ISREG(info.st_mode):
                with open(os.open(name, os.O_RDONLY, dir_fd=here), "rb") as file:
                    text += file.read()
            elif stat.S_ISLNK(info.st_mode):
                text += os.readlink(name, dir_fd=here).encode()
            found[f"{at}/{name}"] = text
    return found
