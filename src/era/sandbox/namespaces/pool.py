"""Boxes made ahead of the request, each used once.

A box that waits at its gate is the same box as one made on demand: same plan, same limits, nothing
left to do but to say what runs.  The pool keeps a bounded number of them, makes the next one when
one is taken, and replaces standing interpreters after a number of forks or on loss, so that what
their forks share (hash seed, addresses) is not shared for long.  Where it has none to give, boxes
are made on demand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import structlog

from era import layout
from era.errors import EraError
from era.sandbox.base import Program, Readiness, Warm
from era.sandbox.namespaces.cgroups.base import Group
from era.sandbox.namespaces.child.standby import PAD_BYTES
from era.sandbox.namespaces.run import Run
from era.sandbox.namespaces.spawn import Launcher
from era.waiting import until, within

FORKS: Final = 500
"""An interpreter is replaced after this many forks: at full speed every couple of seconds, for a
start of about 60 ms."""
_PATIENCE_SECONDS: Final = 0.02
"""While there is enough, the next box is made when no program that would be slowed by it has just
begun; a program that takes longer is not a short one."""
_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 60.0
ANY: Final = "any"
"""The name of boxes without an interpreter."""

_DECIDES_AT_START: Final = (
    *("PYTHON", "NODE_", "UV_", "OPENSSL_", "SSL_CERT_"),
    *("LD_", "GLIBC_", "MALLOC_", "LC_", "LANGUAGE", "LOCPATH"),
)
"""Variables that an interpreter (or the C library) reads once, when it starts."""
_UNDERSTOOD: Final = frozenset({"PYTHONPATH"})

_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A box at its gate, forked from `standing` where that is an interpreter.  `launcher` made it and
    alone can end it."""

    warm: Warm
    standing: str
    launcher: Launcher
    number: int
    workspace_fd: int
    group: Group
    run: Run


def fits(warm: Warm, program: Program) -> bool:
    """Whether a program started from `warm` is what its command line says."""
    if program.stdin_fd is not None or program.stdout_fd is not None:
        return False
    if warm.readiness is Readiness.BOX:
        return True
    if program.argv[: len(warm.argv)] != warm.argv or program.cwd != layout.WORKSPACE:
        return False
    if _environment_bytes(program.env) > PAD_BYTES:
        return False
    names = program.env.keys() | warm.env.keys()
    return not any(
        name not in _UNDERSTOOD
        and (name == "LANG" or name.startswith((*_DECIDES_AT_START, *warm.decided)))
        and program.env.get(name) != warm.env.get(name)
        for name in names
    )


def _environment_bytes(env: Mapping[str, str]) -> int:
    return sum(len(f"{name}={value}".encode(errors="replace")) + 1 for name, value in env.items())


class _State(Enum):
    """Of a shelf: whether boxes can be made for it."""

    DOWN = 0
    STARTING = 1
    UP = 2


@dataclass(slots=True)
class _Shelf:
    """What the pool has of one kind.  `generation` names the standing process; after `failures` in a
    row nothing is tried before `not_before` (the loop's time)."""

    warm: Warm
    waiting: deque[Prepared] = field(default_factory=deque)
    state: _State = _State.UP
    generation: int = 0
    forks: int = 0
    failures: int = 0
    not_before: float = 0.0

    @property
    def name(self) -> str:
        """The standing process of this generation."""
        return f"{self.warm.name}-{self.generation}"

    @property
    def worn(self) -> bool:
        """Whether the standing process has had its share of forks; more than fill the shelf, or it
        would never be full."""
        forks = max(FORKS, 2 * self.warm.count)
        return self.warm.readiness is Readiness.STANDING and self.forks >= forks

    @property
    def fresh(self) -> int:
        """How many of the waiting boxes are of this generation."""
        return sum(it.standing == self.name for it in self.waiting)

    def failed(self, now: float) -> None:
        """Something did not work: wait, longer each time."""
        self.not_before = now + min(_RETRY_SECONDS * 2**self.failures, _LONGEST_RETRY_SECONDS)
        self.failures += 1


class Pool:
    """Keeps boxes ready.  `make` prepares one (None: it failed), `discard` ends one unused;
    `start` and `dismiss` start and retire a standing interpreter by its generation's name."""

    def __init__(
        self,
        warm: Sequence[Warm],
        *,
        make: Callable[[Warm, str], Awaitable[Prepared | None]],
        discard: Callable[[Prepared], Awaitable[None]],
        start: Callable[[Warm, str], Awaitable[None]],
        dismiss: Callable[[str], None],
    ) -> None:
        self._shelves: Final[Mapping[str, _Shelf]] = {item.name: _Shelf(item) for item in warm}
        self._make = make
        self._discard = discard
        self._start = start
        self._dismiss = dismiss
        self._filling: asyncio.Task[None] | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()
        self._running = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self.launcher_lost()

    def open(self) -> None:
        """Start the interpreters and fill up."""
        if self._shelves:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def close(self) -> None:
        """Make no more boxes.  Those that wait end with the launcher; see `NamespacesDriver.close`."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait((self._filling,))
        for shelf in self._shelves.values():
            shelf.waiting.clear()
        await asyncio.gather(*self._discarding, return_exceptions=True)

    def interpreter_changed(self, name: str, *, up: bool) -> None:
        """A standing interpreter is up, or was lost."""
        for shelf in self._shelves.values():
            if shelf.name == name:
                shelf.state = _State.UP if up else _State.DOWN
                if not up:
                    _log.warning("interpreter lost", interpreter=shelf.warm.name)
                    shelf.failed(asyncio.get_running_loop().time())
        self._wanted.set()

    def launcher_lost(self) -> None:
        """Every standing interpreter is gone."""
        for shelf in self._shelves.values():
            if shelf.warm.readiness is Readiness.STANDING:
                shelf.state = _State.DOWN
        self._wanted.set()

    def take(self, interpreter: str) -> Prepared | None:
        """A waiting box of `interpreter`; without one, a box for any program; or None."""
        for name in (interpreter, ANY):
            shelf = self._shelves.get(name)
            if shelf is None:
                continue
            self._wanted.set()
            self._throw_away_the_dead(shelf)
            if shelf.waiting:
                return shelf.waiting.popleft()
        return None

    def began(self) -> None:
        """A program begins."""
        self._running += 1
        self._calm.clear()

    def ended(self) -> None:
        """A program that began has ended."""
        self._running -= 1
        if not self._running:
            self._calm.set()

    async def _wait_for_calm(self, shelf: _Shelf) -> None:
        if len(shelf.waiting) * 2 > shelf.warm.count and not self._calm.is_set():
            with suppress(TimeoutError):
                async with within(_PATIENCE_SECONDS):
                    await self._calm.wait()

    def _throw_away_the_dead(self, shelf: _Shelf) -> None:
        for prepared in [it for it in shelf.waiting if it.run.broken]:
            shelf.waiting.remove(prepared)
            self._throw_away(prepared)

    def _throw_away(self, prepared: Prepared) -> None:
        task = asyncio.ensure_future(self._discard(prepared))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            shelf = self._next(loop.time())
            if shelf is None:
                self._wanted.clear()
                await self._wait()
                continue
            await self._wait_for_calm(shelf)
            try:
                done = await (self._add(shelf) if shelf.state is _State.UP else self._stand(shelf))
            except Exception as error:  # noqa: BLE001 - without this task no box would be made ahead
                _log.error("no box was made ahead", exc_info=error)
                done = False
            if not done:
                shelf.failed(loop.time())

    def _next(self, now: float) -> _Shelf | None:
        """The shelf to do something for: one without its interpreter, else the emptiest."""
        for shelf in self._shelves.values():
            self._throw_away_the_dead(shelf)
        able = [shelf for shelf in self._shelves.values() if shelf.not_before <= now]
        down = (shelf for shelf in able if shelf.state is _State.DOWN)
        short = (
            shelf for shelf in able if shelf.state is _State.UP and shelf.fresh < shelf.warm.count
        )
        emptiest = min(short, key=lambda it: len(it.waiting) / it.warm.count, default=None)
        return next(down, emptiest)

    async def _wait(self) -> None:
        """Until a box is taken, an interpreter changes, or something may be tried again."""
        now = asyncio.get_running_loop().time()
        later = [it.not_before for it in self._shelves.values() if it.not_before > now]
        with suppress(TimeoutError):
            async with until(min(later, default=None)):
                await self._wanted.wait()

    async def _stand(self, shelf: _Shelf) -> bool:
        self._dismiss(shelf.name)
        shelf.generation += 1
        shelf.forks = 0
        shelf.state = _State.STARTING
        try:
            await self._start(shelf.warm, shelf.name)
        except EraError:
            shelf.state = _State.DOWN
            return False
        return True

    async def _add(self, shelf: _Shelf) -> bool:
        prepared = await self._make(shelf.warm, shelf.name)
        if prepared is None:
            return False
        shelf.waiting.append(prepared)
        if len(shelf.waiting) > shelf.warm.count:  # of the generation before, which ends with it
            self._throw_away(shelf.waiting.popleft())
        shelf.failures = 0
        shelf.forks += 1
        if shelf.worn and shelf.state is _State.UP:
            shelf.state = _State.DOWN
        return True
