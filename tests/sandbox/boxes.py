"""A started namespaces driver on a plain image of this host, for tests of the sandbox alone."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from era import layout
from era.sandbox.base import Bind, BoxSpec, Egress, Limits, Program, RootImage, Warm
from era.sandbox.namespaces.cgroups.detect import detect
from era.sandbox.namespaces.driver import NamespacesDriver
from era.sandbox.namespaces.native import Native, built
from era.sandbox.namespaces.place import Place
from era.sandbox.plan import Plan, Start

LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")


def host_image() -> RootImage:
    """The host's /usr, read-only, and the least that programs need beside it."""
    links = {path: os.readlink(path) for path in LINKS if os.path.islink(path)}
    passwd = f"era:x:{layout.UID}:{layout.GID}::{layout.HOME}:/bin/bash\n"
    return RootImage(
        binds=(Bind(source="/usr", target="/usr"),),
        links=links,
        files={"/etc/passwd": passwd.encode()},
        dirs=(layout.WORKSPACE, layout.TMP, layout.HOME),
    )


@cache
def native_helper() -> Native | None:
    """The helper in C, compiled once in a process."""
    directory = tempfile.mkdtemp(prefix="era-native-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.chmod(directory, 0o755)
    return built(directory)


@asynccontextmanager
async def namespaces_driver(
    directory: str,
    *,
    on_disk: bool = True,
    egress: Egress | None = None,
    kind: type[NamespacesDriver] = NamespacesDriver,
    warm: Sequence[Warm] = (),
    limits: Limits | None = None,
    native: bool = True,
) -> AsyncIterator[NamespacesDriver]:
    """A driver that works below `directory`; scratch in images on disk or in memory; the steps of a box
    in C where this host can, or all in Python."""
    for name in ("base", "scratch", "images"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    place = Place(
        base_dir=os.path.join(directory, "base"),
        scratch_dir=os.path.join(directory, "scratch"),
        images=os.path.join(directory, "images") if on_disk else None,
        helper_python="/usr/bin/python3",
        native=native_helper() if native else None,
    )
    driver = kind(place, host_image(), detect(), egress, warm=warm, limits=limits)
    try:
        await driver.start()
        yield driver
    finally:
        await driver.close()


def unfiltered() -> bytes:
    """A seccomp program that allows everything."""
    return struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)


class Unfiltered(NamespacesDriver):
    """The mirror of the filter: boxes as always, but every system call reaches the kernel."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._foundation = replace(self._foundation, filter=unfiltered().hex())


class Unmasked(NamespacesDriver):
    """The mirror of masks and read-only parts: boxes as always, but with all of /proc."""

    def plan(self, spec: BoxSpec, program: Program) -> tuple[Plan, Start]:
        plan, start = super().plan(spec, program)
        return replace(plan, masked=(), read_only=()), start


async def warm_up(driver: NamespacesDriver, name: str = "python") -> None:
    """Wait until a box made ahead is there."""
    for _ in range(3000):
        if driver.pool._shelves[name].waiting:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no box was made ahead")
