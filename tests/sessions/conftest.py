"""A whole sessions room: on stores in memory and on disk, with processes without a box."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from era.languages.table import LANGUAGES, Tools
from era.models import NewSession, RunRequest, RunResult, SessionView, SetupSpec, SetupState
from era.runtimes import discover
from era.sandbox.base import Box, BoxSpec, Driver, Egress, RootImage, Warm
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.place import Place
from era.sessions.caches import GoCache
from era.sessions.parts import Parts
from era.sessions.seal import Seal
from era.sessions.service import Sessions
from era.sessions.settings import SessionLimits
from era.storage.base import Blobs, Records
from era.storage.blobs.local import LocalBlobs
from era.storage.records.sqlite import SqliteRecords
from era.workspace.trees import Trees
from tests import golibrary
from tests.fakes.blobs import MemoryBlobs
from tests.fakes.driver import ProcessDriver
from tests.fakes.records import MemoryRecords
from tests.languages.boxes import kept_ready
from tests.sandbox.boxes import native_helper
from tests.sessions import workshop as workshops
from tests.sessions.workshop import Workshop

INSTALLER = """#!/bin/bash
# Stands for the package installer: "installs" each package named after `--`.
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in --target) target=$2; shift;; --target=*) target=${1#*=};; esac; shift
done
shift
mkdir -p "$target"
for package in "$@"; do
  case "$package" in
    broken) echo "no such package: broken" >&2; exit 7;;
    slow) printf 'downloading\\rdownloading slow\\n'; until [ -e "$GATE" ]; do sleep 0.02; done;;
  esac
  echo "installing $package"
  echo "VERSION = '$RANDOM$RANDOM-${FLAVOUR:-plain}'" > "$target/$package.py"
  mkdir -p "$target/$package-1.0.dist-info"
done
"""


class Clock:
    """Unix milliseconds that move on by themselves and can be moved further."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms


@dataclass
class Room:
    """A sessions room, and what it is made of."""

    parts: Parts
    limits: SessionLimits
    clock: Clock
    sessions: Sessions = field(init=False)

    @property
    def records(self) -> Records:
        return self.parts.records

    @property
    def blobs(self) -> Blobs:
        return self.parts.blobs

    async def start(self) -> None:
        self.sessions = Sessions(self.parts, self.limits)
        await self.sessions.start()

    async def restart(self, **changes: object) -> None:
        """Another server on the same stores, with other limits."""
        await self.sessions.close(0)
        self.limits = replace(self.limits, **changes)  # type: ignore[arg-type]
        await self.start()

    async def restart_setups(self, **changes: object) -> None:
        """Another server with other limits of setups."""
        await self.restart(setups=replace(self.limits.setups, **changes))  # type: ignore[arg-type]

    async def create(self, session_id: str = "s", **fields: object) -> SessionView:
        fields = {"language": "python", **fields}
        return await self.sessions.create(NewSession(id=session_id, **fields))  # type: ignore[arg-type]

    async def run(self, code: str | None, session_id: str = "s", **fields: object) -> RunResult:
        request = RunRequest(code=code, **fields)  # type: ignore[arg-type]
        return await self.sessions.run(session_id, request)

    async def command(self, command: str, session_id: str = "s", **fields: object) -> RunResult:
        request = RunRequest(command=command, **fields)  # type: ignore[arg-type]
        return await self.sessions.run(session_id, request)

    async def put(self, path: str, content: bytes, session_id: str = "s") -> None:
        await self.sessions.put_file(session_id, path, chunks(content))

    async def content(self, path: str, session_id: str = "s") -> bytes:
        opened = await self.sessions.open_file(session_id, path)
        return b"".join([chunk async for chunk in opened.read()])

    async def paths(self, session_id: str = "s") -> list[str]:
        return [str(entry.path) for entry in (await self.sessions.files(session_id)).items]

    async def settled(self, session_id: str = "s") -> SetupState:
        """The setup once it has finished, and its layer is archived and compiled."""
        await until(lambda: self._finished(session_id))
        await until(lambda: not self.sessions._layers.busy)
        return await self.sessions.setup(session_id)

    async def _finished(self, session_id: str) -> bool:
        return (await self.sessions.setup(session_id)).status.finished


@dataclass
class World(Room):
    """A room without boxes; `stored` is everything that its records hold."""

    driver: ProcessDriver
    stored: Callable[[], bytes]


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 1000):
        yield content[at : at + 1000]


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait for something that happens by itself; a test that waits in vain is ended by its limit."""
    while True:
        found = condition()
        if isinstance(found, bool):
            if found:
                return
        elif await found:
            return
        await asyncio.sleep(0.01)


def setup_of(**fields: object) -> SetupSpec:
    return SetupSpec(**fields)  # type: ignore[arg-type]


@pytest.fixture
def gate() -> Iterator[Path]:
    """A path that programs wait for; outside of /tmp, which boxes have of their own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "gate"


@pytest.fixture
def installer(tmp_path: Path) -> Path:
    path = tmp_path / "uv"
    path.write_text(INSTALLER)
    path.chmod(0o755)
    return path


@pytest.fixture(params=["memory", "disk"])
async def world(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path: Path, installer: Path
) -> AsyncIterator[World]:
    clock = Clock()
    async with AsyncExitStack() as stack:
        records, blobs, stored = _stores(request.param, tmp_path / "stores", clock)
        stack.push_async_callback(records.close)
        stack.push_async_callback(blobs.close)
        driver = ProcessDriver(str(tmp_path))
        stack.push_async_callback(driver.close)
        for name in ("layers", "programs"):
            (tmp_path / name).mkdir()
        parts = Parts(
            records=records,
            blobs=blobs,
            driver=driver,
            trees=Trees(root=str(tmp_path / "trees"), records=records, blobs=blobs),
            tools=Tools(
                uv=str(installer),
                versions={"python": "3.11.0"},
                missing={name: "not in this test" for name in LANGUAGES if name != "python"},
            ),
            seal=Seal("a secret for tests"),
            layers_dir=str(tmp_path / "layers"),
            programs_dir=str(tmp_path / "programs"),
            clock=clock,
        )
        world = World(
            parts=parts, limits=SessionLimits(), clock=clock, driver=driver, stored=stored
        )
        await world.start()
        yield world
        await world.sessions.close(0)
        assert not driver.boxes


def _stores(kind: str, directory: Path, clock: Clock) -> tuple[Records, Blobs, Callable[[], bytes]]:
    def seconds() -> float:
        return clock() / 1000

    if kind == "memory":
        memory = MemoryRecords()
        return memory, MemoryBlobs(clock=seconds), lambda: repr(vars(memory)).encode()
    records = SqliteRecords(str(directory / "era.db"))
    return (
        records,
        LocalBlobs(str(directory / "blobs"), clock=seconds),
        lambda: b"".join(path.read_bytes() for path in directory.glob("era.db*")),
    )


class WatchedDriver(NamespacesDriver):
    """Remembers what boxes were asked for."""

    def __init__(
        self, place: Place, image: RootImage, egress: Egress | None, warm: Sequence[Warm] = ()
    ) -> None:
        super().__init__(place, image, detect(), egress, warm=warm)
        self.specs: list[BoxSpec] = []

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        self.specs.append(spec)
        return super().box(spec)


@dataclass
class BoxedRoom(Room):
    """A room as it is deployed: real boxes, records in SQLite, blobs on disk."""

    driver: WatchedDriver


@asynccontextmanager
async def boxed_room(
    directory: Path,
    limits: SessionLimits,
    egress: Egress | None = None,
    *,
    warm: Sequence[Warm] = (),
    go_library: Callable[[Driver, Tools], Awaitable[GoCache]] | None = None,
    **tools: str,
) -> AsyncIterator[BoxedRoom]:
    """A room below `directory`; `warm` is kept ready, `go_library` gives Go's compiled packages,
    `tools` are changes of what `discover` finds."""
    clock = Clock()
    names = ("base", "scratch", "layers", "modules", "programs", "runtime", "trees")
    for name in names:
        (directory / name).mkdir(parents=True)
    base, scratch, layers, modules, programs, runtime, trees = (
        str(directory / name) for name in names
    )
    async with AsyncExitStack() as stack:
        found = discover(runtime)
        where = Place(
            base_dir=base,
            scratch_dir=scratch,
            images=None,
            helper_python=found.helper_python,
            native=native_helper(),
        )
        driver = WatchedDriver(where, found.image, egress, warm)
        stack.push_async_callback(driver.close)
        await driver.start()
        records = SqliteRecords(str(directory / "era.db"))
        stack.push_async_callback(records.close)
        blobs = LocalBlobs(str(directory / "blobs"), clock=lambda: clock() / 1000)
        stack.push_async_callback(blobs.close)
        parts = Parts(
            records=records,
            blobs=blobs,
            driver=driver,
            trees=Trees(root=trees, records=records, blobs=blobs, owner=driver.owner),
            tools=replace(found.tools, **tools),  # type: ignore[arg-type]
            seal=Seal("a secret for tests"),
            layers_dir=layers,
            programs_dir=programs,
            modules_dir=modules,
            clock=clock,
            go_cache=await go_library(driver, found.tools) if go_library else None,
        )
        driver.specs.clear()  # that of the library is nobody's run
        room = BoxedRoom(parts=parts, limits=limits, clock=clock, driver=driver)
        await room.start()
        yield room
        await room.sessions.close(0)


def contents(directory: str) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of everything below a directory."""
    return {
        str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in Path(directory).rglob("*")
    }


@pytest.fixture
async def workshop(
    request: pytest.FixtureRequest,
    anyio_backend: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Workshop]:
    """A room for Go, with boxes made on demand or as `workshop.both` says."""
    found = discover(str(tmp_path / "found"))
    ahead = getattr(request, "param", "") == "ahead"
    warm = kept_ready(found)[:1] if ahead else ()
    library = partial(golibrary.go_library, tmp_path_factory=tmp_path_factory)
    async with boxed_room(
        tmp_path / "room", workshops.LIMITS, warm=warm, go_library=library
    ) as room:
        yield Workshop(room)


@pytest.fixture
async def one(workshop: Workshop) -> Workshop:
    """A workshop with a session."""
    await workshop.room.create(language="go")
    return workshop
