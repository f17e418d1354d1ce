"""A sessions room for Go, and what can be seen of its boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from era import layout
from era.models import Network, RunResult
from era.sandbox.base import BoxSpec
from era.sessions.settings import SessionLimits, SetupLimits

if TYPE_CHECKING:
    from tests.sessions.conftest import BoxedRoom

LIMITS = SessionLimits(setups=SetupLimits(network=Network.OFFLINE))


def program(body: str, *imports: str, rest: str = "") -> str:
    named = "".join(f"import {path if ' ' in path else repr(path)}\n" for path in imports)
    named = named.replace("'", '"')
    return f"package main\n\n{named}\n{rest}\n\nfunc main() {{ {body} }}\n"


HELLO = program('fmt.Println("hello")', "fmt")
USES_LIB = program("fmt.Println(lib.X)", "fmt", "session/lib")


def lib(value: int) -> bytes:
    return b"package lib\n\nconst X = %d\n" % value


@dataclass
class Workshop:
    """A room, and what it did for Go."""

    room: BoxedRoom

    @property
    def programs(self) -> str:
        return self.room.parts.programs_dir

    def kept(self) -> list[str]:
        """Names of what is kept."""
        found = sorted(path.parent.name for path in Path(self.programs).glob("*/size"))
        return [name for name in found if ".tmp-" not in name]

    async def run(self, code: str, session_id: str = "s", **fields: Any) -> tuple[RunResult, bool]:
        """The result, and whether the program was compiled for it."""
        before = len(self.room.driver.specs)
        result = await self.room.run(code, session_id, **fields)
        return result, compiler_was_needed(self.room.driver.specs[before:])

    async def compiled(self, code: str, session_id: str = "s", **fields: Any) -> str:
        """The output of a program that has to be compiled."""
        return await self._out(True, code, session_id, **fields)

    async def reused(self, code: str, session_id: str = "s", **fields: Any) -> str:
        """The output of a program that is there."""
        return await self._out(False, code, session_id, **fields)

    async def _out(self, expected: bool, code: str, session_id: str, **fields: Any) -> str:
        result, compiled = await self.run(code, session_id, **fields)
        assert (result.stderr, result.exit_code) == ("", 0)
        assert compiled is expected
        assert shows_program(self.room.driver.specs[-1])
        return result.stdout


def compiler_was_needed(specs: list[BoxSpec]) -> bool:
    """Whether a box compiled, of those that were asked for by one run."""
    *compilers, _ = specs
    assert all(not spec.binds for spec in compilers)
    assert len(compilers) <= 1
    return bool(compilers)


def shows_program(spec: BoxSpec) -> bool:
    """Whether a box shows a program that was made."""
    return [bind.target for bind in spec.binds] == [layout.PROGRAM]


TOOL = {"GOFLAGS": "'-toolexec=/bin/bash /workspace/tool.sh'"}
"""A program of the session that stands before every tool of the build."""
both = pytest.mark.parametrize("workshop", ["on demand", "ahead"], indirect=True)
"""With boxes made on demand, and made ahead."""
