"""Runs one program of the fake box and lets no descendant outlive it.

This file is a program of its own (`python -I -S supervisor.py`), started by `tests.fakes.driver`
for each run, with the program's three streams as its own.  It is the reaper of everything the
program starts, detached or not: "every process of the box" is "every descendant of this process".

argv[1] is a descriptor to read from: `t` asks for SIGTERM to all, `k` for SIGKILL, and so does the
end of file, so that the box dies with the tests.  argv[2] is one to write the outcome to, as JSON,
once.  argv[3] is the file that holds the program.  Standard library only.
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

_PR_SET_CHILD_SUBREAPER = 36


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
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _start(program: dict[str, Any], streams: tuple[int, int, int]) -> int:
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
        env = {k.encode(): v.encode("utf-8", "surrogateescape") for k, v in program["env"].items()}
        os.execvpe(program["argv"][0], program["argv"], env)
    except BaseException as error:  # noqa: BLE001 - a forked child must never return
        os.write(2, f"{program['argv'][0]}: {error}\n".encode())
        os._exit(127)


def _wait_main(main: int, control: int, ended: int) -> int:
    """The raw wait status of `main`, obeying commands from `control` meanwhile."""
    while True:
        ready, _, _ = select.select([control, ended], [], [])
        if control in ready:
            command = os.read(control, 1)
            _signal_all(signal.SIGTERM if command == b"t" else signal.SIGKILL)
            if command == b"t":
                # A stopped process acts on the signal only when it goes on.
                _signal_all(signal.SIGCONT)
        if ended in ready:
            os.read(ended, 64)
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
    """Run the program named on the control descriptor and report how it ended."""
    control, report = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with open(sys.argv[3], encoding="utf-8") as file:
        program = json.load(file)
    started = time.monotonic_ns()
    pid = _start(program, (0, 1, 2))
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    status = _wait_main(pid, control, ended)
    duration = time.monotonic_ns() - started
    _kill_rest()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = {
        "status": status,
        "duration_ns": duration,
        "cpu_ms": round((usage.ru_utime + usage.ru_stime) * 1000),
        "peak_memory_bytes": usage.ru_maxrss * 1024,
    }
    os.write(report, json.dumps(outcome).encode())


if __name__ == "__main__":
    main()
