"""What stays in a program's interpreter, last part: its end.

To take an interpreter apart costs more than all the rest of a short run: nearly every page that a fork
shares with the standing process is written to.  Nobody sees it but objects of the program that do
something when they are destroyed.  So, as the last exit function:

* without such objects, it is left out;
* with them, everything goes Python's own way.
"""

from __future__ import annotations

import atexit
import collections
import ctypes
import gc
import itertools
import resource
import struct
import sys
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from era.sandbox.namespaces.child.standby.resident.beginning import libc
    from era.sandbox.namespaces.child.standby.resident.knowing import (
        MISSING,
        external,
        import_as_usual,
        known,
    )

_MAX_FRAMES = 64
_RTLD_DL_SYMENT = 1
_SIZE_OFFSET = 16
_LARGE_KIB = 128 << 10
_frames = ctypes.create_string_buffer(8 * _MAX_FRAMES)
_exit = libc.exit
_leave = libc._exit
_flush_all = libc.fflush
_FOREIGN_CALLS = frozenset({"ctypes", "_ctypes"})
_keep = libc.Py_IncRef
_keep.argtypes = [ctypes.py_object]
_backtrace = libc.backtrace
_ENDING = ("Py_FinalizeEx", "Py_Exit", "Py_RunMain")
_ranges: list[tuple[str, int, int]] = []
"""Where the code of each of these functions begins and ends."""
_NORMAL_END = frozenset({"Py_FinalizeEx", "Py_RunMain"})
_FILES = frozenset(
    {"FileIO", "BufferedReader", "BufferedWriter", "BufferedRandom", "TextIOWrapper"}
)
_IN_MEMORY = frozenset({"BytesIO", "StringIO"})
_RUNNING = {"generator": "gi_frame", "coroutine": "cr_frame", "async_generator": "ag_frame"}
_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_dict_of: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__
_exit_code: list[int] = []


def watch_the_end() -> None:
    """Have `_end` called last of all exit functions.

    While the program traces or profiles, it must not be called: such a program would see it.  The
    condition is therefore made of parts that have no frames: `_end` is called for every item that is
    left, and there is one only when both hooks are None.
    """
    hooks = (iter(sys.gettrace, None), iter(sys.getprofile, None))
    watched = map(any, [map(next, hooks, (None, None))])
    calls = map(_end, itertools.filterfalse(None, watched))
    atexit.register(collections.deque, calls, 0)


def _end(_watched: bool) -> None:
    try:
        quiet = not (gc.callbacks or gc.garbage or gc.get_debug())
        if quiet and _end_quickly():
            return
    except BaseException:  # noqa: BLE001 - a handler of a signal, say; this part must not be seen
        _exit_code.clear()
    # Python takes apart what it finds here; a module that it did not find would keep alive what the
    # program hung on it.
    for name, module in known.items():
        sys.modules.setdefault(name, module)
    import_as_usual()
    gc.unfreeze()


def _end_quickly() -> bool:
    """Whether the interpreter need not be taken apart in Python's own way."""
    if any(_is_foreign(name, module) for name, module in sys.modules.items()):
        return False  # what compiled code does at its end is not known
    if not nothing_acts():
        return False
    if functions_on_stack() == _NORMAL_END and not hasattr(sys, "last_type"):
        _exit_code.append(0)
    _finish()
    known.update(sys.modules)
    _keep(known)
    sys.modules.clear()
    return True


def _finish() -> None:
    """Exit, where the exit code is known and nothing more is to be said."""
    if _exit_code and _flushed():
        if not _FOREIGN_CALLS.isdisjoint(sys.modules):
            _exit(_exit_code[0])  # the C library's own exit functions may be the program's
        _flush_all(None)
        _leave(_exit_code[0])


def find_functions() -> None:
    """Look up where the functions that end an interpreter are: once, since that reads the whole
    table of symbols (dladdr1(3), RTLD_DL_SYMENT; elf(5), Elf64_Sym).  Standing process."""
    libc.dladdr1.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    for name in _ENDING:
        start = ctypes.cast(getattr(libc, name), ctypes.c_void_p).value
        found = ctypes.create_string_buffer(32)
        symbol = ctypes.c_void_p()
        if not start or not libc.dladdr1(start, found, ctypes.byref(symbol), _RTLD_DL_SYMENT):
            raise OSError(f"{name} is not to be found")
        (size,) = struct.unpack("=Q", ctypes.string_at((symbol.value or 0) + _SIZE_OFFSET, 8))
        _ranges.append((name, start, start + size))


def functions_on_stack() -> set[str]:
    """Which of the functions that end an interpreter are on this thread's C stack.  Only the caller
    of Py_Exit knows its exit code, and no program can pretend to be on that stack."""
    count = _backtrace(_frames, _MAX_FRAMES)
    addresses = struct.unpack_from(f"={count}Q", _frames)
    return {
        name for name, start, end in _ranges if any(start < address <= end for address in addresses)
    }


def _flushed() -> bool:
    names = vars(sys)
    for stream in ("stdout", "stderr"):
        if names.get(stream, MISSING) is not names.get(f"__{stream}__"):
            return False
        try:
            names[stream].flush()
        except BaseException:  # noqa: BLE001 - Python's own end says it as it does
            return False
    return True


def _is_foreign(name: str, module: Any) -> bool:
    """Whether a module is compiled code that is not known here, or no module at all."""
    if known.get(name) is module:
        return False
    loader = getattr(module, "__loader__", None)
    return type(module) is not ModuleType or type(loader) is not external.SourceFileLoader


def nothing_acts() -> bool:
    """Whether no object of the program does anything when it is destroyed."""
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _LARGE_KIB:
        return False  # to look at every object would cost more than it saves
    objects = gc.get_objects()
    loud = {kind for kind in set(map(type, objects)) if _may_act(kind)}
    return not any(type(each) in loud and _acts(each) for each in objects)


def _may_act(kind: type) -> bool:
    if _is_weak(kind) or type in _mro_of(kind):
        return True
    return any("__del__" in _dict_of(base) for base in _mro_of(kind))


def _is_weak(kind: type) -> bool:
    return weakref.ReferenceType in _mro_of(kind)


def _acts(each: Any) -> bool:
    """Whether an object of a kind that may act does; of a class, whether its objects may."""
    kind = type(each)
    if type in _mro_of(kind):
        return any("__del__" in _dict_of(base) for base in _mro_of(each))
    if _is_weak(kind):
        return _is_the_programs(each.__callback__)
    module, name = kind.__module__, kind.__name__
    if module == "_io" and name in _FILES:
        return not each.closed
    if module == "builtins" and name in _RUNNING:
        return getattr(each, _RUNNING[name]) is not None
    return not (module == "_io" and name in _IN_MEMORY)


def _is_the_programs(callback: Any) -> bool:
    """Whether a callback is anything but a function of a known module, or of abstract classes."""
    if callback is None or _is_weak(type(getattr(callback, "__self__", None))):
        return False
    names = getattr(callback, "__globals__", None)
    return not any(names is vars(module) for module in known.values())
