"""What a refusal of the kernel means to who asked for a box."""

from __future__ import annotations

import errno
import os
from typing import Final

from era.errors import BusyError, EraError, InternalError, UnavailableError

SCRATCH: Final = "scratch"
"""The step that needs room on a disk; elsewhere ENOSPC tells that there are namespaces or mounts enough
(namespaces(7), mount(2))."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORT: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ETOOMANYREFS}
)
"""Descriptors, memory or processes: there are enough again once others have ended."""


def refused(step: str, number: int) -> EraError:
    """The error for a `step` of making a box that ended with the errno `number`; 0: it broke."""
    if number in _FULL and step == SCRATCH:
        return UnavailableError("storage_full")
    if number in _FULL or number in _SHORT:
        return BusyError("server_busy")
    reason = os.strerror(number) if number else "ended unexpectedly"
    return InternalError("execution_failed", details=f"{step}: {reason}")
