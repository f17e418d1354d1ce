"""No cgroups: nothing delegated to the service.  Says so in every result."""

from __future__ import annotations

from era.sandbox.base import Limits
from era.sandbox.namespaces.cgroups.base import Reading


class NoGroup:
    """The group that is none."""

    join_fds: tuple[int, ...] = ()
    oom_fd: int | None = None

    def adjust(self, limits: Limits) -> None:
        """Nothing is bounded."""

    def unbind(self) -> None:
        """Nothing was bounded."""

    def alone(self) -> bool:
        """Nobody can tell."""
        return False

    def empty(self) -> bool:
        """Nobody can tell, and nobody needs to."""
        return True

    def mark(self) -> None:
        """Nothing is counted."""

    def read(self) -> Reading:
        """Nothing is known."""
        return Reading()

    def recycle(self) -> bool:
        """Nothing was used."""
        return True

    def discard(self) -> bool:
        """Nothing to remove."""
        return True


class NoCgroups:
    """Keeps `Cgroups` where there are no usable controllers; process count stays bounded by rlimit."""

    unenforced: tuple[str, ...] = (
        "the memory limit is not enforced: no memory cgroup is delegated to the service",
        "the CPU limit is not enforced: no cpu cgroup is delegated to the service",
    )

    def create(self, name: str, limits: Limits) -> NoGroup:
        """A group that bounds nothing."""
        return NoGroup()

    def close(self) -> None:
        """Nothing to remove."""
