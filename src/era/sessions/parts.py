"""The parts of the service that the use-cases work with, named once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from era.errors import InternalError
from era.languages.table import Tools
from era.sandbox.base import Driver
from era.sessions.admission import Admission
from era.sessions.nodes import Cluster
from era.sessions.seal import Seal
from era.storage.base import Blobs, Records
from era.workspace.trees import Trees


class GoCache(Protocol):
    """The shared build cache of the go tool."""

    def lower(self) -> str | None:
        """The directory to lay below a box's own cache; None when there is none (yet)."""

    async def warm(self) -> None:
        """Make what programs commonly need, unless it is there; waits for one who does already.

        Raises:
            InternalError: it cannot be made.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything is open and ready; whoever made it closes it.

    `layers_dir` is an existing directory of the service's own, on a disk, and so are `programs_dir`,
    for compiled programs, and `modules_dir`, without which deno's modules are not fetched,
    and `kept_vms_dir`, without which no workspace of a deleted VM is kept for the operator;
    `npm_dir` is for npm's own code, without which nothing is prepared for installers.
    `clock` gives unix milliseconds.  `cluster`: there are other servers on the same stores.
    """

    records: Records
    blobs: Blobs
    driver: Driver
    trees: Trees
    tools: Tools
    seal: Seal
    layers_dir: str
    programs_dir: str
    clock: Callable[[], int]
    go_cache: GoCache | None = None
    cluster: Cluster | None = None
    modules_dir: str | None = None
    npm_dir: str | None = None
    kept_vms_dir: str | None = None
    admission: Admission = field(default_factory=Admission)


async def go_library(cache: GoCache | None) -> None:
    """Wait while Go's library is compiled for the first time; where that fails, each program
    compiles what it needs of it itself."""
    if cache is not None and cache.lower() is None:
        with suppress(InternalError):
            await cache.warm()
