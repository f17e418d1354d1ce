"""What stays in a program's interpreter, beside the rest: the standing process's loop in C, where there
is one (native/stand.c)."""

from __future__ import annotations

import ctypes
import os
import shutil
from typing import Any

_CONTROL_FD = 3
_let_go: Any = getattr(__import__("_ctypes"), "dlclose")  # noqa: B009 - not in every typeshed
loop: list[Any] = []
"""The function, and what it is called with; empty without one."""
filter_code: list[bytes] = []


root_of_boxes: list[str] = []
"""Where this process sees what all boxes have."""


def prepare_to_stand(path: str, code: bytes, root: str) -> None:
    """Load the library at `path`, if any, from memory: its place is nothing for a program to see."""
    filter_code.append(code)
    root_of_boxes.append(root)
    if not path:
        return
    fd = os.memfd_create("era")
    try:
        with open(path, "rb") as source, open(fd, "wb", closefd=False) as target:
            shutil.copyfileobj(source, target)
        library = ctypes.PyDLL(f"/proc/self/fd/{fd}")
        stand = library.era_stand
    except (OSError, AttributeError):  # of another machine, say, or a Python that hides its names
        return
    finally:
        os.close(fd)
    stand.restype = None
    at_gate = ctypes.c_longlong()
    pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    loop.extend((stand, pids, at_gate, ctypes.byref(at_gate), library._handle))


def stand_in_c() -> tuple[int, int]:
    """Serve the launcher; in a program's process, locked up, the descriptors of its gate and of the
    memory file with the start."""
    stand, pids, at_gate, reference, handle = loop
    stand(_CONTROL_FD, pids, filter_code[0], len(filter_code[0]), reference)
    _let_go(handle)  # a program has no such library
    return at_gate.value & 0xFFFFFFFF, at_gate.value >> 32
