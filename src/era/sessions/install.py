"""The work of a setup inside its box: one step after the other, into the draft of a layer.

Where no code of a package has to run, installers write into the draft itself.  Otherwise they work in
the box's own scratch, which the kernel bounds, and what they left is copied out.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from era import layout
from era.errors import EraError, TooLargeError
from era.languages.packages import LAYER_CACHE, NODE_LOCK, Step, wants_scripts
from era.models import SetupProgress
from era.sandbox.base import Bind, Box, BoxSpec, Driver, Overlay, Program
from era.sessions import archives, folders
from era.sessions.layers import Layers, given
from era.sessions.output import Tail
from era.sessions.room import Watch, size_of
from era.sessions.specs import TIMED_OUT, TOO_LARGE, Failure
from era.storage.base import Records
from era.workspace import beneath
from era.workspace.failures import settled

_NO_ROOM_BYTES: Final = 1 << 20
"""Less free scratch than this after a failed step: the step failed for want of room."""
_PROGRESS_SECONDS: Final = 1.0
"""Between two writes of a step's progress."""
_LOCK_BYTES: Final = 8 << 20
"""Read at most of what npm says it has installed: as JSON it may need thirty times that in memory."""


class StepFailedError(Exception):
    """A step failed, and the setup with it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error)
        self.failure: Final = failure


@dataclass(slots=True, kw_only=True)
class Reporter:
    """What some steps have done so far, written as the progress of every setup that waits for them.

    `audience` are the setups by uid, with the number of steps that each has in all; `before` is how
    many of these came before the first of ours.
    """

    records: Records
    clock: Callable[[], int]
    before: int = 0
    audience: dict[int, int] = field(default_factory=dict)
    tail: Tail = field(default_factory=Tail)
    finished: list[Step] = field(default_factory=list)
    _now: SetupProgress | None = None

    async def begin(self, step: Step) -> None:
        """The next step begins."""
        self.tail.begin()
        self._now = SetupProgress(
            step=step.kind,
            step_index=self.before + len(self.finished) + 1,
            steps_total=0,
            started_at_ms=self.clock(),
        )
        await self.write()

    def again(self) -> None:
        """The steps begin from the first; what they have said does not count."""
        self.tail.clear()
        self.finished.clear()

    async def write(self) -> None:
        """Write how far the step is."""
        if self._now is None:
            return
        line = self.tail.last_line
        for uid, total in tuple(self.audience.items()):
            with suppress(EraError):  # progress is for information only
                now = replace(self._now, steps_total=total, last_line=line)
                await self.records.setup_progress(uid, now)

    async def watch(self) -> None:
        """Write whenever the last line has changed; runs beside the steps until cancelled."""
        written = ""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            if self.tail.last_line != written:
                written = self.tail.last_line
                await self.write()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is done in one box.  `environment` makes the variables of a step; `deadline` is on the
    monotonic clock, None without one.

    `below` are the directories under the layer that it works on, the topmost first, if there is one.
    `direct` are the steps that run no code of a package, if it may be done so.
    """

    spec: BoxSpec
    below: tuple[str, ...] = ()
    steps: Sequence[Step]
    direct: Sequence[Step] = ()
    environment: Callable[[Step], Mapping[str, str]]
    deadline: float | None
    layer_bytes: int
    secrets: tuple[str, ...] = ()
    """What nobody may read in the output of the steps."""
    withheld: bool = False
    """Whether `steps` go without credentials that `direct` have."""


class _CodeWantedError(Exception):
    """A package has to run code of its own to be installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """Where setups are done."""

    driver: Driver
    layers: Layers

    @asynccontextmanager
    async def installed(self, key: str, work: Work, reporter: Reporter) -> AsyncIterator[str]:
        """Do the work; the draft for the layer `key` with what it left.

        Raises:
            StepFailedError: the setup has failed.
            UnavailableError, InternalError: the service has.
        """
        watch = asyncio.create_task(reporter.watch())
        try:
            async with self.layers.draft(key) as draft:
                if work.direct and await self._directly(draft, work, reporter):
                    yield draft
                    return
                async with self.layers.draft(key) as copied:
                    await self._in_scratch(draft, copied, work, reporter)
                    yield copied
        finally:
            watch.cancel()
            await asyncio.wait((watch,))

    async def _directly(self, draft: str, work: Work, reporter: Reporter) -> bool:
        """Whether the work could be done without code of packages; else only what was fetched is
        left in the draft."""
        try:
            await self._into(draft, work, reporter)
        except (StepFailedError, _CodeWantedError) as error:
            if isinstance(error, StepFailedError) and error.failure.error in (TIMED_OUT, TOO_LARGE):
                raise
            given_files = {path for step in work.direct for path in step.files}
            await settled(asyncio.to_thread(_keep_fetched, draft, given_files))
            reporter.again()
            return False
        self.layers.drop(draft, LAYER_CACHE)
        if await settled(asyncio.to_thread(size_of, draft)) > work.layer_bytes:
            raise _too_large(work)
        return True

    async def _into(self, draft: str, work: Work, reporter: Reporter) -> None:
        shown = Bind(source=draft, target=layout.LAYER, writable=True)
        spec = replace(work.spec, binds=(*work.spec.binds, shown))
        async with self.driver.box(spec) as box:
            given(draft, box)
            with Watch(draft, work.spec.limits.disk_bytes, box.cancel) as watch:
                for step in work.direct:
                    await reporter.begin(step)
                    await settled(asyncio.to_thread(_write, draft, step.files, box.owner))
                    try:
                        await _run(box, step, work, reporter.tail)
                    except StepFailedError:
                        if watch.exceeded:
                            raise _too_large(work) from None
                        raise
                    reporter.finished.append(step)
        if await settled(asyncio.to_thread(_has_scripts, draft)):
            raise _CodeWantedError

    async def _in_scratch(self, draft: str, copied: str, work: Work, reporter: Reporter) -> None:
        """Do it over what has been fetched into `draft`, and copy to `copied` what that leaves."""
        lowers = work.below or (draft,)
        whole = Overlay(target=layout.LAYER, lowers=lowers)
        spec = replace(work.spec, overlays=(whole, *work.spec.overlays))
        async with self.driver.box(spec) as box:
            for step in work.steps:
                await reporter.begin(step)
                await _place(box, step)
                try:
                    await _run(box, step, work, reporter.tail)
                except StepFailedError:
                    if work.withheld and step.command is None:
                        _explain(reporter.tail)
                    raise
                reporter.finished.append(step)
            async with self.layers.showing(copied, writable=True) as into:
                try:
                    await archives.copy_out(box, into, work.layer_bytes)
                except TooLargeError:
                    raise _too_large(work) from None


_UNAUTHORIZED: Final = re.compile(r"\b401\b|\b403\b|\bE40[13]\b")
_WITHHELD: Final = (
    b"hint: a mirror asks for a credential. Installers have the operator's only while nothing else has a"
    b" say: not in a setup with `envs`, and not for what the build of a package asks for.\n"
)


def _explain(tail: Tail) -> None:
    """Say why a mirror refused what it gives to others: installers only guess."""
    if any(map(_UNAUTHORIZED.search, tail.texts())):
        tail.feed("stderr", _WITHHELD)


def _too_large(work: Work) -> StepFailedError:
    return StepFailedError(Failure(error=TOO_LARGE, step=work.steps[-1].kind))


# --- the draft, seen from the host ----------------------------------------------------------------


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(draft: str, files: Mapping[str, bytes], owner: int | None) -> None:
    """Write files of a step; an earlier step may have left anything in their place."""
    with _opened(draft) as fd:
        for path, content in files.items():
            os.close(beneath.make_dirs(fd, os.path.dirname(path), owner=owner))
            beneath.write_file(fd, path, content, owner=owner)


def _keep_fetched(draft: str, given_files: Iterable[str]) -> None:
    """Remove all but what was fetched.  The files of the steps go, too: they may hold credentials,
    and what comes now may run code of packages."""
    for entry in os.listdir(draft):
        if entry != LAYER_CACHE:
            folders.remove(draft, entry)
    with _opened(draft) as fd:
        for path in given_files:
            beneath.remove_tree(fd, path)


def _has_scripts(draft: str) -> bool:
    """Whether npm has left out scripts of packages."""
    with _opened(draft) as fd:
        try:
            lock = beneath.open_regular(fd, NODE_LOCK)
        except FileNotFoundError:
            return False
        with os.fdopen(lock, "rb") as file:
            return wants_scripts(file.read(_LOCK_BYTES))


# --- the steps ------------------------------------------------------------------------------------


async def _place(box: Box, step: Step) -> None:
    """Files of a step lie in the box's own scratch, so a program of the box writes them."""
    for path, content in step.files.items():
        full = os.path.join(layout.LAYER, path)
        for argv in (("/usr/bin/mkdir", "-p", os.path.dirname(full)), ("/usr/bin/tee", full)):
            await box.run(Program(argv=argv, cwd="/", stdin=content, output_bytes=0))


async def _run(box: Box, step: Step, work: Work, tail: Tail) -> None:
    left = 0.0
    if work.deadline is not None:
        left = max(work.deadline - time.monotonic(), 0.001)
    program = Program(
        argv=step.argv,
        env=work.environment(step),
        cwd=step.cwd,
        timeout_seconds=left,
        output_bytes=0,
        tail=True,
    )
    ended = await box.run(program, tail.feed)
    if ended.exit_code == 0:
        return
    error = step.error
    if ended.timed_out:
        error = TIMED_OUT
    elif _is_full(box):
        error = TOO_LARGE
    raise StepFailedError(
        Failure(error=error, step=step.kind, command=step.command, exit_code=ended.exit_code)
    )


def _is_full(box: Box) -> bool:
    """Whether the scratch of the box, which the workspace is on, has no room left."""
    room = os.fstatvfs(box.workspace_fd)
    return room.f_bavail * room.f_frsize < _NO_ROOM_BYTES
