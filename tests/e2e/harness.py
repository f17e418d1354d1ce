"""Real servers for the tests, and what is left of them when they are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from local_server import LocalServer

GONE_SECONDS = 20
"""How long the kernel gets to finish what the end of a server began."""


class WatchedServer(LocalServer):
    """A server whose processes are remembered, so that those it leaves behind are found."""

    def __init__(self, state_dir: Path, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(state_dir, environment)
        self.processes: set[psutil.Process] = set()

    def remember(self) -> None:
        """Note every process that belongs to the server now."""
        own = psutil.Process(self.pid)
        self.processes |= {own, *own.children(recursive=True)}

    def kill(self) -> None:
        self.remember()
        super().kill()

    def stop(self) -> int:
        self.remember()
        return super().stop()

    def said(self) -> str:
        """The last lines of its log."""
        return self.log.read_text(errors="replace")[-6000:]

    def left_behind(self, *, killed: bool = False) -> list[str]:
        """What is still there of servers that have ended, once nothing more goes away.

        A killed server leaves empty cgroups, which the next start removes; all else the kernel
        takes away with it.
        """
        deadline = time.monotonic() + GONE_SECONDS
        while (found := list(self.traces(killed=killed))) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def traces(self, *, killed: bool) -> Iterator[str]:
        """What is there of the servers at this moment."""
        yield from (f"process {process}" for process in self.processes if runs(process))
        place = str(self.state_dir)
        yield from (f"process {pid} that uses {place}" for pid in users_of(place))
        yield from (f"mount {line}" for line in mounts() if place in line)
        yield from (f"loop device of {file}" for file in loop_files() if file.startswith(place))
        for process in () if killed else self.processes:
            yield from (f"cgroup {path}" for path in cgroups(f"era-{process.pid}-"))


def runs(process: psutil.Process) -> bool:
    """Whether it is there, and not only waits to be reaped by whoever inherited it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def users_of(place: str) -> Iterator[int]:
    """Processes whose command line or mounts speak of a directory.

    A small disk that a test mounts there (its source is called `tmpfs`; the service's are not) is
    copied into the mount namespace of every server that starts meanwhile.
    """
    for pid in psutil.pids():
        if pid == os.getpid():
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            mounted = Path(f"/proc/{pid}/mountinfo").read_bytes()
        except OSError:  # it ended, or has ended and is not reaped
            continue
        lines = [line for line in mounted.splitlines() if b" - tmpfs tmpfs " not in line]
        if place.encode() in command or any(place.encode() in line for line in lines):
            yield pid


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def loop_files() -> Iterator[str]:
    """The files behind the loop devices of this machine."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield backing.read_text().strip()
        except OSError:
            continue


def cgroups(prefix: str) -> Iterator[str]:
    """Groups of that name, in every hierarchy."""
    points = [line.split()[4] for line in mounts() if " - cgroup" in line]
    for point in points:
        for folder, names, _files in os.walk(point):
            yield from (f"{folder}/{name}" for name in names if name.startswith(prefix))
