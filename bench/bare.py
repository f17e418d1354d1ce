"""Bare starts: the same interpreters without a service, and in a jail of the distribution's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.machine import Meter
from bench.measure import skipped
from bench.programs import HELLO, PANDAS, tool_paths
from era import layout
from era.runtimes import Runtimes
from era.sandbox.namespaces import filter as seccomp
from era.sandbox.namespaces.memfile import sealed

HERE: Final = Path(__file__).parent
_ENV: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BareStart:
    """A program started, read to its end and waited for, as a service would."""

    name: str
    argv: tuple[str, ...]
    meter: Meter
    pass_fds: tuple[int, ...] = ()

    def once(self) -> int:
        """One run; its latency in nanoseconds."""
        begin = time.perf_counter_ns()
        for fd in self.pass_fds:
            os.lseek(fd, 0, os.SEEK_SET)
        read, write = os.pipe2(os.O_CLOEXEC)
        given = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, write, 1),
        ]
        pid = os.posix_spawn(self.argv[0], self.argv, _ENV, file_actions=given)
        os.close(write)
        while os.read(read, 65536):
            pass
        os.close(read)
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError(f"{self.name}: status {status:#x}")
        return time.perf_counter_ns() - begin

    async def spaced(self, count: int, seconds: float) -> list[int]:
        """See `Subject`."""
        return await asyncio.to_thread(self._spaced, count, seconds)

    def _spaced(self, count: int, seconds: float) -> list[int]:
        found: list[int] = []
        deadline = time.monotonic() + seconds
        while not found or (len(found) < count and time.monotonic() < deadline):
            self.meter.settle()
            found.append(self.once())
        return found

    async def crowded(self, clients: int, seconds: float) -> list[int]:
        """See `Subject`."""
        deadline = time.monotonic() + seconds
        loads = (asyncio.to_thread(self._until, deadline) for _ in range(clients))
        return [value for found in await asyncio.gather(*loads) for value in found]

    def _until(self, deadline: float) -> list[int]:
        found = []
        while time.monotonic() < deadline:
            found.append(self.once())
        return found


def bare_starts(runtimes: Runtimes, meter: Meter) -> dict[str, BareStart]:
    """By language: what starts its hello on the host.  The code is given as an argument."""
    found = tool_paths(runtimes)
    missing = runtimes.tools.missing
    argvs = {"python": (found["python"], "-c", HELLO["python"])}
    if "node" not in missing:
        argvs["node"] = (found["node"], "-e", HELLO["node"])
    if "deno" not in missing:
        argvs["deno"] = (found["deno"], "eval", HELLO["deno"])
    names = {"python": "python3 -c", "node": "node -e", "deno": "deno eval"}
    return {
        language: BareStart(name=f"bare {names[language]}", argv=argv, meter=meter)
        for language, argv in argvs.items()
    }


def pandas_start(meter: Meter, python: str) -> BareStart | None:
    """The pandas snippet in a fresh interpreter of the environment that has pandas."""
    try:
        subprocess.run((python, "-c", "import pandas"), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        skipped("bare python with pandas", f"{python} has no pandas (scripts/setup test)")
        return None
    return BareStart(name="bare python, pandas", argv=(python, "-c", PANDAS), meter=meter)


def tsx_start(runtimes: Runtimes, meter: Meter, directory: str) -> BareStart | None:
    """TypeScript by tsx, at the version that `bench/tsx` pins; None where npm cannot install it."""
    if "node" in runtimes.tools.missing:
        return None
    node = tool_paths(runtimes)["node"]
    npm = os.path.join(os.path.dirname(node), "../lib/node_modules/npm/bin/npm-cli.js")
    place = os.path.join(directory, "tsx")
    shutil.copytree(HERE / "tsx", place)
    command = (node, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", place)
    made = subprocess.run(command, capture_output=True, text=True, cwd=place)
    if made.returncode:
        skipped("tsx", f"npm could not install it: {made.stderr.strip()[-300:]}")
        return None
    entry = os.path.join(place, "hello.ts")
    Path(entry).write_text(HELLO["typescript"])
    cli = os.path.join(place, "node_modules/tsx/dist/cli.mjs")
    return BareStart(name="tsx", argv=(node, cli, entry), meter=meter)


def jail_starts(runtimes: Runtimes, meter: Meter, directory: str) -> list[BareStart]:
    """Fresh interpreters in bubblewrap, with the namespaces and the system call filter of a box."""
    bwrap = shutil.which("bwrap") or _install_bwrap()
    if bwrap is None:
        return []
    fd = sealed("bench-filter", seccomp.build())
    os.set_inheritable(fd, True)
    argv = (bwrap, *_jail_options(runtimes, directory), "--seccomp", str(fd), "--")
    starts = [
        BareStart(
            name="bubblewrap python3 -c",
            argv=(*argv, runtimes.tools.python, "-c", HELLO["python"]),
            meter=meter,
            pass_fds=(fd,),
        )
    ]
    if "node" not in runtimes.tools.missing:
        node = (*argv, runtimes.tools.node, "-e", HELLO["node"])
        starts.append(BareStart(name="bubblewrap node -e", argv=node, meter=meter, pass_fds=(fd,)))
    return starts


def _jail_options(runtimes: Runtimes, directory: str) -> list[str]:
    options = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"]
    options += ["--cap-drop", "ALL", "--uid", str(layout.UID), "--gid", str(layout.GID)]
    for bind in runtimes.image.binds:
        options += ["--ro-bind", bind.source, bind.target]
    for path, target in runtimes.image.links.items():
        options += ["--symlink", target, path]
    workspace = os.path.join(directory, "workspace")
    os.makedirs(workspace, exist_ok=True)
    options += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", layout.TMP, "--tmpfs", layout.HOME]
    return [*options, "--bind", workspace, layout.WORKSPACE, "--chdir", layout.WORKSPACE]


def _install_bwrap() -> str | None:
    """Debian's package, when we may install it."""
    why = "bwrap is not installed, and only root may install it"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install: Sequence[str] = ("apt-get", "install", "-y", "-qq", "bubblewrap")
        for command in (install, ("apt-get", "update", "-qq"), install):
            subprocess.run(command, capture_output=True)
            if found := shutil.which("bwrap"):
                return found
        why = "apt-get could not install bubblewrap"
    skipped("bubblewrap", why)
    return None
