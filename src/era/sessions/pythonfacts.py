"""What uv notes of an interpreter in its cache: found out once, in a box with nothing of a stranger.

uv starts the interpreter and asks it about itself whenever its cache is new, and that of a setup always
is.  That takes a sixth of what two small packages take in all.
"""

from __future__ import annotations

import asyncio
import io
import re
import tarfile
from collections.abc import Mapping
from typing import Final

import structlog

from era.errors import EraError
from era.languages.packages import python_facts
from era.languages.table import Tools
from era.sandbox.base import BoxSpec, Driver, Limits, Program

_LIMITS: Final = Limits(memory_bytes=1 << 30, cpus=2)
_SECONDS: Final = 120.0
_NAME: Final = re.compile(r"interpreter-v\d+/[0-9a-f]+/[0-9a-f]+\.msgpack")
_FILE_BYTES: Final = 256 << 10

_log = structlog.get_logger("era.python")


class PythonFacts:
    """The facts of this server's Python, for every setup to have a copy of its own."""

    def __init__(self, driver: Driver, tools: Tools) -> None:
        self.files: Mapping[str, bytes] = {}
        """Path in uv's cache to content; empty until they are found."""
        self._driver = driver
        self._tools = tools
        self._finding: asyncio.Task[None] | None = None

    def find_soon(self) -> None:
        """Find them in the background, unless that was done or tried before."""
        if self._finding is None and "python" not in self._tools.missing:
            self._finding = asyncio.create_task(self._quietly())

    @property
    def busy(self) -> bool:
        """Whether they are being found."""
        return self._finding is not None and not self._finding.done()

    async def close(self) -> None:
        """Stop."""
        if self._finding is not None:
            self._finding.cancel()
            await asyncio.wait((self._finding,))

    async def _quietly(self) -> None:
        try:
            self.files = await self._find()
        except (EraError, OSError, tarfile.TarError) as error:
            _log.warning("uv has to ask Python about itself in each setup", exc_info=error)

    async def _find(self) -> Mapping[str, bytes]:
        launch = python_facts(self._tools)
        program = Program(
            argv=launch.argv, env=launch.env, stdin=b"", cwd="/", timeout_seconds=_SECONDS
        )
        async with self._driver.box(BoxSpec(limits=_LIMITS)) as box:
            ended = await box.run(program)
        if ended.exit_code:
            said = ended.stderr.decode(errors="replace")[-500:]
            _log.warning("uv has to ask Python about itself in each setup", said=said)
            return {}
        return _facts(ended.stdout)


def _facts(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isreg() and _NAME.fullmatch(member.name) and member.size <= _FILE_BYTES:
                content = tar.extractfile(member)
                found[member.name] = content.read() if content is not None else b""
    return found
