"""`era vm shell`: one run for each line, in the directory where the last one ended."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from typing import TYPE_CHECKING, Final

from era.cli.common import HERE, Injected, Server
from era.cli.output import print_json, print_result

if TYPE_CHECKING:
    from era.client import Result, Vm

START: Final = "/workspace"


def shell(*, vm: str, cmd: str = "/bin/bash", server: Server = HERE, common: Injected) -> int:
    """Type shell commands, one a line; exit with the exit code of the last.

    Each line is a run of its own: it cannot read what is typed, and what it leaves running ends with
    it.  The directory is carried from line to line, and `exit` or the end of the input ends it.

    Parameters
    ----------
    vm
        Its id.
    cmd
        The shell that runs each line.
    """
    place, exit_code = START, 0
    with server.open() as era:
        machine = era.vm(vm)
        machine.info()  # an unknown one is refused before anything is typed
        while (line := typed(f"{vm}:{place}$ ")) is not None:
            result, place = run_line(machine, cmd, place, line)
            exit_code = result.exit_code
            if common.json:
                print_json(result.raw)
            else:
                print_result(result, as_json=False)
    return exit_code


def typed(prompt: str) -> str | None:
    """The next line that says something, or None for `exit` and the end.  A prompt only where
    someone sits."""
    while True:
        if sys.stdin.isatty():
            print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line or line.strip() == "exit":
            return None
        if line.strip():
            return line.rstrip("\n")


def run_line(machine: Vm, shell: str, place: str, line: str) -> tuple[Result, str]:
    """The result of a line, and the directory where it ended.

    A shell that ends by itself says so, after a mark, at the end of its output; one that was ended
    does not, and then the directory is the one before.
    """
    mark = f"\x1e{time.monotonic_ns()}\x1e"
    at_the_end = f'printf %s%s {shlex.quote(mark)} "$PWD"'
    script = (
        f"cd -- {shlex.quote(place)} 2>/dev/null || cd {START}\n"
        f"trap {shlex.quote(at_the_end)} EXIT\n"
        f"eval {shlex.quote(line)}"
    )
    result = machine.run(f"exec {shell} -c {shlex.quote(script)}")
    output, marked, ended = result.stdout.rpartition(mark)
    if not marked:
        return result, place
    raw = result.raw | {"stdout": output}
    return dataclasses.replace(result, stdout=output, raw=raw), ended or place
