"""Which hosts the `registries` policy allows on this server: asked of the installers themselves."""

from __future__ import annotations

import os

from era.assemble import mirrors
from era.config import Settings
from era.egress.hosts import Installers, RegistryHosts, registry_hosts
from era.languages.table import Tools
from era.runtimes import Runtimes


def find(settings: Settings, runtimes: Runtimes) -> RegistryHosts:
    """The allow-list.  Blocks for about half a second: each installer is started once."""
    return registry_hosts(
        _installers(runtimes),
        mirrors=mirrors.hosts(settings),
        extra=settings.deno_import_hosts,
    )


def _installers(runtimes: Runtimes) -> Installers:
    tools = runtimes.tools
    node = _on_host(runtimes, tools.node)
    npm = _on_host(runtimes, tools.npm)
    return Installers(
        python=(runtimes.helper_python,),
        uv=_alone(runtimes, tools, "uv"),
        npm=(node, npm) if node and npm else (),
        go=_alone(runtimes, tools, "go"),
        deno=_alone(runtimes, tools, "deno"),
    )


def _alone(runtimes: Runtimes, tools: Tools, name: str) -> tuple[str, ...]:
    path = _on_host(runtimes, str(getattr(tools, name)))
    return (path,) if path else ()


def _on_host(runtimes: Runtimes, path: str) -> str | None:
    """Where the host has what boxes see at `path`; links mean what they mean in a box."""
    for bind in sorted(runtimes.image.binds, key=lambda bind: len(bind.target), reverse=True):
        if path != bind.target and not path.startswith(bind.target + "/"):
            continue
        found = bind.source + path[len(bind.target) :]
        if os.path.islink(found) and os.path.isabs(os.readlink(found)):
            return _on_host(runtimes, os.readlink(found))
        return found if os.path.exists(found) else None
    return None
