"""Setups: checking what is asked for, and the installers that bring it, as argument lists."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from era import jsontext, layout
from era.errors import InputError
from era.languages import entries, environment, scripts
from era.languages.table import Tools
from era.models import JsonText, SetupSpec

MAX_PACKAGES: Final = 256
MAX_COMMANDS: Final = 64
MAX_COMMAND_BYTES: Final = 16 << 10

INSTALLER_CACHE: Final = f"{layout.TMP}/.era-setup"
"""Where installers keep what they fetched: not part of the layer."""
LEFT_OUT: Final = (
    "tmp/.era-setup",
    "tmp/.era-go",
    "tmp/node-compile-cache",
    "home/.cache/go-build",
    "home/.cache/pip",
    "home/.cache/uv",
    "home/.cache/deno",
    "home/.config/go/telemetry",
    "home/.npm/_cacache",
    "home/.npm/_logs",
    "home/.npm/_npx",
    "home/go/pkg/mod/cache",
    "node/node_modules/.cache",
)
"""Installers' caches, relative to the layer's root: not kept."""
LAYER_GO_CACHE: Final = "go/cache"
"""Below the layer's root: compiled modules, for runs to see over the shared build cache."""

_REQUIREMENTS: Final = "python/requirements.txt"
_ERRORS: Final = MappingProxyType(
    {
        "pip": "Pip install failed",
        "npm": "npm install failed",
        "go": "Go module install failed",
        "commands": "Custom command failed",
    }
)
_MASK: Final = "***"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """Where packages come from; None is the ecosystem's own default.

    `env` is for the installers only, such as the paths of certificates inside the box.
    """

    pip_index_url: str | None = None
    npm_registry: str | None = None
    goproxy: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a setup: `files` (path below the layer's root to content) come first, then `argv`.

    `env` is the base for `environment.build` with the setup's own variables; `error` is the text of
    the result when it fails, `command` the shell command it is, if it is one.
    """

    kind: str
    label: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    error: str
    cwd: str = layout.WORKSPACE
    files: Mapping[str, bytes] = field(default_factory=dict)
    command: str | None = None
    uses_go_cache: bool = False


# --- what is asked for ------------------------------------------------------------------------


def parse_setup(obj: Mapping[str, Any]) -> tuple[SetupSpec, tuple[str, ...]]:
    """A setup request, checked, and the names of the members that were ignored.

    Raises:
        InputError: `invalid_setup` naming the entry and the rule; `conflicting_fields`.
    """
    given = {name: value for name, value in obj.items() if value is not None}
    ignored = [name for name in given if name not in _MEMBERS]
    pip, pip_form = _packages(given, "pip", "requirements", ignored)
    npm, npm_form = _packages(given, "npm", "packageJson", ignored)
    go, go_form = _packages(given, "go", "goMod", ignored)
    spec = SetupSpec(
        pip=tuple(entry.strip() for entry in pip),
        requirements=None if pip_form is None else _requirements(pip_form),
        npm=npm,
        package_json=None if npm_form is None else _package_json(npm_form),
        go=go,
        go_mod=None if go_form is None else _go_mod(go_form),
        commands=_commands(given.get("commands", [])),
        envs=_envs(given),
        request=_request(given),
    )
    return spec, tuple(ignored)


_MEMBERS: Final = ("pip", "npm", "go", "commands", "envs", "env")
_PROBLEMS: Final[Mapping[str, Callable[[str], str | None]]] = MappingProxyType(
    {"pip": entries.pip_problem, "npm": entries.npm_problem, "go": entries.go_problem}
)


def _refuse(entry: str, rule: str) -> InputError:
    return InputError("invalid_setup", f"invalid setup: {entry} {rule}")


def _packages(
    given: Mapping[str, Any], kind: str, form: str, ignored: list[str]
) -> tuple[tuple[str, ...], Any]:
    """The package strings of `kind`, or the content of its object form."""
    value = given.get(kind)
    if value is None:
        return (), None
    if isinstance(value, Mapping):
        ignored += [f"{kind}.{name}" for name in value if name != form]
        return (), value.get(form)
    if not isinstance(value, list):
        raise _refuse(kind, f"must be an array of strings or an object with {form}")
    if len(value) > MAX_PACKAGES:
        raise _refuse(kind, f"must have at most {MAX_PACKAGES} entries")
    for index, entry in enumerate(value):
        if not isinstance(entry, str):
            raise _refuse(f"{kind}[{index}]", "must be a string")
        rule = _PROBLEMS[kind](entry)
        if rule is not None:
            raise _refuse(f"{kind}[{index}] {_shown(entry)}", rule)
    return tuple(value), None


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refuse(name, "must be a string")
    if len(value.encode(errors="surrogatepass")) > entries.MAX_TEXT_BYTES:
        raise _refuse(name, f"must have at most {entries.MAX_TEXT_BYTES} bytes")
    return value


def _requirements(value: Any) -> str:
    lines, problem = entries.requirements(_text("pip.requirements", value))
    if problem is not None:
        raise _refuse("pip.requirements", problem)
    return "".join(f"{line}\n" for line in lines)


def _package_json(value: Any) -> str:
    manifest = value
    if isinstance(value, str):
        try:
            manifest = jsontext.loads(_text("npm.packageJson", value))
        except jsontext.JsonTextError as error:
            raise _refuse("npm.packageJson", f"must be JSON: {error}") from None
    if not isinstance(manifest, Mapping):
        raise _refuse("npm.packageJson", "must be a JSON object")
    problem = entries.package_json_problem(manifest)
    if problem is not None:
        raise _refuse("npm.packageJson", problem)
    return _text("npm.packageJson", jsontext.dumps(dict(manifest)))


def _go_mod(value: Any) -> str:
    text = _text("go.goMod", value)
    problem = entries.go_mod_problem(text)
    if problem is not None:
        raise _refuse("go.goMod", problem)
    return text


def _commands(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _refuse("commands", "must be an array of strings")
    if len(value) > MAX_COMMANDS:
        raise _refuse("commands", f"must have at most {MAX_COMMANDS} entries")
    for index, command in enumerate(value):
        problem = _command_problem(command)
        if problem is not None:
            raise _refuse(f"commands[{index}]", problem)
    return tuple(value)


def _command_problem(command: Any) -> str | None:
    if not isinstance(command, str):
        return "must be a string"
    if not command.strip():
        return "must not be empty"
    try:
        size = len(command.encode())
    except UnicodeEncodeError:
        return "must be valid Unicode"
    if "\0" in command:
        return "must not hold NUL"
    return f"must have at most {MAX_COMMAND_BYTES} bytes" if size > MAX_COMMAND_BYTES else None


def _envs(given: Mapping[str, Any]) -> dict[str, str]:
    values = [given[name] for name in ("envs", "env") if name in given]
    if len(values) == 2 and values[0] != values[1]:
        raise InputError("conflicting_fields", "setup.envs and setup.env differ")
    value = values[0] if values else {}
    problem = environment.problem(value)
    if problem is not None:
        raise _refuse("envs", f"must be {problem}")
    return dict(value)


def _request(given: Mapping[str, Any]) -> JsonText:
    shown = {name: value for name, value in given.items() if name in _MEMBERS}
    for name in ("envs", "env"):
        if name in shown:
            shown[name] = dict.fromkeys(shown[name], _MASK)
    return jsontext.dumps(shown)


# --- how it is done ---------------------------------------------------------------------------


def steps(spec: SetupSpec, tools: Tools, mirrors: Mirrors) -> tuple[Step, ...]:
    """The steps of a setup in their order: pip, npm, go, then each command."""
    env = _environment(mirrors)
    found = [
        _pip_step(spec, tools, mirrors, env),
        _npm_step(spec, tools, mirrors, env),
        _go_step(spec, tools, env),
    ]
    commands = [
        Step(
            kind="commands",
            label=command,
            argv=(tools.bash, "-c", command),
            env=env,
            error=_ERRORS["commands"],
            command=command,
            uses_go_cache=True,
        )
        for command in spec.commands
    ]
    return (*(step for step in found if step is not None), *commands)


def _environment(mirrors: Mirrors) -> dict[str, str]:
    """What every step finds: as a run, but online, and with caches where they are left out.

    Commands find the mirrors here; package steps are told them as options too.
    """
    env = environment.base(has_layer=True)
    del env["GOPROXY"], env["GOSUMDB"]
    online = {
        "NO_COLOR": "1",
        "UV_CACHE_DIR": f"{INSTALLER_CACHE}/uv",
        "PIP_CACHE_DIR": f"{INSTALLER_CACHE}/pip",
        "npm_config_cache": f"{INSTALLER_CACHE}/npm",
        "npm_config_update_notifier": "false",
        "NODE_DISABLE_COMPILE_CACHE": "1",
        "GOCACHE": environment.GO_CACHE,
        "GOBIN": f"{environment.LAYER_GO}/bin",
        "GOFLAGS": "-modcacherw",
        **environment.CERTIFICATES,
    }
    if mirrors.pip_index_url:
        online |= {
            "UV_DEFAULT_INDEX": mirrors.pip_index_url,
            "PIP_INDEX_URL": mirrors.pip_index_url,
        }
    if mirrors.npm_registry:
        online |= {"npm_config_registry": mirrors.npm_registry}
    if mirrors.goproxy:
        # A mirror answers for the checksums too, or has no way to: the operator vouches for it.
        online |= {"GOPROXY": mirrors.goproxy, "GOSUMDB": "off"}
    return {**env, **online, **mirrors.env}


def _pip_step(
    spec: SetupSpec, tools: Tools, mirrors: Mirrors, env: Mapping[str, str]
) -> Step | None:
    if not spec.pip and not spec.requirements:
        return None
    files = {}
    wanted: tuple[str, ...] = ("--", *spec.pip)
    if spec.requirements:
        files[_REQUIREMENTS] = spec.requirements.encode()
        wanted = ("--requirements", f"{layout.LAYER}/{_REQUIREMENTS}")
    index = ("--default-index", mirrors.pip_index_url) if mirrors.pip_index_url else ()
    return Step(
        kind="pip",
        label="pip install",
        argv=(
            *(tools.uv, "--no-config", "--no-progress", "--cache-dir", f"{INSTALLER_CACHE}/uv"),
            *("pip", "install", "--python", tools.python, "--no-python-downloads"),
            *("--target", environment.LAYER_PYTHON, "--link-mode", "copy", "--compile-bytecode"),
            *index,
            *wanted,
        ),
        env=env,
        error=_ERRORS["pip"],
        cwd=layout.TMP,
        files=files,
    )


def _npm_step(
    spec: SetupSpec, tools: Tools, mirrors: Mirrors, env: Mapping[str, str]
) -> Step | None:
    if not spec.npm and not spec.package_json:
        return None
    registry = ("--registry", mirrors.npm_registry) if mirrors.npm_registry else ()
    return Step(
        kind="npm",
        label="npm install",
        argv=(
            *(tools.node, tools.npm, "install", "--prefix", f"{layout.LAYER}/node"),
            *("--cache", f"{INSTALLER_CACHE}/npm"),
            *("--no-audit", "--no-fund", "--no-update-notifier"),
            *("--loglevel", "http", "--foreground-scripts", "--no-progress"),
            *registry,
            "--",
            *spec.npm,
        ),
        env=env,
        error=_ERRORS["npm"],
        cwd=layout.TMP,
        files={"node/package.json": (spec.package_json or "{}").encode()},
    )


def _go_step(spec: SetupSpec, tools: Tools, env: Mapping[str, str]) -> Step | None:
    if not spec.go and not spec.go_mod:
        return None
    mode = "download" if spec.go_mod else "get"
    release = ".".join(tools.versions.get("go", "1.22").split(".")[:2])
    mod = spec.go_mod or f"module session\n\ngo {release}\n"
    builds = f"{layout.LAYER}/{LAYER_GO_CACHE}"
    parameters = (tools.go, mode, environment.LAYER_GO_MODULES, builds, f"{INSTALLER_CACHE}/go")
    return Step(
        kind="go",
        label="go get",
        argv=(tools.bash, "-c", scripts.GO_SETUP, "go", *parameters, *spec.go),
        env=env,
        error=_ERRORS["go"],
        cwd=environment.LAYER_GO,
        files={"go/go.mod": mod.encode()},
        uses_go_cache=True,
    )


_RUNTIME_OF: Final = MappingProxyType({"pip": "python", "npm": "node", "go": "go"})


def recipe_key(spec: SetupSpec, tools: Tools, envs_digest: str | None) -> str | None:
    """What identical package steps share: 64 hex digits, or None when there are no such steps.

    It covers the packages as asked (in any order), the variables and the runtimes they are for; not
    the commands, which run anew for each session.
    """
    asked = {
        "pip": sorted(set(spec.pip)),
        "requirements": spec.requirements,
        "npm": sorted(set(spec.npm)),
        "packageJson": spec.package_json,
        "go": sorted(set(spec.go)),
        "goMod": spec.go_mod,
    }
    used = {kind for kind, there in _kinds(spec).items() if there}
    if not used:
        return None
    recipe = {
        "asked": asked,
        "envs": envs_digest if spec.envs else None,
        "runtimes": {kind: tools.versions.get(_RUNTIME_OF[kind], "") for kind in sorted(used)},
        "platform": tools.platform,
        "steps": 1,
    }
    return hashlib.sha256(jsontext.dumps(recipe).encode()).hexdigest()


def _kinds(spec: SetupSpec) -> dict[str, bool]:
    return {
        "pip": bool(spec.pip or spec.requirements),
        "npm": bool(spec.npm or spec.package_json),
        "go": bool(spec.go or spec.go_mod),
    }
