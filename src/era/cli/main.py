"""The command line: the argument tree, and what each way to fail exits with.

Commands import what they need when they run, so that the help is quick.  Exit codes: 0 done; 1 the
server cannot start (serve, doctor); 2 wrong usage; 125 the service refused or cannot be reached;
commands that run a program give the program's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from era.cli.common import (
    CANNOT_START,
    HERE,
    INTERRUPTED,
    REFUSED,
    STANDARD_INPUT,
    WRONG_USAGE,
    Common,
    Injected,
    Repeated,
    Rest,
    Server,
    Switch,
    UsageError,
    examples,
)
from era.cli.output import note, print_error, print_usage_error
from era.errors import EraError

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


@app.command(
    help_epilogue=examples(
        "era execute --language python --code 'print(6 * 7)'",
        "era execute --language node --file hello.js --attach data.csv -- --verbose",
    )
)
def execute(
    *,
    language: str,
    code: str | None = None,
    file: str | None = None,
    stdin: str | None = None,
    attach: Repeated = None,
    timeout: float | None = None,
    env: Repeated = None,
    allow_internet: Switch = False,
    cpu: int | None = None,
    mem: int | None = None,
    server: Server = HERE,
    rest: Rest = (),
    common: Injected,
) -> int:
    """Run code once on a server; exit with the program's exit code.

    What stands after -- are the program's arguments.

    Parameters
    ----------
    language
        python, node, typescript, go or deno.
    code
        The program; read from --file or standard input when not given.
    file
        File that holds the program.
    stdin
        File that the program reads as its standard input; - for this one.
    attach
        Local file that the program finds beside it, as FILE or PATH=FILE; may be given more than once.
    timeout
        Seconds, fractions allowed.
    env
        NAME=value; may be given more than once.
    allow_internet
        Let the program reach public addresses.
    cpu
        CPUs.
    mem
        Memory in MiB.
    """
    from era.cli.execute import run

    return run(
        language,
        code,
        file,
        stdin,
        attach,
        timeout,
        env,
        allow_internet,
        cpu,
        mem,
        rest,
        server,
        common,
    )


app.command(
    "era.cli.sessions:session",
    name="session",
    help="Sessions: code that finds its files and data again.",
)
app.command(
    "era.cli.vms:vm",
    name="vm",
    help="VMs: a place for shell commands that stays until it is deleted.",
)


@app.command(help_epilogue=examples("era upload demo ./project"))
def upload(
    session_id: str,
    directory: str,
    api_url: str | None = None,
    /,
    *,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Upload a directory into a session, ten files at a time; exit with the number of failures.

    Left out are version control, installed packages, caches, builds and files that look like secrets.

    Parameters
    ----------
    session_id
        Id of the session.
    directory
        The local directory.
    api_url
        Address of the server; the same as --url.
    """
    from dataclasses import replace

    from era.cli.upload import run

    return run(session_id, directory, replace(server, url=api_url) if api_url else server, common)


@app.command(help_epilogue=examples("source <(era completion bash)"))
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print what makes a shell complete the commands and flags.

    Parameters
    ----------
    shell
        Which shell.
    """
    from era.cli.completion import script

    print(script(app, shell))
    return 0


@app.command
def mcp(*, server: Server = HERE, common: Injected) -> int:
    """Speak MCP on standard input and output: an agent's way to the tools of a server."""
    from era.cli.mcp import run

    return run(server, common)


@app.command
def version(*, common: Injected) -> int:
    """Print the version."""
    from era.cli.version import run

    return run(common)


@app.command
def deploy(
    *,
    yes: Switch = False,
    keep: Switch = False,
    clean: Switch = False,
    skip_build: Switch = False,
    dry_run: Switch = False,
) -> int:
    """Build the image and deploy it with the Worker to Cloudflare, in a source tree.

    Parameters
    ----------
    yes
        Ask nothing.
    keep
        Leave the generated Docker files.
    clean
        Remove the generated Docker files, without asking.
    skip_build
        Do not build the image here first.
    dry_run
        Print the commands and run none of them.
    """
    from era.cli.docker import deploy as run

    return run(yes=yes, keep=keep, clean=clean, skip_build=skip_build, dry_run=dry_run)


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
    if _rest and "rest" not in ignored:
        raise UsageError("only a program takes arguments after --")
    common = Common(log_level=log_level, log_file=log_file, json=json)
    injected: dict[str, Any] = {"common": common, "rest": _rest}
    wanted = {name: value for name, value in injected.items() if name in ignored}
    return int(command(*bound.args, **bound.kwargs, **wanted) or 0)


def _default_command() -> tuple[str, ...]:
    """Without a command: the server where the operator says so, else the help."""
    from era.environment import serves_by_default

    return ("serve",) if serves_by_default() else ("--help",)


_rest: tuple[str, ...] = ()
"""What stood after `--`: never read as flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    global _rest
    tokens = list(sys.argv[1:] if argv is None else argv)
    end = tokens.index("--") if "--" in tokens else len(tokens)
    tokens, _rest = tokens[:end], tuple(tokens[end + 1 :])
    tokens = [STANDARD_INPUT if word == "-" else word for word in tokens]
    as_json = "--json" in tokens
    try:
        return _run(tokens)
    except (CycloptsError, UsageError) as error:
        print_usage_error(str(error), as_json=as_json)
        return WRONG_USAGE
    except EraError as error:
        print_error(error, as_json=as_json)
        return REFUSED
    except ModuleNotFoundError as error:
        if (error.name or "era").partition(".")[0] == "era":
            raise
        note(
            f"{error.name} is not installed\n"
            "  The server needs more than its clients: pip install 'era[server]'"
        )
        return CANNOT_START
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(tokens: list[str]) -> int:
    if tokens[:1] == ["help"]:
        tokens = [*tokens[1:], "--help"]
    if tokens[:1] in (["--version"], ["-V"]):
        tokens = ["version", *tokens[1:]]
    result = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return result if isinstance(result, int) else 0
