"""A quick end for a forked interpreter, with nothing of a program's own end left out.

At its end Python runs a program's exit functions, flushes, destroys the program's objects (their
`__del__` included) and then takes the interpreter itself apart.  That last part is invisible and
costs more than all the rest: it touches every page that the fork shares with the standing process
(7.6 ms of CPU for a one-line program, 3.6 ms without it; 0.9 ms is the fork).

So, as the last exit function, the modules imported ahead are set aside, and an object is put where
Python looks last: into the dictionary of `sys`.  When that object is destroyed, everything of the
program is (Python/pylifecycle.c, finalize_modules), and the process ends through exit(3), which
flushes C streams and runs C's own exit handlers.

Only a program that came to its normal end takes this way.  After an uncaught exception, or inside
sys.exit (Py_Exit is then on the C stack, which no program can pretend), Python's own way is taken,
which alone knows the exit code.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import types
from typing import Any

_FRAMES = 64
_PY_EXIT_BYTES = 64
"""Py_Exit is a few instructions around two calls; a return address in it lies this close."""
_LEFT = frozenset(
    {"sys", "builtins", "__main__", "threading", "_thread", "io", "_io", "encodings", "codecs"}
)
"""Modules that Python itself needs to end the program."""

_libc = ctypes.CDLL(None)
_frames = (ctypes.c_void_p * _FRAMES)()
_py_exit = ctypes.cast(ctypes.pythonapi.Py_Exit, ctypes.c_void_p).value or 0


class _Last:
    """Its destruction ends the process."""

    def __del__(self, _exit: Any = _libc.exit) -> None:
        _exit(0)


def _in_sys_exit() -> bool:
    count = _libc.backtrace(_frames, _FRAMES)
    return any(0 <= (_frames[i] or 0) - _py_exit < _PY_EXIT_BYTES for i in range(count))


def prepare() -> None:
    """In the standing process: what the first call would cost (the unwinder is loaded then)."""
    _in_sys_exit()


def arrange() -> None:
    """In the program's process, before anything of the program runs: exit functions run in reverse
    order of registration, so this one is last.

    `__main__` is made anew: garbage collection leaves alone what was frozen in the standing process,
    and the program's own objects hang on that dictionary.
    """
    ahead = [name for name in sys.modules if name not in _LEFT]
    atexit.register(_set_aside, ahead)
    old = sys.modules["__main__"]
    new = types.ModuleType("__main__")
    new.__dict__.clear()
    new.__dict__.update(old.__dict__)
    sys.modules["__main__"] = new


def _set_aside(ahead: list[str]) -> None:
    streams = sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
    if not streams or hasattr(sys, "last_type") or _in_sys_exit():
        return
    kept = {name: sys.modules.pop(name) for name in ahead if name in sys.modules}
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    sys.__dict__["_last"] = _Last()
