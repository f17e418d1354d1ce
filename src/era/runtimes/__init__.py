"""What boxes run on: finds the runtimes of this host and composes the root that boxes see.

Nothing of the service itself is in it: the interpreter of boxes is chosen apart from the one the
service runs on, and the Python packages of the host are covered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from era import layout
from era.errors import UnavailableError
from era.languages.table import Tools
from era.runtimes import programs, root
from era.runtimes.packages import Packages, lay_out
from era.runtimes.pythons import MIN_PYTHON, Python, find_pythons, python_below
from era.runtimes.wheels import find_wheels
from era.sandbox.base import RootImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtimes:
    """What was found: the root of boxes, the tools in it, and a host interpreter for helpers.

    `notes` says in words which interpreters there are, the one chosen first, for `era doctor`;
    `packages` which Python packages boxes are given, `no_packages` why they are not.
    """

    image: RootImage
    tools: Tools
    helper_python: str
    notes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    no_packages: str | None = None


def discover(
    directory: str,
    *,
    path: str = "/usr/local/bin:/usr/bin:/bin",
    runtime_root: str | None = None,
    ca_bundle: str | None = None,
    packages: Sequence[str] = (),
) -> Runtimes:
    """Find the runtimes and compose the root of boxes.

    `directory` is the caller's own: small things that boxes see are made in it and must stay while
    the image is used.  `path` is searched for interpreters.  `runtime_root` is a directory shown as
    the system instead of the host's own, `ca_bundle` a file of certificates instead of the host's.
    `packages` are distributions of the service's own environment that every box gets.

    Raises:
        UnavailableError: `isolation_unavailable`, when there is no Python for helpers and boxes.
    """
    pythons = find_pythons(path)
    if not pythons:
        needed = ".".join(map(str, MIN_PYTHON))
        raise UnavailableError(message=f"no Python {needed} or later was found for the boxes")
    if packages:
        pythons.sort(key=_fits_no_packages)
    empty = os.path.join(directory, "empty")
    os.makedirs(empty, mode=0o755, exist_ok=True)
    draft = root.Draft()
    python = _system(draft, pythons[0], runtime_root, empty)
    places = root.package_directories(pythons[0], python)
    reason = _no_packages(pythons[0], runtime_root, places) if packages else None
    given: Packages | None = None
    if packages and reason is None:
        given = lay_out(os.path.join(directory, "packages"), packages)
        draft.bind(given.directory, places[-1])
    wheels = find_wheels()
    draft.binds += wheels.binds
    tools = Tools(
        python=python.executable,
        platform=os.uname().machine,
        packages=given.modules if given else (),
        packages_ahead=given.ahead if given else (),
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
        packages=given.notes if given else (),
        no_packages=reason,
    )


def _fits_no_packages(python: Python) -> bool:
    """Whether compiled packages of the service's environment are not for `python`, or it is one that
    boxes may not be able to start."""
    stuck = python.shared and not python.is_system
    return stuck or python.version[:2] != sys.version_info[:2]


def _no_packages(python: Python, runtime_root: str | None, places: Sequence[str]) -> str | None:
    """Why boxes cannot be given packages of the service's environment."""
    if runtime_root is not None:
        return "boxes have the root of ERA_RUNTIME_ROOT, which brings its own packages"
    ours = ".".join(map(str, sys.version_info[:2]))
    theirs = ".".join(map(str, python.version[:2]))
    if ours != theirs:
        return f"they are for Python {ours}, and boxes have Python {theirs}"
    return None if places else "the Python of boxes has no directory for packages"


def _system(draft: root.Draft, best: Python, runtime_root: str | None, empty: str) -> Python:
    """Adds /usr and the like; gives the interpreter as boxes see it."""
    if runtime_root is None:
        return root.add_host_system(draft, best, empty)
    top = os.path.realpath(runtime_root)
    root.add_given_system(draft, top)
    return python_below(top) or root.add_python(draft, best, empty)
