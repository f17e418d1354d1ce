"""Setups as stored: the sealed specification, and the result that clients see."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from era import jsontext
from era.models import JsonText, SetupSpec
from era.sessions.seal import Seal

INTERRUPTED: Final = "Setup interrupted"
TIMED_OUT: Final = "Setup timed out"
TOO_LARGE: Final = "Setup too large"

_MEMBERS: Final = {
    "pip": "pip_packages",
    "npm": "npm_packages",
    "go": "go_modules",
    "commands": "commands_run",
}
"""Kind of a step: the member of the result that lists what was done."""

_REQUIRE: Final = re.compile(r"\s*(?:require\s+)?([^\s()]+\.[^\s()]+)\s+(v[^\s]+)(?!.*=>)")
_EXCLUDE: Final = re.compile(r"^exclude\s*\([^)]*\)", re.MULTILINE)


def sealed_spec(spec: SetupSpec, seal: Seal) -> JsonText:
    """`spec` as it is stored until the setup has finished; the variables only sealed."""
    envs = seal.seal(spec.envs) if spec.envs else ""
    return jsontext.dumps({**asdict(spec), "envs": envs})


def opened_spec(text: JsonText, seal: Seal) -> SetupSpec:
    """What `sealed_spec` stored.

    Raises:
        InternalError: the variables cannot be opened.
    """
    members: dict[str, Any] = jsontext.loads(text)
    for name in ("pip", "npm", "go", "commands"):
        members[name] = tuple(members[name])
    envs = seal.open(members["envs"]) if members["envs"] else {}
    return SetupSpec(**{**members, "envs": envs})


def without_envs(spec: SetupSpec, request: JsonText) -> SetupSpec:
    """A stored request again: its variables are erased, so they are left out."""
    members = jsontext.loads(request)
    for name in ("envs", "env"):
        members.pop(name, None)
    return replace(spec, envs={}, request=jsontext.dumps(members))


# --- results --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a setup failed: `error` is one of the fixed texts."""

    error: str
    step: str | None = None
    command: str | None = None
    exit_code: int | None = None


def result_text(
    *,
    duration_ms: int,
    cached: bool = False,
    done: Iterable[tuple[str, str]] = (),
    installed: Mapping[str, list[str]] | None = None,
    output: tuple[str, str] = ("", ""),
    failure: Failure | None = None,
) -> JsonText:
    """A `setup_result`.  `done` are pairs of a step's kind and one thing it was asked for,
    `installed` what the package steps have left, by kind."""
    result: dict[str, Any] = {
        "success": failure is None,
        "duration_ms": duration_ms,
        "cached": cached,
    }
    for kind, asked in done:
        result.setdefault(_MEMBERS[kind], []).append(asked)
    if installed:
        result["installed"] = dict(installed)
    for name, text in zip(("stdout", "stderr"), output, strict=True):
        if text or failure is not None:
            result[name] = text
    if failure is not None:
        result |= {name: value for name, value in asdict(failure).items() if value is not None}
    return jsontext.dumps(result)


def asked(spec: SetupSpec, kind: str) -> tuple[str, ...]:
    """What the package step of a kind was asked for, one entry a package."""
    if kind == "pip":
        return spec.pip or _requirements(spec.requirements or "")
    if kind == "npm":
        return spec.npm or _dependencies(spec.package_json or "{}")
    return spec.go or tuple("@".join(pair) for pair in modules(spec.go_mod or ""))


def _requirements(text: str) -> tuple[str, ...]:
    """The checked form has one requirement a line, followed by its hashes."""
    return tuple(line.split(" --")[0] for line in text.splitlines() if line)


def _dependencies(text: str) -> tuple[str, ...]:
    found = jsontext.loads(text)
    dependencies = found.get("dependencies") if isinstance(found, dict) else None
    if not isinstance(dependencies, dict):
        return ()
    return tuple(f"{name}@{version}" for name, version in dependencies.items())


def modules(go_mod: str) -> tuple[tuple[str, str], ...]:
    """Path and version of each module that the text of a go.mod requires."""
    matches = map(_REQUIRE.match, _EXCLUDE.sub("", go_mod).splitlines())
    return tuple((match[1], match[2]) for match in matches if match)
