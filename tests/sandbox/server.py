"""A stand-in for the service that can be killed: one driver, one box with a stubborn program.

`python -m tests.sandbox.server DIRECTORY` prints `up` once the program runs, and waits.
"""

from __future__ import annotations

import asyncio
import os
import sys

from era.sandbox.base import BoxSpec, Limits, Overlay
from tests.contracts.driver import BoxTools, Watch, shell, with_ticker
from tests.sandbox.boxes import namespaces_driver


async def serve(directory: str) -> None:
    """Run a program that detaches and ignores signals, for ever."""
    tools = BoxTools()
    watch = Watch(b"up\n")
    spec = BoxSpec(limits=Limits(disk_bytes=64 << 20), overlays=(Overlay(target="/opt/extra"),))
    on_disk = os.geteuid() == 0
    async with namespaces_driver(directory, on_disk=on_disk) as driver, driver.box(spec) as box:
        program = shell(tools, with_ticker(tools, "echo up; sleep 600"), timeout_seconds=0)
        running = asyncio.create_task(box.run(program, watch))
        await watch.came.wait()
        print("up", flush=True)
        await running


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
