"""The environment of a program: built from nothing, in a fixed order, with checked names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from era import layout
from era.errors import invalid_field

MAX_NAMES: Final = 256
MAX_VALUE_BYTES: Final = 128_000
"""Of one value; the kernel takes at most 131072 bytes for one `NAME=value`."""
MAX_TOTAL_BYTES: Final = 1 << 20

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS: Final = "ERA_"

LAYER_PYTHON: Final = f"{layout.LAYER}/python"
LAYER_GO: Final = f"{layout.LAYER}/go"
LAYER_GO_MODULES: Final = f"{LAYER_GO}/mod"
GO_CACHE: Final = f"{layout.CACHE}/go"
DENO_CACHE: Final = f"{layout.CACHE}/deno"
DENO_LOCK: Final = f"{DENO_CACHE}/era.lock"
"""Which versions were chosen for what deno's cache holds."""
CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"
"""The certificates that this server trusts, as boxes see them."""
CERTIFICATES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "SSL_CERT_FILE": CA_FILE,
        "NODE_EXTRA_CA_CERTS": CA_FILE,
        "DENO_TLS_CA_STORE": "mozilla,system",
        "REQUESTS_CA_BUNDLE": CA_FILE,
    }
)
"""For installers: they bring certificates of their own and would not look at the server's."""

GO_CONFIG: Final = f"{layout.RUNTIMES}/etc"
"""Where the go tool looks for settings of its own: it keeps no counters of its use there."""
_HEEDED: Final = re.compile(
    # What the runtime of every Go program heeds decides nothing about one that is being built.
    r"(?!(?:GOGC|GOMAXPROCS|GOMEMLIMIT|GOTRACEBACK)$)GO[A-Z0-9]+|CGO_[A-Z0-9_]+"
    r"|GO_EXTLINK_ENABLED|GCCGO|CC|CXX|FC|AR|PKG_CONFIG(?:_[A-Z_]+)?"
    r"|CPATH|(?:C|CPLUS|OBJC)_INCLUDE_PATH|LIBRARY_PATH"
)
_PLAIN: Final = frozenset(
    """
    CGO_ENABLED GOOS GOARCH GO386 GOAMD64 GOARM GOARM64 GOMIPS GOMIPS64 GOPPC64 GORISCV64 GOWASM
    GOEXPERIMENT GODEBUG GOFIPS140
    """.split()
)
"""Those that lead a build to no other file of the workspace."""

_PATH: Final = (layout.BIN, "/usr/bin", "/bin", "/usr/sbin", "/sbin")
_LAYER_PATH: Final = (
    f"{layout.LAYER}/bin",
    f"{LAYER_PYTHON}/bin",
    f"{layout.NODE_MODULES}/.bin",
    f"{LAYER_GO}/bin",
)

_BASE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "HOME": layout.HOME,
        "USER": "era",
        "LOGNAME": "era",
        "LANG": "C.UTF-8",
        "TMPDIR": layout.TMP,
        "TZ": "UTC",
        # Python: UTF-8 whatever the locale, output as it comes, nothing written beside sources,
        # nothing imported from HOME.
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        # Go: nothing is fetched but from the setup's modules; the settings are those the shared
        # build cache was made with.  Where the box has that cache, GOCACHE says so.
        "GOPROXY": "off",
        "GOSUMDB": "off",
        "GOTOOLCHAIN": "local",
        "GOENV": "off",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
        "DENO_DIR": DENO_CACHE,
        "DENO_NO_UPDATE_CHECK": "1",
        # Certificates are those of the box's /etc, as for Python and Go, not those built in.
        "DENO_TLS_CA_STORE": "system",
        "NODE_USE_SYSTEM_CA": "1",
    }
)
_LAYER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PYTHONPATH": LAYER_PYTHON,
        "GOMODCACHE": LAYER_GO_MODULES,
        "GOPROXY": f"file://{LAYER_GO_MODULES}/cache/download,off",
    }
)


def base(*, has_layer: bool) -> dict[str, str]:
    """What every program finds before the request's and the service's variables.

    It is the same for all languages: a Python program may start node, and a shell command anything.
    """
    path = (*_LAYER_PATH, *_PATH) if has_layer else _PATH
    return {"PATH": ":".join(path), **_BASE, **(_LAYER if has_layer else {})}


def _appended(env: Mapping[str, str], *, has_layer: bool) -> dict[str, str]:
    """The search paths that a request may lengthen and never hide: the service's part of each."""
    node = layout.NODE_MODULES if has_layer else ""
    return {
        "PATH": env.get("PATH", ""),
        "PYTHONPATH": env.get("PYTHONPATH", ""),
        "NODE_PATH": node,
    }


def build(
    base: Mapping[str, str],
    request_env: Mapping[str, str],
    service: Mapping[str, str],
    *,
    has_layer: bool,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The environment of a program, and a warning for each variable of the request that is ignored.

    Later wins: `base` (a `Launch.env`), the request's, the service's.
    """
    env = dict(base)
    warnings = []
    appended = _appended(base, has_layer=has_layer)
    for name, value in request_env.items():
        if name.startswith(_OURS) and name in service:
            warnings.append(f"env {name} is set by the service and was ignored")
        elif appended.get(name):
            env[name] = f"{value}:{appended[name]}" if value else appended[name]
        else:
            env[name] = value
    return {**env, **service}, tuple(warnings)


def of_build(base: Mapping[str, str], request_env: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a Go program is built.

    Of the request's variables only those that the go tool and C compilers heed are in it: nothing
    else can change what is built.  ERA_PLAIN tells that there are none.
    """
    heeded = _heeded(request_env)
    alone = {} if heeded else {"ERA_PLAIN": "1"}
    return {**base, "XDG_CONFIG_HOME": GO_CONFIG, **heeded, **alone}


def is_plain(request_env: Mapping[str, str]) -> bool:
    """Whether the request's variables lead a build to no other file of the workspace."""
    return _heeded(request_env).keys() <= _PLAIN


def _heeded(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if _HEEDED.fullmatch(name)}


def problem(env: Any) -> str | None:
    """Why `env` cannot be a request's variables, as what it must be; None when it can."""
    if not isinstance(env, Mapping):
        return "an object of strings"
    if len(env) > MAX_NAMES:
        return f"an object of at most {MAX_NAMES} names"
    total = 0
    for name, value in env.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            return "an object whose names match ^[A-Za-z_][A-Za-z0-9_]*$"
        if not isinstance(value, str):
            return "an object of strings"
        size = _size(value)
        if size is None:
            return "an object of strings without NUL, valid as Unicode"
        if size > MAX_VALUE_BYTES:
            return f"an object of strings of at most {MAX_VALUE_BYTES} bytes"
        total += len(name) + size
    return None if total <= MAX_TOTAL_BYTES else f"at most {MAX_TOTAL_BYTES} bytes in all"


def _size(value: str) -> int | None:
    """The bytes of `value`, or None when no environment can hold it."""
    try:
        return None if "\0" in value else len(value.encode())
    except UnicodeEncodeError:
        return None


def check_env(field: str, value: Any) -> dict[str, str]:
    """A request's variables, checked; `field` is how the message calls them.

    Raises:
        InputError: `invalid_field`.
    """
    expectation = problem(value)
    if expectation is not None:
        raise invalid_field(field, expectation)
    return dict(value)
