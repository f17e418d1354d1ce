"""`era session create` and `setup`: sessions with what they need."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from era.cli import progress
from era.cli.common import (
    HERE,
    Injected,
    Repeated,
    Server,
    Switch,
    UsageError,
    json_value,
    text_of,
    variables,
)
from era.cli.common import session_path as path
from era.cli.output import note, print_answer, print_json

if TYPE_CHECKING:
    from era.client import Session

SETUP_FAILED: Final = 1


def create(
    *,
    language: str,
    id: str | None = None,
    persistent: bool = True,
    data: str | None = None,
    metadata: str | None = None,
    pip: Repeated = None,
    requirements: str | None = None,
    npm: Repeated = None,
    package_json: str | None = None,
    go: Repeated = None,
    go_mod: str | None = None,
    setup_command: Repeated = None,
    setup_env: Repeated = None,
    allow_internet: Switch = False,
    public: Switch = False,
    default_timeout: float | None = None,
    cpu: int | None = None,
    mem: int | None = None,
    wait: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Make a session and print its id.

    Parameters
    ----------
    language
        python, node, typescript, go or deno.
    id
        Its id; made up by the server if not given.
    persistent
        Whether runs keep the files they leave.
    data
        JSON that the code finds in .session_data.json.
    metadata
        JSON object that is kept with it.
    pip
        Python package to install; may be given more than once.
    requirements
        A requirements file instead.
    npm
        Node package to install; may be given more than once.
    package_json
        A package.json instead.
    go
        Go module to install; may be given more than once.
    go_mod
        A go.mod instead.
    setup_command
        Shell command after the installations; may be given more than once.
    setup_env
        NAME=value for the setup; may be given more than once.
    allow_internet
        Let its runs reach public addresses.
    public
        Let everyone reach a server in it.
    default_timeout
        Seconds that its runs may take.
    cpu
        CPUs of its runs.
    mem
        Memory of its runs in MiB.
    wait
        Wait for the setup; exit 1 if it fails.
    """
    setup = _setup_body(
        pip=pip or (),
        requirements=_file(requirements),
        npm=npm or (),
        package_json=_file(package_json),
        go=go or (),
        go_mod=_file(go_mod),
        commands=setup_command or (),
        env=variables(setup_env, "--setup-env") or {},
    )
    body = {
        "language": language,
        "id": id,
        "persistent": persistent,
        "data": json_value(data, "--data"),
        "metadata": json_value(metadata, "--metadata"),
        "setup": setup or None,
        "allowInternetAccess": allow_internet or None,
        "allowPublicAccess": public or None,
        "default_timeout": default_timeout,
        "cpu_count": cpu,
        "memory_mib": mem,
    }
    body = {name: value for name, value in body.items() if value is not None}
    made, well = _made(server, body, wait=wait)
    if common.json:
        print_json(made)
    else:
        for warning in made.get("warnings", ()):
            note(warning)
        print(made["id"])
    return 0 if well else SETUP_FAILED


def _setup_body(**wanted: Any) -> dict[str, Any]:
    """The members of a `Setup` as a request has them."""
    from era.client import Setup

    try:
        return Setup(**wanted).body()
    except ValueError as error:
        raise UsageError(str(error)) from None


def _made(server: Server, body: dict[str, Any], *, wait: bool) -> tuple[Any, bool]:
    """The new session, and whether its setup went well as far as it was waited for."""
    with server.open() as era:
        made = era.request("POST", "/api/sessions", body)
        if not wait or "setup_status" not in made:
            return made, True
        well = _wait(era.session(made["id"]))
        return era.request("GET", path(made["id"])), well


def _file(name: str | None) -> str | None:
    return None if name is None else text_of(name)


def _wait(waited: Session) -> bool:
    """Wait for a setup and show how far it is; whether it went well."""
    from era.client import SetupFailedError

    try:
        if sys.stderr.isatty():
            from rich.console import Console

            with progress.live(Console(stderr=True)) as show:
                waited.wait_for_setup(show)
        else:
            waited.wait_for_setup(progress.lines(note))
    except SetupFailedError as error:
        note(f"setup failed: {error.text}")
        for words in error.__notes__ if hasattr(error, "__notes__") else ():
            print(words, file=sys.stderr)
        return False
    return True


def setup(
    session_id: str,
    /,
    *,
    wait: Switch = False,
    retry: Switch = False,
    server: Server = HERE,
    common: Injected,
) -> int:
    """Show how the setup of a session stands; exit 1 if it failed.

    Parameters
    ----------
    session_id
        Its id.
    wait
        Wait until it is finished.
    retry
        Run it again first.
    """
    with server.open() as era:
        if retry:
            era.session(session_id).retry_setup()
        if wait:
            _wait(era.session(session_id))
        answer = era.request("GET", path(session_id, "/setup"))
    print_answer(answer, as_json=common.json)
    return SETUP_FAILED if answer["setup_status"] == "failed" else 0
