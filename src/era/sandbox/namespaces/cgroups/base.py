"""The promise of a cgroup keeper: bound a box's processes together, and tell what they used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from era.sandbox.base import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the processes of a group used; None where the host cannot tell."""

    cpu_ns: int | None = None
    peak_memory_bytes: int | None = None
    oom_kills: int = 0


class Group(Protocol):
    """The group of one box: its program's processes, and process 1, which no limit counts."""

    @property
    def join_fds(self) -> tuple[int, ...]:
        """Descriptors of `cgroup.procs` files: whoever writes `0` to each is in the group.
        Opened by the server, so the kernel judges the writer by the server's rights."""

    @property
    def oom_fd(self) -> int | None:
        """Readable once the memory limit was hit, where the kernel does not kill the whole group
        itself; else None."""

    def adjust(self, limits: Limits) -> None:
        """Other limits from now on; raises OSError when the kernel refuses."""

    def unbind(self) -> None:
        """No CPU limit any more: the box is to end, and dying processes need the processor too."""

    def alone(self) -> bool:
        """Whether there is certainly no process in the group but process 1 of the box."""

    def empty(self) -> bool:
        """Whether the group has no process, so far as the host can tell."""

    def mark(self) -> None:
        """Count usage from here: what made the box ahead of its program is not the program's."""

    def read(self) -> Reading:
        """Current figures; exact once every process of the group is dead."""

    def recycle(self) -> bool:
        """Keep the group for another box; its processes are dead.  False when it cannot serve again."""

    def discard(self) -> bool:
        """Remove the group for good, which may take the kernel tens of milliseconds.  False while it
        still holds the group: it may be tried again, and what remains is left to `close`."""


class Cgroups(Protocol):
    """Makes groups."""

    @property
    def unenforced(self) -> tuple[str, ...]:
        """Limits this keeper cannot enforce, in words."""

    def create(self, name: str, limits: Limits) -> Group:
        """A new empty group; raises OSError when the kernel refuses."""

    def close(self) -> None:
        """Remove what `create` needed; the groups are gone."""
