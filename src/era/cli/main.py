"""The command line: the argument tree, and what each way to fail exits with.

Commands import what they need when they run, so that the help is quick.  Exit codes: 0 done; 1 the
server cannot start (serve, doctor); 2 wrong usage; 125 the service refused or cannot be reached;
commands that run a program give the program's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from cyclopts import App, CycloptsError, Parameter

WRONG_USAGE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every command is told."""

    log_level: str | None = None
    log_file: str | None = None
    json: bool = False


Injected = Annotated[Common, Parameter(parse=False)]
Switch = Annotated[bool, Parameter(negative="")]
Repeated = Annotated[list[str] | None, Parameter(negative="")]

app = App(
    name="era",
    help="Run untrusted code in isolated boxes.",
    help_flags=["--help", "-h"],
    version_flags=[],
    help_format="plaintext",
    result_action="return_value",
)


@app.command(alias="server")
def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    addr: str | None = None,
    state_dir: str | None = None,
    isolation: Literal["auto", "microvm", "gvisor", "namespaces", "process"] | None = None,
    common: Injected,
) -> int:
    """Run the server until it is told to stop.

    Parameters
    ----------
    host
        Listening address.
    port
        Listening port.
    addr
        Both in one: 127.0.0.1:8080, or :8080 for the port alone.
    state_dir
        Where everything is kept.
    isolation
        Isolation tier.
    """
    from era.cli.serve import run

    return run(host, port, addr, state_dir, isolation, common)


@app.command
def doctor(*, state_dir: str | None = None, plan: Switch = False, common: Injected) -> int:
    """Check what the server needs; exit 1 if it could not start.

    Parameters
    ----------
    state_dir
        Where everything is kept.
    plan
        Print the plan of a box and nothing else.
    """
    from era.cli.doctor import run

    return run(state_dir, plan, common)


@app.command
def execute(
    *,
    language: str,
    code: str | None = None,
    file: str | None = None,
    timeout: float | None = None,
    env: Repeated = None,
    allow_internet: Switch = False,
    url: str | None = None,
    api_key: str | None = None,
    common: Injected,
) -> int:
    """Run code once on a server; exit with the program's exit code.

    Parameters
    ----------
    language
        python, node, typescript, go or deno.
    code
        The program; read from --file or standard input when not given.
    file
        File that holds the program.
    timeout
        Seconds, fractions allowed.
    env
        NAME=value; may be given more than once.
    allow_internet
        Let the program reach public addresses.
    url
        Address of the server.
    api_key
        Key of the server.
    """
    from era.cli.execute import run

    return run(language, code, file, timeout, env or [], allow_internet, url, api_key, common)


@app.command
def mcp(*, url: str | None = None, api_key: str | None = None, common: Injected) -> int:
    """Speak MCP on standard input and output: an agent's way to the tools of a server.

    Parameters
    ----------
    url
        Address of the server.
    api_key
        Key of the server.
    """
    from era.cli.mcp import run

    return run(url, api_key, common)


@app.command
def version(*, common: Injected) -> int:
    """Print the version."""
    from era.cli.version import run

    return run(common)


docker = App(name="docker", help="Make, build, run and test the Docker image, in a source tree.")
app.command(docker)


@docker.command(name="compile")
def docker_compile(
    *, output: str | None = None, force: Switch = False, clean: Switch = False
) -> int:
    """Write the Docker files into era-agent/.

    Parameters
    ----------
    output
        Another directory to write into.
    force
        Write over files of these names that were not generated.
    clean
        Remove the generated files instead.
    """
    from era.cli.docker import compile_files

    return compile_files(output, force=force, clean=clean)


@docker.command(name="clean")
def docker_clean(*, output: str | None = None) -> int:
    """Remove the generated files; a file that was not generated stays.

    Parameters
    ----------
    output
        Another directory to clean.
    """
    from era.cli.docker import compile_files

    return compile_files(output, clean=True)


@docker.command(name="build")
def docker_build(*, tag: str | None = None) -> int:
    """Generate the files, make the agent and build the image.

    Parameters
    ----------
    tag
        Name of the image; era-agent:latest if not given.
    """
    from era.cli.docker import build

    return build(tag)


@docker.command(name="run")
def docker_run(*, tag: str | None = None) -> int:
    """Run the image in the foreground.

    Parameters
    ----------
    tag
        Name of the image.
    """
    from era.cli.docker import run

    return run(tag)


@docker.command(name="test")
def docker_test(*, url: str | None = None) -> int:
    """Check a running service: /health, and one execution.

    Parameters
    ----------
    url
        Address of the service.
    """
    from era.cli.docker import check

    return check(url)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    log_level: Literal["debug", "info", "warn", "error"] | None = None,
    log_file: str | None = None,
    json: Switch = False,
) -> int:
    """Take the flags of every command out, and run the command.

    Parameters
    ----------
    log_level
        Least level that is logged.
    log_file
        Where the log goes.
    json
        Print the raw answer.
    """
    if not tokens:
        tokens = _default_command()
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    common = Common(log_level=log_level, log_file=log_file, json=json)
    injected: dict[str, Any] = {name: common for name in ignored if name == "common"}
    return int(command(*bound.args, **bound.kwargs, **injected) or 0)


def _default_command() -> tuple[str, ...]:
    """Without a command: the server where the operator says so, else the help."""
    from era.environment import serves_by_default

    return ("serve",) if serves_by_default() else ("--help",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:], "--help"]
    try:
        result = app.meta(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        print(f"era: {error}", file=sys.stderr)
        print("  See `era --help`.", file=sys.stderr)
        return WRONG_USAGE
    return result if isinstance(result, int) else 0
