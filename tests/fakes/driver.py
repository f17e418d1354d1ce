"""ProcessDriver: the `process` tier with a memory for what was asked of it.

It claims to enforce everything, so that results on it look as they do where that is so.  Names of
the box inside of files are not rewritten, so programs of tests use relative paths.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractAsyncContextManager

from era.sandbox.base import Box, BoxSpec
from era.sandbox.process.box import ProcessBox
from era.sandbox.process.driver import ProcessDriver as Real

__all__ = ["ProcessBox", "ProcessDriver"]


class ProcessDriver(Real):
    """Opens process boxes below a directory of its own; `specs` are those asked for."""

    def __init__(self, scratch: str | None = None) -> None:
        super().__init__(tempfile.mkdtemp(prefix="boxes-", dir=scratch))
        self.specs: list[BoxSpec] = []

    @property
    def unenforced(self) -> tuple[str, ...]:
        """Nothing, as it says."""
        return ()

    def box(self, spec: BoxSpec) -> AbstractAsyncContextManager[Box]:
        """See `Driver.box`."""
        self.specs.append(spec)
        return super().box(spec)
