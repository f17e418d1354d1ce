"""What stays in a program's interpreter: the modules it may come to know, its start, and its end.

This file is not imported: `ahead.py` compiles it, behind `gate.py`, without docs and under the name of
Python's own import system, so that nothing a program can look at (frames, tracebacks, modules,
classes) tells that its interpreter was not started for it.  Therefore no class here.

Modules imported ahead are not in `sys.modules`.  An import asks for a known one here, after Python has
found that it is not loaded and where it would go and look for it; only when everything is as it was at
the start, so that looking would find the very file that the known module came from, it is handed out,
with all that its first import would have brought.  In every other case the import goes its usual way.
"""

from __future__ import annotations

import _signal
import _weakref
import atexit
import builtins
import collections
import ctypes
import gc
import itertools
import json
import os
import posix
import resource
import site
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import _bootstrap, _bootstrap_external  # type: ignore[attr-defined]
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from era.sandbox.namespaces.child.gate import become, say_ready, wait

# -- the modules known ahead --

_known: dict[str, Any] = {}
_at_start: dict[str, ModuleType] = {}
_brings: dict[str, tuple[str, ...]] = {}
_looked_for: dict[str, tuple[str, ...]] = {}
_exits: dict[str, list[tuple[Any, ...]]] = {}
_specs: dict[str, Any] = {}
_paths: dict[str, list[str]] = {}
_fresh: set[str] = set()
_apart: set[str] = set()
_core: list[str] = []
_finders: list[Any] = []
_hooks: list[Any] = []
_cache: dict[str, Any] = {}
_genuine_import = builtins.__import__
_genuine_find = _bootstrap._find_spec
_genuine_code = _bootstrap._find_and_load_unlocked.__code__
_FIND = "_find_known"
_asking_code = _genuine_code.replace(
    co_names=tuple(_FIND if name == "_find_spec" else name for name in _genuine_code.co_names)
)
_MISSING = object()


def remember(
    before: dict[str, ModuleType],
    brings: dict[str, tuple[str, ...]],
    exits: dict[str, list[tuple[Any, ...]]],
) -> None:
    """What `ahead.prepare` found: modules of the start; what each other import asks for; exit
    functions that modules register."""
    _at_start.update(before)
    _known.update(before)
    _known.update({name: sys.modules[name] for name in brings})
    _exits.update(exits)
    _core.extend(_places())
    _hooks.extend(sys.path_hooks)
    _finders.extend(sys.meta_path)
    for name in brings:
        _specs[name] = getattr(_known[name], "__spec__", None)
        _paths[name] = list(getattr(_known[name], "__path__", ()))
    for name, asked in brings.items():
        _brings[name] = tuple(need for need in asked if need in _known)
        if all(map(_is_standard, _brings[name])):
            _looked_for[name] = tuple(_file_names(asked))
    _fresh.update(_looked_for)
    _measure()


def _places() -> list[str]:
    """The part of `sys.path` where the standard library is found."""
    library = os.path.dirname(os.__file__)
    first = sys.path.index(library)
    rest = [path for path in sys.path[first + 1 :] if path.startswith(f"{library}/lib-dynload")]
    return [library, *rest]


def _is_standard(name: str) -> bool:
    """Whether looking for the module leads to the standard library alone."""
    spec = _specs.get(name)
    if spec is None or not spec.has_location:
        return True
    return any(os.path.dirname(spec.origin).startswith(place) for place in _core)


def _file_names(names: tuple[str, ...]) -> Iterator[str]:
    """Names that, in a directory searched before the standard library, would come first."""
    suffixes = ["", *_bootstrap_external.EXTENSION_SUFFIXES]
    suffixes += [*_bootstrap_external.SOURCE_SUFFIXES, *_bootstrap_external.BYTECODE_SUFFIXES]
    for name in names:
        spec = _specs.get(name)
        searched = name not in _known or (spec is not None and spec.has_location)
        if searched and "." not in name:
            yield from (name + suffix for suffix in suffixes)


def hide(searched: Mapping[str, Any]) -> None:
    """Take every module that an interpreter does not have at its start out of sight; `searched` is
    where it has looked for modules by then."""
    for name in [name for name in sys.modules if name not in _at_start and name != "sitecustomize"]:
        del sys.modules[name]
    for name in _brings:
        parent, _, child = name.rpartition(".")
        if not parent or name in _brings.get(parent, ()):
            continue  # part of its package from the package's own import on
        if vars(_known[parent]).get(child) is _known[name]:
            delattr(_known[parent], child)
            _apart.add(name)
    places = {place for paths in _paths.values() for place in paths}
    _cache.update({at: finder for at, finder in sys.path_importer_cache.items() if at in places})
    sys.path_importer_cache.clear()
    sys.path_importer_cache.update(searched)
    _bootstrap_external.PathFinder.find_spec("sitecustomize")  # so it has looked everywhere


def _find_known(name: str, path: Any, target: Any = None) -> Any:
    """What import asks instead of its own search: how to hand out a known module, or where it is."""
    if name in _fresh and _as_at_start(name, path):
        return _bootstrap.ModuleSpec(name, _loader)
    return _genuine_find(name, path, target)


def _as_at_start(name: str, path: Any) -> bool:
    if builtins.__import__ is not _genuine_import or sys.gettrace() or sys.getprofile():
        return False  # who watches imports sees them all
    if sys.meta_path != _finders or sys.path_hooks != _hooks:
        return False
    parent = name.rpartition(".")[0]
    if parent and path != _paths.get(parent, _MISSING):
        return False
    for need in _brings[name]:
        there = sys.modules.get(need, _MISSING)
        if there is not _known[need] and (there is not _MISSING or need not in _fresh):
            return False
    return not _hidden_by_others(_looked_for[name])


def _hidden_by_others(names: tuple[str, ...]) -> bool:
    """Whether a directory that comes before the standard library has one of `names`."""
    for index, place in enumerate(sys.path):
        if place == _core[0]:
            return sys.path[index : index + len(_core)] != _core
        finder = _bootstrap_external.PathFinder._path_importer_cache(place)
        if finder is None:
            continue
        if type(finder) is not _bootstrap_external.FileFinder:
            return True
        found = _entries(finder)
        if any(name in found for name in names):
            return True
    return True


def _entries(finder: Any) -> Any:
    """Names in a directory, as the finder itself would come to know them."""
    try:
        changed = os.stat(finder.path or os.getcwd()).st_mtime
    except OSError:
        changed = -1
    if changed != finder._path_mtime:
        finder._fill_cache()
        finder._path_mtime = changed
    return finder._path_cache


def _hand_out(module: ModuleType) -> None:
    """Puts a module and all that its import brings where a program finds them."""
    spec: Any = module.__spec__
    name = spec.name
    module.__spec__ = _specs[name]
    for need in _brings[name]:
        if need in _fresh and (need == name or need not in sys.modules):
            _fresh.discard(need)
            sys.modules[need] = _known[need]
            parent, _, child = need.rpartition(".")
            if need in _apart:
                setattr(_known[parent], child, _known[need])
            for place in _paths.get(parent, ()):
                if place in _cache:
                    sys.path_importer_cache.setdefault(place, _cache[place])
            for call, names in _exits.get(need, ()):
                atexit.register(*call, **names)


_loader = SimpleNamespace(create_module=lambda spec: _known[spec.name], exec_module=_hand_out)


def _ask_here() -> None:
    """Lets the import statement ask `_find_known` where it asked `_find_spec`; whoever else asks for
    a spec (importlib.util, reload) gets the genuine one."""
    setattr(_bootstrap, _FIND, _find_known)
    _bootstrap._find_and_load_unlocked.__code__ = _asking_code


def forget(package: str) -> None:
    """Leave nothing of `package`: its functions go with its modules' names, the rest is collected."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        vars(sys.modules.pop(name)).clear()
    gc.collect()


# -- the start --

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_ENV_START_FIELD = 50
_ENV_END_FIELD = 51
_FIRST_FIELD = 3
_libc = ctypes.PyDLL(None)
_area: list[int] = []


def _measure() -> None:
    """Find where the kernel looks for /proc/self/environ (proc_pid_stat(5)), and do once what costs
    at the first time (the unwinder is loaded then)."""
    with open("/proc/self/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    _area.extend(int(fields[at - _FIRST_FIELD]) for at in (_ENV_START_FIELD, _ENV_END_FIELD))
    _on_stack()


def _set_environment(env: Mapping[str, str]) -> None:
    """For Python, for the C library, and for whoever reads /proc/self/environ."""
    _libc.clearenv()  # first: what the C library has of it lies where the other is written
    posix.environ.clear()  # the dictionary below os.environ
    os.environ.update(env)
    text = b"".join(name + b"=" + value + b"\0" for name, value in posix.environ.items())
    start, end = _area
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, min(len(text), end - start))


def _set_path(python_path: str) -> None:
    """What site.py makes of PYTHONPATH; directories of the host that are not in the box go."""
    sys.path[:] = [path for path in sys.path if path.endswith(".zip") or os.path.isdir(path)]
    if python_path:
        sys.path[:0] = python_path.split(os.pathsep)
        site.removeduppaths()


def _needs_its_own_start(python_path: str) -> bool:
    """Whether an interpreter would find modules of its own start elsewhere, or a sitecustomize."""
    tops = {name.partition(".")[0] for name in _at_start}
    for place in filter(None, python_path.split(os.pathsep)):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        if not tops.isdisjoint(name.partition(".")[0] for name in names):
            return True
    return _bootstrap_external.PathFinder.find_spec("sitecustomize") is not None


def _set_signals() -> None:
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _set_thread() -> None:
    threading = _known.get("threading")
    if threading is not None:
        threading.main_thread()._set_native_id()


def begin(gate: int, start: int, ready: int) -> None:
    """In a program's process, locked up: wait, then be the interpreter that runs the program."""
    forget("era")
    for name in [name for name in sys.modules if name not in _at_start and name != "sitecustomize"]:
        del sys.modules[name]
    _set_signals()
    _set_thread()
    _libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    say_ready(ready)
    told = wait(gate, start)
    env = dict(told["env"])
    python_path = env.get("PYTHONPATH", "")
    _set_path(python_path)
    if _needs_its_own_start(python_path):
        become(told["argv"], env)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    _set_environment(env)
    time.tzset()
    extra = told["argv"][len(sys.orig_argv) :]
    sys.argv.extend(extra)
    sys.orig_argv.extend(extra)
    _renew_main()
    _ask_here()
    _watch_the_end()


def _renew_main() -> None:
    """Garbage collection leaves alone what was frozen in the standing process, and the program's own
    objects hang on this dictionary."""
    old = sys.modules["__main__"]
    new = ModuleType("__main__")
    vars(new).clear()
    vars(new).update(vars(old))
    sys.modules["__main__"] = new


# -- the end --

_MAX_FRAMES = 64
_LARGE_KIB = 128 << 10
_frames = ctypes.create_string_buffer(8 * _MAX_FRAMES)
_info = ctypes.create_string_buffer(32)
_dladdr = _libc.dladdr
_backtrace = _libc.backtrace
_exit = _libc.exit
_keep = _libc.Py_IncRef
_keep.argtypes = [ctypes.py_object]
_dladdr.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_FUNCTIONS = {
    name: ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value
    for name in ("Py_FinalizeEx", "Py_Exit", "Py_RunMain")
}
_exit_code: list[int] = []
_CLOSABLE = frozenset(
    {"FileIO", "BufferedReader", "BufferedWriter", "BufferedRandom", "TextIOWrapper"}
)
_QUIET = frozenset({"BytesIO", "StringIO"})
_RUNNING = {"generator": "gi_frame", "coroutine": "cr_frame", "async_generator": "ag_frame"}
_slots = type.__dict__
_mro_of: Callable[[type], tuple[type, ...]] = _slots["__mro__"].__get__
_dict_of: Callable[[type], Mapping[str, Any]] = _slots["__dict__"].__get__


def _watch_the_end() -> None:
    """Call `_end` last of all exit functions.

    While the program traces or profiles, it must not be called: such a program would see it.  The
    condition is therefore made of parts that have no frames: `_end` is called for every item that is
    left when both hooks are None.
    """
    hooks = (iter(sys.gettrace, None), iter(sys.getprofile, None))
    watched = map(any, [map(next, hooks, (None, None))])
    calls = map(_end, itertools.filterfalse(None, watched))
    atexit.register(collections.deque, calls, 0)


def _end(_watched: bool) -> None:
    """The last exit function.

    To take an interpreter apart costs more than all the rest of a short run, and nobody sees it but
    objects of the program that do something when they are destroyed.  Without such objects it is left
    out.  With them, the known modules are set aside while Python destroys the program's; if then any
    are left, they hang on a known module, and all goes Python's own way.
    """
    if gc.callbacks or gc.garbage or gc.get_debug():
        _let_go()  # who watches collection sees it all
        return
    stack = _on_stack()
    if stack == {"Py_FinalizeEx", "Py_RunMain"} and not hasattr(sys, "last_type"):
        _exit_code.append(0)
    if any(_is_foreign(name, module) for name, module in sys.modules.items()):
        _exit_code.clear()  # what compiled code does at its end is not known
    elif _leaves_nothing():
        _finish()
        _known.update(sys.modules)
        _keep(_known)
        sys.modules.clear()
        return
    gc.collect()
    for name in [name for name, module in sys.modules.items() if _known.get(name) is module]:
        if name not in ("sys", "builtins"):
            sys.modules[name] = None  # type: ignore[assignment]  # as Python's own end does
    # Of all objects, what hangs on a name in sys that begins so is destroyed last but for the rest
    # of sys and builtins (finalize_modules in Python/pylifecycle.c).
    marker: set[None] = set()
    _keep(_weakref.ref(marker, _when_the_program_is_gone))
    vars(sys)["_last"] = marker


def _when_the_program_is_gone(_marker: Any) -> None:
    if _leaves_nothing():
        _finish()
        _keep(_known)
        return
    collect = gc.collect
    imported = [vars(_known[name]) for name in _brings if name not in _fresh]
    _let_go()
    globals().clear()  # modules hang on these names too
    collect()
    for names in reversed(imported):
        for name in names:
            names[name] = None
    collect()


def _let_go() -> None:
    """Leave every module and every object to Python's own end."""
    _bootstrap._find_and_load_unlocked.__code__ = _genuine_code
    delattr(_bootstrap, _FIND)
    for names in (_known, _at_start, _specs, _exits, _cache):
        names.clear()
    gc.unfreeze()


def _finish() -> None:
    """Exit, where the exit code is known and nothing more is to be said."""
    if _exit_code and _flushed():
        _exit(_exit_code[0])


def _on_stack() -> set[str]:
    """Which of the functions that end an interpreter are on this thread's C stack.  Only Py_Exit's
    caller knows an exit code, and no program can pretend to be on that stack."""
    count = _backtrace(_frames, _MAX_FRAMES)
    found = set()
    for address in struct.unpack_from(f"={count}Q", _frames):
        if _dladdr(address - 1, _info):
            start = struct.unpack_from("=4Q", _info)[3]
            found |= {name for name, at in _FUNCTIONS.items() if at == start}
    return found


def _flushed() -> bool:
    names = vars(sys)
    for stream in ("stdout", "stderr"):
        if names.get(stream, _MISSING) is not names.get(f"__{stream}__"):
            return False
        try:
            names[stream].flush()
        except BaseException:  # noqa: BLE001 - Python's own end says it as it does
            return False
    return True


def _leaves_nothing() -> bool:
    """Whether no object of the program does anything when it is destroyed."""
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _LARGE_KIB:
        return False  # to look at every object would cost more than it saves
    objects = gc.get_objects()
    loud = {kind for kind in set(map(type, objects)) if _is_loud(kind)}
    return not any(type(each) in loud and _acts(each) for each in objects)


def _is_foreign(name: str, module: Any) -> bool:
    """Whether a module is compiled code that is not known here, or no module at all."""
    if _known.get(name) is module:
        return False
    if type(module) is not ModuleType:
        return True
    loader = getattr(module, "__loader__", None)
    return type(loader) is not _bootstrap_external.SourceFileLoader and name != "__main__"


def _is_loud(kind: type) -> bool:
    if _is_weak(kind) or type in _mro_of(kind):
        return True
    return any("__del__" in _dict_of(base) for base in _mro_of(kind))


def _is_weak(kind: type) -> bool:
    return any(base.__name__ == "ReferenceType" for base in _mro_of(kind))


def _acts(each: Any) -> bool:
    kind = type(each)
    if type in _mro_of(kind):
        return any("__del__" in _dict_of(base) for base in _mro_of(each))
    if _is_weak(kind):
        return _is_program(each.__callback__)
    name = kind.__name__
    if kind.__module__ == "_io" and name in _CLOSABLE:
        return not each.closed
    if kind.__module__ == "builtins" and name in _RUNNING:
        return getattr(each, _RUNNING[name]) is not None
    return not (kind.__module__ == "_io" and name in _QUIET)


def _is_program(callback: Any) -> bool:
    """Whether a callback is anything but a function of a known module, or of abstract classes."""
    if callback is None or _is_weak(type(getattr(callback, "__self__", None))):
        return False
    names = getattr(callback, "__globals__", None)
    return not any(names is vars(module) for module in _known.values())
