"""`era execute`: run code once on a server."""

from __future__ import annotations

from collections.abc import Sequence

from era.cli.common import Common, Remote, UsageError, attached, program, text_of, variables
from era.cli.output import print_result


def run(
    language: str,
    code: str | None,
    file: str | None,
    stdin: str | None,
    attach: Sequence[str] | None,
    timeout: float | None,
    env: Sequence[str] | None,
    allow_internet: bool,
    cpu: int | None,
    mem: int | None,
    rest: Sequence[str],
    server: Remote,
    common: Common,
) -> int:
    """Run the program; its exit code."""
    source = program(code, file, stdin)
    if source is None:
        raise UsageError("give the code with --code, --file or on standard input")
    with server.open() as era:
        result = era.execute(
            source,
            language=language,
            timeout=timeout,
            env=variables(env),
            files=attached(attach),
            stdin=None if stdin is None else text_of(stdin),
            args=rest or None,
            allow_internet=allow_internet or None,
            cpu_count=cpu,
            memory_mib=mem,
        )
    return print_result(result, as_json=common.json)
