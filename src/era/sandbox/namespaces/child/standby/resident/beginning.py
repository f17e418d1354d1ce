"""What stays in a program's interpreter, second part: from the gate to the program's first line."""

from __future__ import annotations

import ctypes
import gc
import os
import posix
import site
import sys
import time
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from era.sandbox.namespaces.child.gate import become, say_ready, wait
    from era.sandbox.namespaces.child.standby.resident.ending import (
        functions_on_stack,
        nothing_acts,
        watch_the_end,
    )
    from era.sandbox.namespaces.child.standby.resident.knowing import (
        at_start,
        customized,
        find_customization,
        hide_others,
        hides_packages,
        import_from_here,
    )
    from era.sandbox.namespaces.child.standby.resident.standing import loop, root_of_boxes

_signal: Any = __import__("_signal")
_PR_SET_DUMPABLE = 4
_FIRST_FIELD = 3
_ENV_START_FIELD = 50
_ENV_END_FIELD = 51
_path: list[str] = []
_PROGRAM = """
import sys
class C:
    def f(self, x): return f"{x!r:>3}" + ",".join(str(i) for i in range(3) if x)
try:
    C().f({"a": [1.5, (None,)]}).split(",")[:2]
except ValueError as error:
    raise
"""
libc: Any = ctypes.PyDLL(None)
_area: list[int] = []
_standing: dict[str, str] = {}


def measure() -> None:
    """Find where the kernel looks for /proc/self/environ (proc_pid_stat(5)).  Standing process."""
    with open("/proc/self/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    _area.extend(int(fields[at - _FIRST_FIELD]) for at in (_ENV_START_FIELD, _ENV_END_FIELD))


def begin(gate: int, start: int) -> None:
    """In a program's process, locked up: wait, then be the interpreter that runs the program."""
    if len(sys.modules) != len(at_start) + 1:  # beside them only the hook
        hide_others()
    if not loop:
        gc.collect()  # what brought this process here
    _set_signals()
    _renew_main()
    _rehearse()
    say_ready(gate)
    told = wait(gate, start)
    env = dict(told["env"])
    python_path = env.get("PYTHONPATH", "")
    if python_path:
        _set_path(python_path)
    if _needs_its_own_start(python_path, os.path.dirname(sys.orig_argv[1])):
        become(told["argv"], env)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    _set_environment(env)
    extra = told["argv"][len(sys.orig_argv) :]
    sys.argv.extend(extra)
    sys.orig_argv.extend(extra)
    import_from_here()
    watch_the_end()


def _rehearse() -> None:
    """Do once what a program's start and end do: a page that is copied now is not waited for then."""
    exec(compile(_PROGRAM, "<string>", "exec", dont_inherit=True), {"__name__": "rehearsal"})
    sys.stdout.write("")
    sys.stdout.flush()
    sys.stderr.flush()
    nothing_acts()
    functions_on_stack()


def _set_signals() -> None:
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _renew_main() -> None:
    """Garbage collection leaves alone what was frozen in the standing process, and the program's own
    objects hang on this dictionary."""
    old = sys.modules["__main__"]
    new = ModuleType("__main__")
    vars(new).clear()
    vars(new).update(vars(old))
    sys.modules["__main__"] = new


def stand_in_environment(own: Iterable[str]) -> None:
    """Have the environment that most programs have, so that there is nothing to do for them: this
    process's own but for `own`.  Standing process."""
    env = {name: value for name, value in os.environ.items() if name not in own}
    _write_environment(env)
    _standing.update(env)


def _set_environment(env: Mapping[str, str]) -> None:
    if list(env.items()) != list(_standing.items()):
        _write_environment(env)


def _write_environment(env: Mapping[str, str]) -> None:
    """For Python, for the C library, and for whoever reads /proc/self/environ."""
    zone = _standing.get("TZ", "")
    libc.clearenv()  # first: what the C library has of it lies where the other is written
    posix.environ.clear()  # the dictionary below os.environ
    os.environ.update(env)
    text = b"".join(name + b"=" + value + b"\0" for name, value in posix.environ.items())
    start, end = _area
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, min(len(text), end - start))
    if env.get("TZ") != zone:
        time.tzset()


def keep_path_of_boxes() -> None:
    """Leave out of `sys.path` directories of the host that are in no box.  Standing process."""
    root = root_of_boxes[0]
    sys.path[:] = [at for at in sys.path if at.endswith(".zip") or os.path.isdir(root + at)]
    _path.extend(sys.path)


def _set_path(python_path: str) -> None:
    """What site.py makes of PYTHONPATH."""
    sys.path[:] = [*python_path.split(os.pathsep), *_path]
    site.removeduppaths()


def _needs_its_own_start(python_path: str, beside: str) -> bool:
    """Whether an interpreter would find modules of its own start elsewhere, or a sitecustomize; or a
    program, whose file lies in `beside`, what the packages known here ask for."""
    if not python_path and not customized:
        return hides_packages([beside])
    tops = {name.partition(".")[0] for name in at_start}
    for place in filter(None, python_path.split(os.pathsep)):
        try:
            names = os.listdir(place)
        except OSError:
            continue
        if not tops.isdisjoint(name.partition(".")[0] for name in names):
            return True
    if hides_packages([beside, *python_path.split(os.pathsep)]):
        return True
    return find_customization()
