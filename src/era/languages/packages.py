"""The installers that bring the packages of a setup, as argument lists.

Two ways lead to the same packages.  By the direct one no code of a package runs, so an installer may
write into the layer itself; it gives up where a package wants to run something.  By the other one
packages build and run what they like, in scratch space of their box.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from era import jsontext, layout
from era.languages import environment, scripts
from era.languages.mirrors import Mirrors
from era.languages.table import Launch, Tools
from era.models import SetupSpec

INSTALLER_CACHE: Final = f"{layout.TMP}/.era-setup"
"""Where installers that commands start keep what they fetched: not part of the layer."""
LAYER_CACHE: Final = ".era-cache"
"""Below the layer's root: where the steps keep what they fetched, on one file system with what they
install, so that uv links files instead of copying them.  Not part of the layer either."""
LEFT_OUT: Final = (
    LAYER_CACHE,
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
NPM_CODE: Final = f"{layout.CACHE}/npm"
"""Where npm finds itself compiled."""
NODE_LOCK: Final = "node/node_modules/.package-lock.json"
"""Below the layer's root: what npm has installed."""

_REQUIREMENTS: Final = "python/requirements.txt"
_ERRORS: Final = MappingProxyType(
    {
        "pip": "Pip install failed",
        "npm": "npm install failed",
        "go": "Go module install failed",
        "commands": "Custom command failed",
    }
)


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


def steps(
    spec: SetupSpec, tools: Tools, mirrors: Mirrors, *, direct: bool = False
) -> tuple[Step, ...]:
    """The steps of a setup in their order: pip, npm, go, then each command.

    With `direct` the package steps run no code of a package, and fail where they would have to.
    They alone are given the credentials of mirrors.
    """
    public = mirrors.public()
    env = _environment(mirrors if direct else public)
    files = _files(mirrors if direct else public)
    found = [
        _pip_step(
            *(spec, tools, mirrors if direct else public, env),
            direct=direct,
            fetched=not direct and bool(mirrors.secrets),
        ),
        _npm_step(spec, tools, mirrors if direct else public, env, direct=direct),
        _go_step(spec, tools, env),
    ]
    env = _environment(public)
    commands = [
        Step(
            kind="commands",
            label=command,
            argv=(tools.bash, "-c", command),
            env=env,
            error=_ERRORS["commands"],
            files=_files(public) if index == 0 else {},
            command=command,
            uses_go_cache=True,
        )
        for index, command in enumerate(spec.commands)
    ]
    packages = (replace(step, files={**files, **step.files}) for step in found if step is not None)
    return (*packages, *commands)


def may_be_direct(spec: SetupSpec) -> bool:
    """Whether the package steps can be tried without running code of packages, or of whoever asks:
    variables may tell an installer to run something, and so may the scripts of a package.json."""
    manifest = jsontext.loads(spec.package_json) if spec.package_json else {}
    scripts_of = manifest.get("scripts") if isinstance(manifest, dict) else None
    return not (spec.envs or scripts_of or any("://" in entry for entry in spec.npm))


def wants_scripts(lock: bytes) -> bool:
    """Whether a package that npm has installed without its scripts has some; `lock` is the text of
    `NODE_LOCK`.  What cannot be understood counts as a yes."""
    try:
        found: Any = jsontext.loads(lock.decode())
        entries = found["packages"].values()
        return any(entry.get("hasInstallScript") for entry in entries)
    except (jsontext.JsonTextError, UnicodeDecodeError, KeyError, AttributeError, TypeError):
        return True


_NPMRC: Final = f"{LAYER_CACHE}/npmrc"
_CERTIFICATES: Final = f"{LAYER_CACHE}/certificates.pem"
_CERTIFICATE_NAMES: Final = (
    *("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE"),
    *("GIT_SSL_CAINFO", "DENO_CERT"),
)


def _files(mirrors: Mirrors) -> dict[str, bytes]:
    """Files that `_environment` speaks of."""
    files = {}
    if mirrors.npmrc:
        files[_NPMRC] = "".join(f"{line}\n" for line in mirrors.npmrc).encode()
    if mirrors.certificates:
        files[_CERTIFICATES] = mirrors.certificates
    return files


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
    if mirrors.pip_extra_index_urls:
        more = " ".join(mirrors.pip_extra_index_urls)
        # As pip does it: the newest of all indexes.
        online |= {"UV_INDEX": more, "UV_INDEX_STRATEGY": "unsafe-best-match"}
        online |= {"PIP_EXTRA_INDEX_URL": more}
    if mirrors.pip_trusted_hosts:
        trusted = " ".join(mirrors.pip_trusted_hosts)
        online |= {"UV_INSECURE_HOST": trusted, "PIP_TRUSTED_HOST": trusted}
    if mirrors.npm_registry:
        online |= {"npm_config_registry": mirrors.npm_registry}
    if mirrors.npmrc:
        online |= {"npm_config_userconfig": f"{layout.LAYER}/{_NPMRC}"}
    if mirrors.goproxy:
        online |= {"GOPROXY": mirrors.goproxy}
    online |= mirrors.go
    if mirrors.certificates:
        online |= dict.fromkeys(_CERTIFICATE_NAMES, f"{layout.LAYER}/{_CERTIFICATES}")
    return {**env, **online, **mirrors.env}


_UV_CACHE: Final = f"{layout.LAYER}/{LAYER_CACHE}/uv"
_NO_BUILDS: Final = f"{LAYER_CACHE}/no-builds"
_REFUSE_BUILDS: Final = b"""import sys
if sys.prefix != sys.base_prefix:
    import os
    os._exit(1)
"""
"""Python looks for `sitecustomize` before it runs anything.  uv builds packages in environments made
for that, so there the interpreter ends before a package has had a say, and uv with it.  uv's own
option for wheels alone would take an older version that has one instead."""


def _pip_step(
    spec: SetupSpec,
    tools: Tools,
    mirrors: Mirrors,
    env: Mapping[str, str],
    *,
    direct: bool,
    fetched: bool,
) -> Step | None:
    """With `fetched` what was fetched before, with credentials, is tried first: the indexes may give
    nothing without."""
    if not spec.pip and not spec.requirements:
        return None
    files = {}
    wanted: tuple[str, ...] = ("--", *spec.pip)
    if spec.requirements:
        files[_REQUIREMENTS] = spec.requirements.encode()
        wanted = ("--requirements", f"{layout.LAYER}/{_REQUIREMENTS}")
    if direct:
        files[f"{_NO_BUILDS}/sitecustomize.py"] = _REFUSE_BUILDS
        env = {**env, "PYTHONPATH": f"{layout.LAYER}/{_NO_BUILDS}"}
    index = ("--default-index", mirrors.pip_index_url) if mirrors.pip_index_url else ()
    return Step(
        kind="pip",
        label="pip install",
        argv=(
            *((tools.bash, "-c", scripts.OFFLINE_FIRST, "pip") if fetched else ()),
            *(tools.uv, "--no-config", "--no-progress", "--cache-dir", _UV_CACHE),
            *("pip", "install", "--python", tools.python, "--no-python-downloads"),
            *("--target", environment.LAYER_PYTHON, "--link-mode", "hardlink"),
            *index,
            *wanted,
        ),
        env=env,
        error=_ERRORS["pip"],
        cwd=layout.TMP,
        files=files,
    )


def _npm_step(
    spec: SetupSpec, tools: Tools, mirrors: Mirrors, env: Mapping[str, str], *, direct: bool
) -> Step | None:
    if not spec.npm and not spec.package_json:
        return None
    registry = ("--registry", mirrors.npm_registry) if mirrors.npm_registry else ()
    env = {name: value for name, value in env.items() if name != "NODE_DISABLE_COMPILE_CACHE"}
    # A package from a repository is prepared by its own scripts, so there is no git.
    scriptless = ("--ignore-scripts", "--git", "/bin/false") if direct else ()
    return Step(
        kind="npm",
        label="npm install",
        argv=(
            *(tools.node, tools.npm, "install", "--prefix", f"{layout.LAYER}/node"),
            *("--cache", f"{layout.LAYER}/{LAYER_CACHE}/npm", "--prefer-offline"),
            *("--no-audit", "--no-fund", "--no-update-notifier"),
            *("--loglevel", "http", "--foreground-scripts", "--no-progress"),
            *scriptless,
            *registry,
            "--",
            *spec.npm,
        ),
        env={**env, "NODE_COMPILE_CACHE": NPM_CODE},
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


def npm_sample(tools: Tools) -> Launch:
    """Has npm do, offline, what it does for any package, and leaves its code compiled in `NPM_CODE`."""
    argv = (tools.node, "-e", scripts.NPM_SAMPLE, tools.npm)
    env = environment.base(has_layer=False)
    env.pop("NODE_DISABLE_COMPILE_CACHE", None)
    return Launch(argv=argv, env={**env, "NODE_COMPILE_CACHE": NPM_CODE})


def python_facts(tools: Tools) -> Launch:
    """Has uv look at the interpreter, and writes what it notes of it for itself, as a tar."""
    argv = (tools.bash, "-c", scripts.PYTHON_FACTS, "facts", tools.uv, tools.python)
    return Launch(argv=argv, env=environment.base(has_layer=False))


def knowing(step: Step, facts: Mapping[str, bytes]) -> Step:
    """The pip step with `facts` (path in uv's cache to content), which spare uv to look; any other
    as it is."""
    if step.kind != "pip":
        return step
    files = {f"{LAYER_CACHE}/uv/{path}": content for path, content in facts.items()}
    return replace(step, files={**files, **step.files})


def compile_modules(into: str, *, tools: Tools) -> Launch:
    """Compiles the layer's Python modules, of which it runs nothing, into the directory `into`."""
    argv = (tools.bash, "-c", scripts.COMPILE_PYTHON, "compile", tools.python, layout.LAYER, into)
    env = environment.base(has_layer=False)
    del env["PYTHONDONTWRITEBYTECODE"]
    return Launch(argv=argv, env=env)
