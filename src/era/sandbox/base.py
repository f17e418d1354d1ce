"""The promise of a sandbox: run an argument list in a box, end it truthfully, leave nothing.

A `Driver` opens boxes.  A `Box` owns scratch space, limits and a network policy; each `run` in it
is a fresh process tree.  Running more than once in one box, one after the other, is how a setup
does its steps; the scratch stays between them, processes do not.

What holds, on every driver (`tests/contracts/driver.py`):

* The result is the program's own: its exit code, or the signal, the deadline, the memory limit or
  the cancel that ended it.  None of these is ever reported as success.
* `run` returns when the main process has ended, its output is complete and every other process of
  the box is dead.  A child that holds the pipes open delays nothing.
* Leaving the context removes everything, behind the answer and without being asked again:
  processes, mounts, cgroups, scratch; `close` waits for what is still going on.  So does the death
  of the server or of the driver's helper, at any moment.
* What a host cannot enforce is named in `unenforced` and never silently ignored.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from era import layout
from era.models import Network, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a box may use, for its whole process tree together."""

    memory_bytes: int = 1024 << 20
    cpus: float = 1.0
    pids: int = 512
    disk_bytes: int = 4 << 30
    """Workspace changes, HOME, /tmp and other scratch together."""
    open_files: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A host file or directory shown at `target`; nosuid and nodev always, read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A copy-on-write directory at `target`: `lowers` are host directories, the topmost first,
    never changed; what the box writes goes to its scratch.  Without lowers it is empty scratch."""

    target: str
    lowers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RootImage:
    """What every box of a driver sees as its root, read-only: binds of host directories, symbolic
    links (path to target), small files (path to bytes) and empty directories."""

    binds: tuple[Bind, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    dirs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSpec:
    """A box: its limits, its network, what is in it.

    `workspace` are the lowers of /workspace, the topmost first.  HOME and /tmp are scratch, with
    lowers of their own in `overlays` when a setup left something there.
    """

    limits: Limits = Limits()
    network: Network = Network.OFFLINE
    workspace: tuple[str, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    binds: tuple[Bind, ...] = ()
    interpreter: str = ""
    """Which interpreter the first program is for; a driver that keeps boxes ready takes one with
    that interpreter started.  A hint: results are the same without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One process to run in a box.  `stdin` is given whole, then end of file.

    `stdin_fd` / `stdout_fd` hand an open file over instead (the caller keeps its own copy open
    until `run` returns); output to `stdout_fd` is not captured.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = layout.WORKSPACE
    stdin: bytes = b""
    timeout_seconds: float = 30.0
    """0 means no deadline."""
    grace_seconds: float = 1.0
    output_bytes: int = 1 << 20
    """Kept of each stream; the rest is read and dropped."""
    tail: bool = False
    """Keep the last `output_bytes` of each stream instead of the first; the sink then gets it all."""
    stdin_fd: int | None = None
    stdout_fd: int | None = None


OutputSink = Callable[[str, bytes], None]
"""Called with `stdout` or `stderr` and the bytes kept, as they come (all bytes of a program whose
`tail` is kept); must not block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a program ended.  `exit_code` follows the service's rules (124, 128+N, 137, 143)."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    signal: str | None = None
    timed_out: bool = False
    oom_killed: bool = False
    cancelled: bool = False
    duration_ns: int = 0
    usage: Usage = Usage()
    warnings: tuple[str, ...] = ()
    """What this host did not enforce, in words."""


class Readiness(StrEnum):
    """How far a box is made before its program is known."""

    BOX = "box"
    """The box alone; whatever the program is, it starts in it."""
    AHEAD = "ahead"
    """An interpreter is started in the box and waits."""
    STANDING = "standing"
    """The box is forked from an interpreter that stands ready for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """Boxes to keep ready.  `argv` is how a program is run, up to its own arguments, and `env` the
    variables every program has; programs whose command line begins otherwise are not run by it.
    `ahead` is the command line of an interpreter that is started before, `modules` what a standing
    one imports; `count` how many boxes wait.  `decided` are beginnings of variables that these modules
    read once: a program that has others in its environment is not run by it."""

    name: str
    readiness: Readiness
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    ahead: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    count: int = 4


class Egress(Protocol):
    """Serves the ways out of boxes that may reach something."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that tell a program of the proxy; they are a convenience, not the boundary."""

    def serve(
        self, network: Network, sockets: Sequence[socket.socket]
    ) -> AbstractAsyncContextManager[None]:
        """Serve one box while the context lasts, then close `sockets`: the HTTP proxy's listener,
        name service by TCP and by UDP, then, where the host can redirect connections, listeners
        that take them (for IPv4, for IPv6).  All were made inside the box's network namespace and
        do not block."""


Connection = socket.socket
"""A connected socket that does not block."""


class Box(Protocol):
    """One box.  It is not safe for two tasks at once, except `cancel`."""

    @property
    def workspace_fd(self) -> int:
        """An open directory: what is written in /workspace over the lowers (the overlay's upper).
        Before a run, files placed here are in the workspace; after it, it holds the changes, in the
        overlay file system's own form.  Valid until the box is left."""

    def changes(self, target: str) -> int | None:
        """An open directory, the caller's to close: what was written in HOME or /tmp over their
        lowers, in the form of `workspace_fd`.  None when nothing has run in the box."""

    @property
    def owner(self) -> int | None:
        """The host uid and gid that files placed from outside must have; None: as the service."""

    async def run(self, program: Program, sink: OutputSink | None = None) -> Exit:
        """Run `program` to its end.  Cancelling the task kills the box and waits for that.

        Raises:
            InternalError: `execution_failed`, when the box itself broke; the outcome is unknown.
            UnavailableError: `isolation_unavailable`, when this policy cannot be enforced here.
        """

    async def connect(self, port: int) -> Connection:
        """A connection to a server of the program in progress, on the box's own loopback.  It does not
        block; closing it is the caller's.

        Raises:
            OSError: nothing runs, or nobody accepts connections on that port.
        """

    def cancel(self) -> None:
        """End the program in progress as a deadline would, but `cancelled`.  Nothing runs: no effect."""


class Driver(Protocol):
    """Opens boxes of one isolation tier."""

    @property
    def tier(self) -> str:
        """`microvm`, `gvisor`, `namespaces` or `process`; `none` of one that opens no box."""

    @property
    def unenforced(self) -> tuple[str, ...]:
        """What this host cannot enforce, in words a client can read; empty when nothing."""

    @property
    def owner(self) -> int | None:
        """The host uid of files that boxes must be able to change; None: the service's own."""

    async def start(self) -> None:
        """Make ready; raises UnavailableError `isolation_unavailable` with what is missing."""

    async def close(self) -> None:
        """Kill every box and leave nothing behind."""

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """A new box.  Its scratch exists on entry; everything of it is gone on exit.

        Raises (on entry):
            UnavailableError: `isolation_unavailable`; or `storage_full` when there is no scratch.
        """
