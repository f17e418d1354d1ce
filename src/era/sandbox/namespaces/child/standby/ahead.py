"""Imports modules before any program does, and notes what a first import of each would bring.

Standing process only, before it forks; nothing of this module stays.  While a module runs, every
import it asks for is noted, as is every function it registers for the end or for forks: those take
effect when a program imports the module, as do its filters of warnings and its finders of modules.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

from era.sandbox.namespaces.child import standby, syscalls, wire
from era.sandbox.plan import Foundation, decode_foundation

_warnings: Any = __import__("_warnings")
_bootstrap: Any = sys.modules["_frozen_importlib"]
_OURS: Final = (
    *("ctypes", "dataclasses", "errno", "fcntl", "gc", "json", "platform", "resource", "select"),
    *("signal", "socket", "stat", "struct", "typing", "contextlib", "collections.abc", "site"),
)
"""What this service's own part needs: imported now, it is known and out of sight like the rest."""
_UNSEEN_NAME: Final = "<frozen importlib._bootstrap>"
"""The name that what stays is compiled under: like Python's own import system, it is left out of
tracebacks and of the frames that warnings are attributed to."""
_OPENSSL_INIT_NO_ATEXIT: Final = 0x80000
_PARTS: Final = (
    "../gate.py",
    *(f"resident/{part}.py" for part in ("knowing", "beginning", "ending", "standing")),
)


def _nothing(*_call: Any) -> None:
    """What there is before there is anything else."""


class Recorder:
    """Notes what importing each module brings.  `before` is what an interpreter has at its start."""

    def __init__(self, before: Mapping[str, ModuleType]) -> None:
        self.needs: dict[str, dict[str, None]] = {}
        self.exits: dict[str, list[tuple[Any, ...]]] = {}
        self.forks: dict[str, list[dict[str, Any]]] = {}
        self.lists: dict[str, list[tuple[str, list[Any]]]] = {}
        self._lists = {"finders": sys.meta_path, "filters": _warnings.filters}
        self._there = {name: list(items) for name, items in self._lists.items()}
        self._begun = {name: list(items) for name, items in self._lists.items()}
        self._seen = {*before, *sys.modules}
        self._running: list[str] = []
        self._load: Callable[..., Any] = _bootstrap._find_and_load_unlocked
        self._ask: Callable[..., Any] = _bootstrap._find_and_load
        self._import: Callable[..., Any] = builtins.__import__
        self._register: Callable[..., Any] = _nothing

    def run(self, names: Iterable[str]) -> None:
        """Import `names`; one that this Python does not have is left out."""
        _bootstrap._find_and_load_unlocked = self._loading
        _bootstrap._find_and_load = self._asking
        builtins.__import__ = self._importing  # type: ignore[assignment]
        atexit: Any = __import__("atexit")
        self._register, atexit.register = atexit.register, self._registering
        at_fork: Any = os.register_at_fork
        os.register_at_fork = self._noting_fork
        try:
            for name in names:
                self._try(name)
        finally:
            _bootstrap._find_and_load_unlocked = self._load
            _bootstrap._find_and_load = self._ask
            builtins.__import__ = self._import
            atexit.register = self._register
            os.register_at_fork = at_fork
            for name, items in self._lists.items():
                items[:] = self._begun[name]

    def _try(self, name: str) -> None:
        try:
            __import__(name)
        except Exception:  # noqa: BLE001 - packages are not ours
            return  # for another version of Python, say; a program that needs it will hear it itself

    def _note(self, *names: str) -> None:
        """The running module asks for `names`; before that, what it put there itself (typing.io)."""
        if not self._running:
            return
        needs = self.needs[self._running[-1]]
        for more in [name for name in sys.modules if name not in self._seen]:
            self._seen.add(more)
            if more not in self.needs:
                self.needs[more] = {}
                needs[more] = None
        for name in names:
            if name != self._running[-1]:
                needs.setdefault(name)
        self._note_lists()

    def _note_lists(self) -> None:
        """What the running module has put into lists of the interpreter."""
        for name, items in self._lists.items():
            there = self._there[name]
            new = [item for item in items if not any(item is one for one in there)]
            if new:
                self._there[name] = list(items)
                self.lists.setdefault(self._running[-1], []).append((name, new))

    def _loading(self, name: str, import_: Any) -> Any:
        self._note(name)
        self._running.append(name)
        parent = name.rpartition(".")[0]
        self.needs[name] = {parent: None} if parent else {}
        try:
            return self._load(name, import_)
        finally:
            self._note()
            self._running.pop()

    def _asking(self, name: str, import_: Any) -> Any:
        self._note(name)
        return self._ask(name, import_)

    def _importing(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: tuple[str, ...] = (),
        level: int = 0,
    ) -> Any:
        result = self._import(name, globals, locals, fromlist, level)
        if self._running:
            package = _bootstrap._calc___package__(globals or {}) if level else ""
            full = _bootstrap._resolve_name(name, package, level) if level else name
            while full:
                self._note(full)
                full = full.rpartition(".")[0]
            top = result.__name__ if fromlist else ""
            for item in fromlist or ():
                if f"{top}.{item}" in self.needs:
                    self._note(f"{top}.{item}")
        return result

    def _registering(self, *call: Any, **names: Any) -> Any:
        if not self._running:
            return self._register(*call, **names)
        self.exits.setdefault(self._running[-1], []).append((call, names))
        return call[0]

    def _noting_fork(self, **functions: Any) -> None:
        self.forks.setdefault(self._running[-1], []).append(functions)


def _asked_for(name: str, needs: Mapping[str, Iterable[str]]) -> list[str]:
    """What a first import of `name` asks for, in the order in which it is there in the end, among it
    what is not to be had."""
    done: list[str] = []
    entered = {name}
    stack = [(name, iter(needs[name]))]
    while stack:
        current, rest = stack[-1]
        need = next((need for need in rest if need not in entered), None)
        if need is None:
            done.append(current)
            stack.pop()
        else:
            entered.add(need)
            stack.append((need, iter(needs.get(need, ()))))
    return done


def _resident() -> dict[str, Any]:
    """What stays in a program's interpreter: compiled without docs, under a name that hides it."""
    namespace: dict[str, Any] = {"__name__": "_frozen_importlib", "__builtins__": builtins}
    for part in _PARTS:
        with open(os.path.join(os.path.dirname(__file__), part), encoding="utf-8") as file:
            code = compile(file.read(), _UNSEEN_NAME, "exec", dont_inherit=True, optimize=2)
        exec(code, namespace)  # text of this package
    return namespace


def _spare_the_end_of_openssl() -> None:
    """Have libcrypto not free its tables when a program ends (OPENSSL_init_crypto(3)): that touches
    some 200 pages, each of which is copied then, for memory that the kernel takes back anyway.  To be
    called before anything that uses it is imported."""
    with suppress(OSError, AttributeError, ImportError):  # a Python without it
        spec = importlib.util.find_spec("_hashlib")
        if spec is not None and spec.origin is not None:
            libcrypto = ctypes.CDLL(spec.origin)
            libcrypto.OPENSSL_init_crypto(ctypes.c_uint64(_OPENSSL_INIT_NO_ATEXIT), None)


def prepare(before: Mapping[str, ModuleType]) -> dict[str, Any]:
    """Import what is wanted ahead; the names of what stays (`resident`), told what is known."""
    # What importing this module brought is imported again, to be noted.
    for name in [name for name in sys.modules if name not in before]:
        if name.partition(".")[0] not in ("era", "sitecustomize"):
            del sys.modules[name]
    _spare_the_end_of_openssl()
    recorder = Recorder(before)
    recorder.run([*_OURS, *os.environ[standby.AHEAD].split()])
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a package has started a thread: forks would be without it")
    asked = {
        name: tuple(_asked_for(name, recorder.needs))
        for name in recorder.needs
        if name in sys.modules
    }
    resident = _resident()
    resident["remember"](dict(before), asked, recorder.exits, recorder.forks, recorder.lists)
    resident["measure"]()
    resident["stand_in_environment"](("PYTHONPATH", standby.AHEAD, standby.PAD))
    resident["find_functions"]()
    resident["functions_on_stack"]()  # the first time costs: the unwinder is loaded
    foundation = _told()
    resident["prepare_to_stand"](
        foundation.stand, bytes.fromhex(foundation.filter), foundation.base_dir
    )
    return resident


def _told() -> Foundation:
    """The launcher's first message.  This process ends with the launcher, whatever happens."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=standby.CONTROL_FD)
    message, fds = wire.receive(control)
    control.detach()
    if message is None:
        os._exit(0)
    try:
        return decode_foundation(wire.read_all(fds[0]))
    finally:
        for fd in fds:
            os.close(fd)
