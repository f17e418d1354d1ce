"""What boxes run on: finds the runtimes of this host and composes the root that boxes see.

Nothing of the service itself is in it: the interpreter of boxes is chosen apart from the one the
service runs on, and the Python packages of the host are covered.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from era import layout
from era.errors import UnavailableError
from era.languages.table import Tools
from era.runtimes import programs, root
from era.runtimes.pythons import MIN_PYTHON, Python, find_pythons, python_below
from era.runtimes.wheels import find_wheels
from era.sandbox.base import RootImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtimes:
    """What was found: the root of boxes, the tools in it, and a host interpreter for helpers.

    `notes` says in words which interpreters there are, the one chosen first, for `era doctor`.
    """

    image: RootImage
    tools: Tools
    helper_python: str
    notes: tuple[str, ...] = ()


def discover(
    directory: str,
    *,
    path: str = "/usr/local/bin:/usr/bin:/bin",
    runtime_root: str | None = None,
    ca_bundle: str | None = None,
) -> Runtimes:
    """Find the runtimes and compose the root of boxes.

    `directory` is the caller's own: small things that boxes see are made in it and must stay while
    the image is used.  `path` is searched for interpreters.  `runtime_root` is a directory shown as
    the system instead of the host's own, `ca_bundle` a file of certificates instead of the host's.

    Raises:
        UnavailableError: `isolation_unavailable`, when there is no Python for helpers and boxes.
    """
    pythons = find_pythons(path)
    if not pythons:
        needed = ".".join(map(str, MIN_PYTHON))
        raise UnavailableError(message=f"no Python {needed} or later was found for the boxes")
    empty = os.path.join(directory, "empty")
    os.makedirs(empty, mode=0o755, exist_ok=True)
    draft = root.Draft()
    python = _system(draft, pythons[0], runtime_root, empty)
    wheels = find_wheels()
    draft.binds += wheels.binds
    tools = Tools(
        python=python.executable,
        platform=os.uname().machine,
        versions={"python": python.release, **wheels.versions},
        missing={name: why for name, why in wheels.missing.items() if name != "uv"},
    )
    shown = os.path.join(directory, "bin")
    programs.write(shown, tools, wheels.links)
    draft.bind(shown, layout.BIN)
    root.add_certificates(draft, ca_bundle)
    return Runtimes(
        image=draft.image(),
        tools=tools,
        helper_python=pythons[0].executable,
        notes=tuple(f"Python {p.release}: {p.executable}, {p.seconds:.3f} s" for p in pythons),
    )


def _system(draft: root.Draft, best: Python, runtime_root: str | None, empty: str) -> Python:
    """Adds /usr and the like; gives the interpreter as boxes see it."""
    if runtime_root is None:
        return root.add_host_system(draft, best, empty)
    top = os.path.realpath(runtime_root)
    root.add_given_system(draft, top)
    return python_below(top) or root.add_python(draft, best, empty)
