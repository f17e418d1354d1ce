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
from dataclasses import dataclass, field
from typing import Final

import structlog

from era import layout
from era.errors import EraError
from era.sandbox.base import Program, Readiness, Warm
from era.sandbox.namespaces.cgroups.base import Group
from era.sandbox.namespaces.child.standby import PAD_BYTES
from era.sandbox.namespaces.run import Run

FORKS: Final = 500
"""An interpreter is replaced after this many forks: at full speed every couple of seconds, for a
start of about 60 ms."""
_RETRY_SECONDS: Final = 1.0
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
    """A box at its gate."""

    warm: Warm
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
        and (name == "LANG" or name.startswith(_DECIDES_AT_START))
        and program.env.get(name) != warm.env.get(name)
        for name in names
    )


def _environment_bytes(env: Mapping[str, str]) -> int:
    return sum(len(f"{name}={value}".encode(errors="replace")) + 1 for name, value in env.items())


@dataclass(slots=True)
class _Shelf:
    """What the pool has of one interpreter.  `generation` names the standing process."""

    warm: Warm
    waiting: deque[Prepared] = field(default_factory=deque)
    generation: int = 0
    up: bool = False
    forks: int = 0


class Pool:
    """Keeps boxes ready.  `make` prepares one (None: it failed), `discard` ends one unused;
    `start` and `dismiss` start and retire a standing interpreter by its generation's name."""

    def __init__(
        self,
        warm: Sequence[Warm],
        *,
        make: Callable[[Warm, str], Awaitable[Prepared | None]],
        discard: Callable[[Prepared], Awaitable[None]],
        start: Callable[[Warm, str], None],
        dismiss: Callable[[str], None],
    ) -> None:
        self._shelves: Final[Mapping[str, _Shelf]] = {item.name: _Shelf(item) for item in warm}
        self._make = make
        self._discard = discard
        self._start = start
        self._dismiss = dismiss
        self._filling: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._closing = False

    def open(self) -> None:
        """Start the interpreters and fill up."""
        if not self._shelves:
            return
        for shelf in self._shelves.values():
            if shelf.warm.readiness is Readiness.STANDING:
                self._renew(shelf)
            else:
                shelf.up = True
        self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def close(self) -> None:
        """Make no more boxes.  Those that wait end with the launcher; see `NamespacesDriver.close`."""
        self._closing = True
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait((self._filling,))
        for shelf in self._shelves.values():
            shelf.waiting.clear()

    def interpreter_changed(self, name: str, *, up: bool) -> None:
        """A standing interpreter is up, or was lost."""
        for shelf in self._shelves.values():
            if _generation_name(shelf) == name:
                shelf.up = up
                if not up and not self._closing:
                    _log.warning("interpreter lost", interpreter=shelf.warm.name)
                    loop = asyncio.get_running_loop()
                    loop.call_later(_RETRY_SECONDS, self._renew, shelf)
                self._wanted.set()

    def take(self, interpreter: str) -> Prepared | None:
        """A waiting box of `interpreter`; without one, a box for any program; or None."""
        for name in (interpreter, ANY):
            shelf = self._shelves.get(name)
            if shelf is None:
                continue
            self._wanted.set()
            while shelf.waiting:
                prepared = shelf.waiting.popleft()
                if not prepared.run.exited.done():
                    return prepared
                self._spawn(self._discard(prepared))
        return None

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background = task

    def _renew(self, shelf: _Shelf) -> None:
        if self._closing:
            return
        if shelf.generation:
            self._dismiss(_generation_name(shelf))
        shelf.generation += 1
        shelf.up = False
        shelf.forks = 0
        try:
            self._start(shelf.warm, _generation_name(shelf))
        except EraError:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._renew, shelf)

    async def _fill(self) -> None:
        while True:
            shelf = self._shortest()
            if shelf is None:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            try:
                prepared = await self._make(shelf.warm, _generation_name(shelf))
            except Exception as error:  # noqa: BLE001 - without this task no box would be made ahead
                _log.error("no box was made ahead", exc_info=error)
                prepared = None
            if prepared is None:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            shelf.waiting.append(prepared)
            shelf.forks += 1
            if shelf.forks >= FORKS and shelf.warm.readiness is Readiness.STANDING:
                self._renew(shelf)

    def _shortest(self) -> _Shelf | None:
        short = [
            shelf
            for shelf in self._shelves.values()
            if shelf.up and len(shelf.waiting) < shelf.warm.count
        ]
        return min(short, key=lambda shelf: len(shelf.waiting) / shelf.warm.count, default=None)


def _generation_name(shelf: _Shelf) -> str:
    return f"{shelf.warm.name}-{shelf.generation}"
