"""The directory of programs that boxes find first: links to the tools, and a few wrappers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from era.languages.environment import LAYER_PYTHON
from era.languages.table import Tools


def write(directory: str, tools: Tools, links: Mapping[str, str]) -> None:
    """Make `directory` hold exactly the programs of boxes; `links` are further names and targets."""
    os.makedirs(directory, mode=0o755, exist_ok=True)
    wanted = {"python": tools.python, "python3": tools.python, **links}
    scripts = _wrappers(tools, links)
    for name in os.listdir(directory):
        if name not in wanted and name not in scripts:
            os.unlink(os.path.join(directory, name))
    for name, target in wanted.items():
        _link(os.path.join(directory, name), target)
    for name, text in scripts.items():
        _script(os.path.join(directory, name), text)


def _wrappers(tools: Tools, links: Mapping[str, str]) -> dict[str, str]:
    scripts = {}
    if "node" in links:
        scripts["tsrun"] = f'#!/bin/sh\nexec {tools.node} --require {tools.typescript} "$@"\n'
    if "uv" in links:
        scripts["pip"] = scripts["pip3"] = _pip(tools)
    return scripts


def _pip(tools: Tools) -> str:
    """pip's name for those who type it: packages go where a setup keeps them."""
    python = f"--python {tools.python}"
    return (
        "#!/bin/sh\n"
        "command=${1:-help}\n"
        "[ $# = 0 ] || shift\n"
        "case $command in\n"
        f"-V|--version) exec {tools.uv} --version ;;\n"
        f"install) exec {tools.uv} pip install --target {LAYER_PYTHON} {python} "
        '--link-mode copy "$@" ;;\n'
        f"list|freeze|show|uninstall) exec {tools.uv} pip $command --target {LAYER_PYTHON} "
        f'{python} "$@" ;;\n'
        f'*) exec {tools.uv} pip "$command" "$@" ;;\n'
        "esac\n"
    )


def _link(path: str, target: str) -> None:
    if os.path.islink(path) and os.readlink(path) == target:
        return
    with suppress(FileNotFoundError):
        os.unlink(path)
    os.symlink(target, path)


def _script(path: str, text: str) -> None:
    """A program file, replaced in one step so that a box that looks at it sees a whole one."""
    draft = f"{path}.new"
    with open(draft, "w") as file:
        file.write(text)
    os.chmod(draft, 0o755)  # noqa: S103 - programs are for every user of a box
    os.replace(draft, path)
