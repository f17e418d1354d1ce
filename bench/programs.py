"""The programs that are run, and how the service starts them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from era import layout
from era.languages import environment
from era.languages.table import Launch, Tools, command_launch, launch
from era.runtimes import Runtimes
from era.sandbox.base import BoxSpec, Limits, Overlay, Program
from era.sessions.builds import Wanted, to_build

HELLO = {
    "python": "print('hello')\n",
    "node": "console.log('hello')\n",
    "typescript": "const word: string = 'hello'\nconsole.log(word)\n",
    "deno": "console.log('hello')\n",
    "go": 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n',
}
SHELL = "echo hello"
PANDAS = """import pandas as pd
frame = pd.DataFrame({"group": list("abcabc"), "value": [1, 2, 3, 4, 5, 6]})
print(frame.groupby("group")["value"].sum().to_dict())
"""


def code_of(language: str, number: int | None) -> str:
    """The hello program; with a `number` one that no cache has seen."""
    code = HELLO[language]
    return code if number is None else f"{code}// {number}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run as the service makes it: the box wanted, the files placed, the program."""

    spec: BoxSpec
    files: dict[str, bytes]
    program: Program
    build: Wanted | None = None
    """What has to be made first."""


def job(
    language: str, tools: Tools, limits: Limits, *, go_cache: str | None = None, code: str = ""
) -> Job:
    """A run of hello (or of `code`); `language` may also be `shell`."""
    if language == "shell":
        started = command_launch(SHELL, tools=tools)
    else:
        started = launch(
            language,
            code or HELLO[language],
            (),
            tools=tools,
            taken=lambda _name: False,
            has_layer=False,
        )
    env, _warnings = environment.build(started.env, {}, {}, has_layer=False)
    program = Program(argv=started.argv, env=env)
    return Job(
        spec=BoxSpec(
            limits=limits,
            interpreter=started.interpreter,
            overlays=_overlays(started, go_cache),
        ),
        files=dict(started.files),
        program=program,
        build=to_build(started, program, {}),
    )


def _overlays(started: Launch, go_cache: str | None) -> tuple[Overlay, ...]:
    """What the service lays over the image for this language (`sessions/snapshots.py`)."""
    if started.uses_deno_cache:
        return (Overlay(target=environment.DENO_CACHE),)
    if not started.uses_go_cache:
        return ()
    lowers = () if go_cache is None else (go_cache,)
    return (Overlay(target=environment.GO_CACHE, lowers=lowers),)


def without_interpreter(job: Job) -> Job:
    """The same run for a driver that is to have nothing ready."""
    return replace(job, spec=replace(job.spec, interpreter=""))


def on_host(runtimes: Runtimes, path: str) -> str:
    """Where the host has what boxes see at `path`."""
    for bind in runtimes.image.binds:
        if path == bind.target or path.startswith(bind.target + "/"):
            found = bind.source + path[len(bind.target) :]
            if os.path.islink(found):
                return on_host(runtimes, os.path.join(os.path.dirname(path), os.readlink(found)))
            return found
    return path


def tool_paths(runtimes: Runtimes) -> dict[str, str]:
    """The host's paths of the interpreters that boxes use."""
    tools = runtimes.tools
    links = {"python": tools.python, "node": tools.node, "deno": f"{layout.RUNTIMES}/deno/deno"}
    return {name: on_host(runtimes, path) for name, path in links.items()}
