"""Runs one program of a box and lets no descendant outlive it.

This file is a program of its own (`python -I -S supervisor.py`), started by `process.box` for each
run as the service's own user, with the program's three streams as its own.  It is the reaper of
everything the program starts, detached or not: "every process of the box" is "every descendant of
this process".

argv[1] is a descriptor to read from: `t` asks for SIGTERM to all, `k` for SIGKILL, and so does the
end of file, so that the box dies with the service.  argv[2] is one to write the outcome to, as JSON,
once.  argv[3] is one that holds the program.  Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_LOOK_SECONDS = 0.05
_LOOK_SHARE = 20
"""Looking at the memory may take one part in so many of the time."""
_PAGE = os.sysconf("SC_PAGESIZE")
_LIBC = ctypes.CDLL(None)


def _children() -> list[int]:
    """Every living descendant, by walking the parents of all processes."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            if fields[0] != b"Z":
                parents.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _signal_all(number: int) -> None:
    for pid in _children():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _memory() -> int:
    """Bytes that the descendants have for themselves together."""
    total = 0
    for pid in _children():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
            total += (int(fields[1]) - int(fields[2])) * _PAGE
    return total


def _threads_of_user() -> int:
    """RLIMIT_NPROC counts every thread of the user, the service's too."""
    total = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                total += len(os.listdir(f"/proc/{name}/task"))
    return total


def _limit(limits: dict[str, int], others: int) -> None:
    for name, wanted in limits.items():
        number = getattr(resource, name, None)
        if number is None:
            continue
        value = wanted + others if name == "RLIMIT_NPROC" else wanted
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(number, (value, value))


def _start(program: dict[str, Any], streams: tuple[int, int, int], others: int) -> int:
    """Fork the program: own session, only its three streams, exactly its environment."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for target, source in enumerate(streams):
            os.dup2(source, target)
        os.closerange(3, 1024)
        for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(program["cwd"])
        _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _limit(program["rlimits"], others)
        env = {_bytes(name): _bytes(value) for name, value in program["env"].items()}
        os.execvpe(program["argv"][0], program["argv"], env)  # noqa: S606
    except BaseException as error:  # noqa: BLE001 - a forked child must never return
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        os.write(2, f"{program['named']}: {reason}\n".encode(errors="replace"))
        os._exit(127)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Watch:
    """Looks at the memory now and then; `over` once it was more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.peak = 0
        self.over = False
        self.pause = _LOOK_SECONDS

    def look(self) -> None:
        began = time.monotonic()
        now = _memory()
        self.peak = max(self.peak, now)
        if now > self.limit:
            self.over = True
            _signal_all(signal.SIGKILL)
        self.pause = max(_LOOK_SECONDS, _LOOK_SHARE * (time.monotonic() - began))


def _obey(command: bytes) -> None:
    """Do what the service says."""
    _signal_all(signal.SIGTERM if command == b"t" else signal.SIGKILL)
    if command == b"t":
        # A stopped process acts on the signal only when it goes on.
        _signal_all(signal.SIGCONT)


def _wait_main(main: int, control: int, ended: int, watch: _Watch) -> int:
    """The raw wait status of `main`, obeying commands from `control` meanwhile."""
    while True:
        ready, _, _ = select.select([control, ended], [], [], watch.pause)
        if control in ready:
            _obey(os.read(control, 1))
        if ended in ready:
            os.read(ended, 64)
        else:
            watch.look()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid, status = 0, 0
            if pid == main:
                return status
            if pid == 0:
                break


def _kill_rest() -> None:
    while True:
        _signal_all(signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main() -> None:
    """Run the program named on the descriptor and report how it ended."""
    control, report, described = map(int, sys.argv[1:4])
    for fd in (control, report, described):
        os.set_inheritable(fd, False)
    # The program may be of the same user: this keeps it from our memory and our descriptors.
    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with open(described, encoding="utf-8", errors="surrogatepass") as file:
        program = json.load(file)
    others = _threads_of_user()
    watch = _Watch(program["memory_bytes"])
    started = time.monotonic_ns()
    pid = _start(program, (0, 1, 2), others)
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    status = _wait_main(pid, control, ended, watch)
    duration = time.monotonic_ns() - started
    _kill_rest()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = {
        "status": status,
        "over": watch.over,
        "duration_ns": duration,
        "cpu_ms": round((usage.ru_utime + usage.ru_stime) * 1000),
        "peak_memory_bytes": max(watch.peak, usage.ru_maxrss * 1024),
    }
    os.write(report, json.dumps(outcome).encode())


if __name__ == "__main__":
    main()
