"""The gate: where the program's process of a box, locked up and without any right, learns what it is.

`wait` waits until the server opens the gate, and tells what to run; the server has put it into the
memory file `start` before.  `become` starts it.  Standard library only, and no class: this
text is also compiled into interpreters that stand ready (`standby/ahead.py`), where nothing of it may
remain.
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any, NoReturn

NOT_EXECUTABLE = 126
_NOT_FOUND = 127


def say_ready(gate: int) -> None:
    """Tell the server that this process is locked up."""
    say(gate, {"event": "ready"})


def wait(gate: int, start: int) -> dict[str, Any]:
    """The members of `plan.Start`, once the gate opens, in the working directory they name."""
    if not os.read(gate, 64):
        os._exit(0)  # the server is gone
    data = os.pread(start, os.fstat(start).st_size, 0).partition(b"\0")[0]
    told: dict[str, Any] = json.loads(data)
    try:
        os.chdir(told["cwd"])
    except OSError as error:
        number = error.errno or 0
        say(gate, {"event": "failed", "step": "working directory", "errno": number})
        os._exit(NOT_EXECUTABLE)
    say(gate, {"event": "started", "at_ns": time.monotonic_ns()})
    return told


def say(gate: int, message: dict[str, Any]) -> None:
    """Tell the server; nothing is told once a program runs behind the gate."""
    os.write(gate, json.dumps(message).encode())


def become(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Become the program; one that cannot be started ends as a shell would say it (126, 127)."""
    try:
        os.execve(argv[0], argv, env)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(_NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)
